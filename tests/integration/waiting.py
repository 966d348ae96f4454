"""Waiting for a condition with a deadline, the only way in which these tests wait; processes that end with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
# Before a command: a test session that is killed can't end what it started.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")


def pauses() -> Iterator[float]:
    """Seconds between two looks at the API server: a tenth of the time since the first, but from 0.02 to 0.1."""
    began = time.monotonic()
    while True:
        yield min(max((time.monotonic() - began) / 10, 0.02), 0.1)


async def eventually(look: Callable[[], Awaitable[T | None]], what: str, within: float = 40.0) -> T:
    """The first result of ``look`` that is true (an empty list is not); AssertionError after ``within`` seconds."""
    deadline = time.monotonic() + within
    pause = pauses()
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(next(pause))


async def until(holds: Callable[[], T | None], what: str, within: float = 40.0) -> T:
    """The same for a ``holds`` that is at hand at once, such as a look-up of the client."""
    deadline = time.monotonic() + within
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    """Whether a process of this pid is there and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def catches(pid: int, signum: int) -> bool:
    """Whether the process has a handler for the signal by now."""
    try:
        with open(f"/proc/{pid}/status") as file:
            caught = next(line.split()[1] for line in file if line.startswith("SigCgt:"))
    except OSError:
        return False
    return bool(int(caught, 16) >> (signum - 1) & 1)
