"""The thread that takes the agent's messages, and runs the actors that they wake itself.

To wake another thread for each message would take longer than most actors take for it. A leader that is blocked in an
actor's code is replaced after some milliseconds by another thread, which takes further messages. While messages take
long, the threads of the pool run what they wake.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from processhub.agent.runner import scheduler
from processhub.agent.runner.scheduler import Scheduler

_LONG_SECONDS = 0.0005  # strands that usually run longer than this keep others waiting
# A single strand may have been long because the machine was busy: the weight of each, and the most that it counts.
_WEIGHT, _COUNTED_SECONDS = 0.1, 0.01
_WATCH_SECONDS = 1.0  # how long a leader that had work is watched


class Leader:
    """The leading thread, and those that stand in for it.

    It calls ``gather()`` over and over, which waits for messages, and runs the strands that it wakes. ``settle()``
    sends what the strands have to report. It is called when all have run, and in between when that takes long. It may
    be called by two threads at once.
    """

    def __init__(self, of: Scheduler, gather: Callable[[], None], settle: Callable[[], None]) -> None:
        self._scheduler, self._gather, self._settle = of, gather, settle
        self.thread = 0  # the number of the thread that leads; 0: none
        self._stand_ins = 0  # threads that wait to lead
        self._succession = threading.Condition(of.lock)
        self._busy_since: float | None = None  # when it began to run its present strand
        self._busy_at = 0.0  # when it last began to run one
        self._watched_until = 0.0  # the scheduler looks at it until then
        self._usual = 0.0  # the seconds that strands have run lately, on average
        of.leader = self
        self._stand_in()

    @property
    def is_current(self) -> bool:
        """Whether the calling thread leads. It settles what its strands have to report."""
        return threading.get_ident() == self.thread

    def runs_it(self) -> bool:
        """Whether the calling thread itself runs the strand that it wakes. The scheduler's lock must be held."""
        return self.is_current and self._usual <= _LONG_SECONDS

    def watch(self, now: float) -> float | None:
        """Replace a leader that is blocked; returns when to look again. The scheduler's lock must be held."""
        if self._busy_since is not None and now - self._busy_since >= scheduler.STALL_SECONDS:
            self.thread, self._busy_since = 0, None
            self._scheduler.share()
        if not self.thread:
            if self._stand_ins:
                self._succession.notify()
            else:
                self._stand_in()
        self._watched_until = self._busy_at + _WATCH_SECONDS
        if self._busy_since is not None:
            return self._busy_since + scheduler.STALL_SECONDS
        return now + scheduler.STALL_SECONDS if now < self._watched_until or not self.thread else None

    def _stand_in(self) -> None:
        try:
            threading.Thread(target=self._lead, name="leader", daemon=True).start()
        except RuntimeError:
            self._scheduler.call_waiter()  # the container's limit of threads is reached: it is tried again

    def _lead(self) -> None:
        me = threading.get_ident()
        while self._succeed(me):
            self._settle()  # what a leader before has left
            while self.thread == me:
                self._gather()
                self._run_gathered(me)
                self._settle()

    def _succeed(self, me: int) -> bool:
        """Wait until no thread leads, and lead; returns False if another waits for that already."""
        with self._scheduler.lock:
            if self.thread and self._stand_ins:
                return False
            self._stand_ins += 1
            while self.thread:
                self._succession.wait()
            self._stand_ins -= 1
            self.thread = me
            return True

    def _run_gathered(self, me: int) -> None:
        """Run what is queued until nothing is, or another thread leads."""
        settled = time.monotonic()
        while True:
            with self._scheduler.lock:
                strand = self._scheduler.take() if self.thread == me else None
                if strand is None:
                    if self.thread == me:
                        self._busy_since = None
                    return
                now = self._busy_since = self._busy_at = time.monotonic()
                if now > self._watched_until - scheduler.STALL_SECONDS:
                    self._scheduler.call_waiter()
            if now - settled > scheduler.SETTLE_SECONDS:
                self._settle()
                settled = now
            goes_on = strand.run()
            with self._scheduler.lock:
                self._scheduler.after_run(strand, goes_on)
                self._usual += _WEIGHT * (min(time.monotonic() - now, _COUNTED_SECONDS) - self._usual)
                if self._usual > _LONG_SECONDS:
                    self._scheduler.share()
