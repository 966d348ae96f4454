"""Waiting for a condition with a deadline, the only way in which these tests wait; processes that end with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
# Before a command: a test session that is killed can't end what it started.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")


async def eventually(look: Callable[[], Awaitable[T | None]], what: str, within: float = 40.0) -> T:
    """The first result of ``look`` that is neither None nor False; AssertionError after ``within`` seconds."""
    deadline = time.monotonic() + within
    while True:
        found = await look()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process of this pid is there and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
