"""The fence: it ends the children when the agent has not renewed the member's Lease in time.

After each renewal the agent sends two new deadlines. If no newer ones arrive, the watchdog acts on them by itself:

    until stop_at             processes run and may be started
    stop_at … kill_at         nothing is started; each process gets its stop signal once
    from kill_at on           SIGKILL to everything
"""

from __future__ import annotations

import contextlib
import os
import struct

from processhub.agent.watchdog.linux import BootTimer, boottime

FEED = struct.Struct("!dd")  # stop_at, kill_at in seconds of CLOCK_BOOTTIME; 0 0: not fenced
_TICK = 0.05
_CHUNK = 256 * FEED.size  # bytes of a read; the agent writes whole records, and a pipe keeps records of this size whole


class Fence:
    """The newest deadlines that the agent sent, and the actions that are due by them.

    ``closed`` is true from the stop deadline until newer deadlines arrive: nothing may be started meanwhile. Only the
    newest deadlines count. If the watchdog alone was paused, several may be waiting in the pipe, and orders too.
    """

    def __init__(self, feed: int) -> None:
        self.feed = feed
        self.timer = BootTimer()
        self.stop_at = self.kill_at = 0.0
        self._stopped = False
        self.broken = False  # a process that must end now can't be ended: only the container's end does it

    @property
    def closed(self) -> bool:
        """Whether the stop deadline that was read last has passed."""
        return self.stop_at > 0 and boottime() >= self.stop_at

    def read(self) -> None:
        """Read the newest deadlines that the agent sent."""
        newest = b""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.feed, _CHUNK):
                newest = data[-FEED.size :]
        if newest:
            self.stop_at, self.kill_at = FEED.unpack(newest)
            self._stopped = False
            self.timer.set(self.stop_at)

    def due(self) -> str:
        """The action that is due: ``stop``, once, at the stop deadline; ``kill`` from the kill deadline on; else ""."""
        self.read()
        if not self.stop_at:
            return ""
        now = boottime()
        if now >= self.kill_at:
            self.timer.set(now + _TICK)  # repeated, so that no late process survives
            return "kill"
        if now >= self.stop_at and not self._stopped:
            self._stopped = True
            self.timer.set(self.kill_at)
            return "stop"
        return ""
