"""The pace at which the status of one slice is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from processhub.agent.reporting.noise import NoiseBudget
from processhub.cluster.tasks import wait_for_event
from processhub.cluster.tokenbucket import TokenBucket

_BURST, _PER_SECOND = 10, 1.0  # writes at once, and writes a second after that
_AWAITED_BURST, _AWAITED_PER_SECOND = 20, 5.0  # the same of writes that requests wait for
_GATHER_SECONDS = 0.1  # between two writes while many children change
_GATHER_FEW, _FEW = 0.01, 8  # between two writes after a write of few changes
_GATHER_MAX = 0.3  # the longest of these pauses, after a slow write
_LINGER_SECONDS = 0.05  # a change for which no client waits is written with the next one, or after this time
_LINGER_MANY = 1.1  # between two writes of such changes while there are many of them
_BUSY_MAX = 0.5  # a write waits no longer than this for more changes of a series
_LOOK_SECONDS = 0.02  # between two checks whether such a series is over


class Pace:
    """Decides when the next write is due. ``busy()`` is true while more changes will follow soon."""

    def __init__(self, budget: NoiseBudget, busy: Callable[[], bool]) -> None:
        self._budget, self._busy = budget, busy
        self._bucket = TokenBucket(_PER_SECOND, _BURST)
        self._awaited_bucket = TokenBucket(_AWAITED_PER_SECOND, _AWAITED_BURST)
        self._awaited = asyncio.Event()  # set too if requests wait for it
        self._wake = asyncio.Event()  # a change is to be written
        self._urgent = asyncio.Event()  # set too if a client may wait for it
        self._pressing = asyncio.Event()  # set too if it is more than a crash loop's noise
        self._since = 0.0  # the loop's time of the first change that is not written yet
        self._last = self._gap = 0.0  # when the last write was begun, and the least seconds to the next
        self._closing = False

    @property
    def pressing(self) -> bool:
        """Whether a change is to be written that is more than a crash loop's noise."""
        return self._pressing.is_set()

    @property
    def over(self) -> bool:
        """Whether nothing is left to write, and nothing will follow."""
        return self._closing and not self._wake.is_set()

    def hurry(self, *, awaited: bool = False) -> None:
        """Record that a client may wait for a change. ``awaited``: that requests wait until it is written."""
        if awaited:
            self._awaited.set()
        self._urgent.set()

    def kick(self, *, pressing: bool) -> None:
        """Have a change written soon; one that is not ``pressing`` waits for the budget."""
        if pressing:
            self._pressing.set()
        if not self._wake.is_set():
            self._since = asyncio.get_running_loop().time()
            self._wake.set()

    def again(self, *, pressing: bool) -> None:
        """Have the changes of a failed write written again."""
        self._wake.set()
        if pressing:
            self._pressing.set()

    def close(self) -> None:
        """Wait no longer: write what is left, and end."""
        self._closing = True
        self._urgent.set()

    async def due(self) -> bool:
        """Wait for a change and until its write is due; returns whether it is pressing."""
        await self._wake.wait()
        await self._gather()
        pressing = self._pressing.is_set()
        for event in (self._wake, self._urgent, self._pressing, self._awaited):
            event.clear()
        return pressing

    async def _gather(self) -> None:
        """Wait until the next write is due: at once for an urgent change after a quiet time, else a little later."""
        loop = asyncio.get_running_loop()
        while not self._closing:
            now = loop.time()
            # Changes that wait for the budget are written together, so that a quick child has no advantage.
            if not self._pressing.is_set() and (rest := self._budget.wait(now)) > 0:
                await wait_for_event(self._pressing, rest)
                continue
            tokens = self._bucket.wait(now)
            if self._awaited.is_set():
                tokens = min(tokens, self._awaited_bucket.wait(now))
            rest = max(tokens, self._last + self._gap - now)
            if not self._urgent.is_set():
                many = self._last + _LINGER_MANY if self._gap >= _GATHER_SECONDS else 0.0
                rest = max(rest, self._since + _LINGER_SECONDS - now, many - now)
                if rest > 0:
                    await wait_for_event(self._urgent, rest)
                    continue
            if rest <= 0 and not self._awaited.is_set() and self._busy() and now < self._since + _BUSY_MAX:
                rest = _LOOK_SECONDS
            if rest <= 0:
                break
            if tokens > 0 and not self._awaited.is_set():
                await wait_for_event(self._awaited, rest)
            else:
                await asyncio.sleep(rest)
        await asyncio.sleep(0)  # changes that the same event made are written with it
        (self._awaited_bucket if self._awaited.is_set() else self._bucket).take(loop.time())

    def gathered(self, changes: int) -> None:
        """Set the pause after a write of so many changes: with many children, the next one carries more."""
        self._gap = _GATHER_FEW if changes <= _FEW else _GATHER_SECONDS

    def begin(self, size: int, *, noise: bool) -> None:
        """Count a write of ``size`` bytes. One that fails counts too, because it may have been stored all the same."""
        self._last = asyncio.get_running_loop().time()
        self._budget.spend(self._last, size, noise=noise)

    def end(self) -> None:
        """Record that the write has succeeded. After a slow write the pause is longer: the server is busy."""
        self._gap = max(self._gap, min(asyncio.get_running_loop().time() - self._last, _GATHER_MAX))
