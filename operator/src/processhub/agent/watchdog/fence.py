"""The deadline that the agent feeds after each renewal of its Lease: a latch that fires by itself."""

from __future__ import annotations

import contextlib
import os
import struct

from processhub.agent.watchdog.linux import BootTimer, boottime

FEED = struct.Struct("!dd")  # stop_at, kill_at in seconds of CLOCK_BOOTTIME; 0 0: not fenced
_TICK = 0.05
_CHUNK = 256 * FEED.size  # the agent writes whole ones, and a pipe takes what is so small whole or not at all


class Fence:
    """What the agent fed last and what is due by it.

    ``closed`` is true from the stop deadline until a newer feed: nothing may be started meanwhile. Nothing is judged by
    what was fed before the newest: after a pause of the watchdog alone more may wait to be read, and other orders too.
    """

    def __init__(self, feed: int) -> None:
        self.feed = feed
        self.timer = BootTimer()
        self.stop_at = self.kill_at = 0.0
        self._stopped = False

    @property
    def closed(self) -> bool:
        """Whether the stop deadline has passed."""
        self._read()
        return self.stop_at > 0 and boottime() >= self.stop_at

    def _read(self) -> None:
        """Take the newest deadlines that the agent wrote."""
        newest = b""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.feed, _CHUNK):
                newest = data[-FEED.size :]
        if newest:
            self.stop_at, self.kill_at = FEED.unpack(newest)
            self._stopped = False
            self.timer.set(self.stop_at)

    def due(self) -> str:
        """``stop`` once at the stop deadline, ``kill`` from the kill deadline on, else empty."""
        self._read()
        if not self.stop_at:
            return ""
        now = boottime()
        if now >= self.kill_at:
            self.timer.set(now + _TICK)  # again and again: nothing may come up late
            return "kill"
        if now >= self.stop_at and not self._stopped:
            self._stopped = True
            self.timer.set(self.kill_at)
            return "stop"
        return ""
