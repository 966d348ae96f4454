"""Waits for a condition with a deadline, the only waits of these tests, and processes that end with the tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from processhub.cluster.errors import ConnectionFailedError, UnavailableError

T = TypeVar("T")
# What an API server answers, or does not, while it restarts, has too much to do or has just been given a changed CRD:
# it answers some kinds later than others then. Waits ask again.
PASSING = (UnavailableError, ConnectionFailedError)
# Prefix of a command: a killed test session can't end the processes that it started.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")


def pauses() -> Iterator[float]:
    """Yield the seconds between two requests to the API server: a tenth of the time so far, from 0.02 to 0.1."""
    began = time.monotonic()
    while True:
        yield min(max((time.monotonic() - began) / 10, 0.02), 0.1)


async def eventually(look: Callable[[], Awaitable[T | None]], what: str, within: float = 40.0) -> T:
    """Return the first true result of ``look``; an empty list is not. Raise AssertionError after ``within`` seconds.

    Where the API server is not available, ``look`` is called again, too.
    """
    deadline = time.monotonic() + within
    pause = pauses()
    why = ""
    while True:
        try:
            if found := await look():
                return found
        except PASSING as error:
            why = f": {error.message}"
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}{why}"
        await asyncio.sleep(next(pause))


async def until(holds: Callable[[], T | None], what: str, within: float = 40.0) -> T:
    """Wait like ``eventually`` for a ``holds`` that answers at once, such as a look-up of the client."""
    deadline = time.monotonic() + within
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    """Return whether there is a process with this pid that is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def catches(pid: int, signum: int) -> bool:
    """Return whether the process has a handler for the signal yet."""
    try:
        with open(f"/proc/{pid}/status") as file:
            caught = next(line.split()[1] for line in file if line.startswith("SigCgt:"))
    except OSError:
        return False
    return bool(int(caught, 16) >> (signum - 1) & 1)
