"""The scheduler of actors: it runs many loops on a few threads.

A loop that has work is queued, and a thread of the pool runs it until it would wait. Then it is parked, and one more
thread waits for all parked loops together: for a timer, a descriptor or a call from another thread.

The states of a strand, which is one actor's loop, are:

    parked ──wake──► queued ──a thread takes it──► running ──nothing to do──► parked
                       ▲                             │ woken while it runs
                       └──────────── again ◄─────────┘

The loop of a strand that sleeps is given to the next one that starts (hosted.py): it is parked without a loop.

If nothing was taken from the queue for some milliseconds, the threads of the pool are blocked in actors' code. The pool
then grows, so that other actors need not wait for the blocked ones. If the thread that finds this ran late itself, the
machine or the interpreter may have been too busy for any of them. Then the pool grows only when that has lasted.

What the agent's messages wake is run by the thread that takes them (leader.py), as long as that is not kept waiting.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from processhub.agent.runner.loop import ActorLoop, Parked

_BASE_THREADS = 4
STALL_SECONDS = 0.005
_BUSY_STALL_SECONDS = 0.1  # the same where the thread that looks runs late
_IDLE_SECONDS = 10.0
_SPARE_LOOPS = 8  # as a few threads run all strands, hardly more are needed at a time

_PARKED, _QUEUED, _RUNNING, _AGAIN, _DONE = range(5)


class Strand:
    """One actor's loop as the scheduler runs it. A subclass defines the methods that are called on pool threads.

    They are called one at a time. If ``sleeps`` is set during a run, the strand is without a loop after it. With the
    next ``wake`` it gets another one, and ``begin`` is called again.
    """

    __slots__ = ("_scheduler", "ending", "loop", "sleeps", "state", "timer_at", "wake_at", "watching")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.loop: ActorLoop | None = None
        self.state = _PARKED
        self.wake_at: float | None = None  # when the loop needs to run again
        self.timer_at: float | None = None  # the time of the strand's earliest entry among the timers
        self.watching: int | None = None
        self.ending = self.sleeps = False

    def begin(self, loop: ActorLoop) -> None:
        """Prepare a loop that the strand did not have before. It has not run yet."""
        raise NotImplementedError

    def attend(self) -> None:
        """Look at what other threads have left for the strand. This is called before each further run of the loop."""

    def failed(self, error: BaseException) -> None:
        """Take an error that left the loop, which then runs on."""
        raise NotImplementedError

    def finished(self) -> None:
        """Take note of the end: the loop is closed and never runs again."""
        raise NotImplementedError

    def wake(self) -> None:
        """Queue the strand to run soon. May be called from any thread."""
        self._scheduler.wake(self)

    def end(self) -> None:
        """Close the loop at the end of this turn. Must be called from within the loop."""
        self.ending = True
        if self.loop is not None:
            self.loop.stop()

    def run(self) -> bool:
        """Run the loop until it has nothing to do; returns False if it is closed."""
        try:
            if self.loop is None:
                self.loop = self._scheduler.borrow(self.wake)
                self.begin(self.loop)
            else:
                self.attend()
            if not self.ending:
                self.loop.run_forever()
        except Parked:
            pass
        except BaseException as error:  # noqa: BLE001 any error ends this actor and no other
            self.failed(error)
            self.wake()  # run again, for the clean-up
        if not self.ending:
            if self.sleeps and self.loop is not None:
                self.sleeps = False
                self._scheduler.give_back(self.loop)
                self.loop = None
            return True
        if self.loop is not None:
            self._scheduler.unwatch(self)  # before the number of its descriptor can be used for another file
            with contextlib.suppress(Exception):  # a loop that can't be closed is not run again either
                self.loop.close()
        self.finished()
        return False


class Leading(Protocol):
    """The thread that wakes strands and runs them itself (leader.py). Both methods are called with the lock held."""

    def runs_it(self) -> bool:
        """Whether the calling thread itself runs the strand that it wakes."""

    def watch(self, now: float) -> float | None:
        """Replace a thread that is blocked; returns when to look again, or None."""


class _Bell:
    """Wakes the thread that polls ``fd``, once until that thread has set ``rung`` back."""

    def __init__(self) -> None:
        self.fd, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.rung = False

    def ring(self) -> None:
        """Make ``fd`` readable."""
        if not self.rung:
            self.rung = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._ring, b"\0")

    def hear(self) -> None:
        """Read what made ``fd`` readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 64)


class _Stall:
    """How long strands have waited in the queue while none was taken from it. ``look_at``: when to look again."""

    def __init__(self) -> None:
        self._taken, self._since, self.look_at = -1, 0.0, 0.0

    def has_lasted(self, taken: int, now: float, *, late: bool) -> bool:
        """Whether the threads of the pool are blocked. ``taken``: how many strands were ever taken from the queue."""
        if taken != self._taken:
            self._taken, self._since, self.look_at = taken, now, now + STALL_SECONDS
            return False
        # Checked, because the bell and descriptors wake the thread that looks more often.
        if now < self.look_at:
            return False
        self.look_at = now + STALL_SECONDS
        if late and now - self._since < _BUSY_STALL_SECONDS:
            return False
        self._since = now
        return True


class Scheduler:
    """The queue, the threads of the pool, and the one thread that waits for all parked loops."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._queued = threading.Condition(self.lock)
        self._spare_loops: list[ActorLoop] = []
        self._ready: deque[Strand] = deque()
        self._idle = self._threads = self._taken = 0
        self._timers: list[tuple[float, int, Strand]] = []
        self._order = itertools.count()
        self._epoll = select.epoll()
        self._watched: dict[int, Strand] = {}
        self._bell = _Bell()
        self._epoll.register(self._bell.fd, select.EPOLLIN)
        self.leader: Leading | None = None
        for _ in range(_BASE_THREADS):
            self._grow()
        threading.Thread(target=self._wait_for_all, name="waiter", daemon=True).start()

    def wake(self, strand: Strand) -> None:
        """Queue a parked strand. A running one is run once more."""
        with self.lock:
            if strand.state == _PARKED:
                strand.state = _QUEUED
                self._ready.append(strand)
                if self.leader is not None and self.leader.runs_it():
                    return
                self._queued.notify()
                if len(self._ready) > self._idle:
                    self.call_waiter()
            elif strand.state == _RUNNING:
                strand.state = _AGAIN

    def borrow(self, on_wake: Callable[[], None]) -> ActorLoop:
        """A loop that no strand has."""
        try:
            loop = self._spare_loops.pop()
        except IndexError:
            return ActorLoop(on_wake)
        loop.on_wake = on_wake
        return loop

    def give_back(self, loop: ActorLoop) -> None:
        """Take back a loop on which nothing is left."""
        if len(self._spare_loops) < _SPARE_LOOPS:
            self._spare_loops.append(loop)
        else:
            loop.close()

    def share(self) -> None:
        """Have the threads of the pool run what is queued. The lock must be held."""
        self._queued.notify(len(self._ready))

    def call_waiter(self) -> None:
        """Have the thread that waits for all look at what has changed. The lock must be held."""
        self._bell.ring()

    def _grow(self) -> None:
        try:
            threading.Thread(target=self._work, name="actors", daemon=True).start()
            self._threads += 1
        except RuntimeError:
            pass  # the container's limit of threads is reached: the actors in the queue wait

    def _work(self) -> None:
        while True:
            with self.lock:
                while (strand := self.take()) is None:
                    self._idle += 1
                    notified = self._queued.wait(_IDLE_SECONDS)
                    self._idle -= 1
                    if not notified and not self._ready and self._threads > _BASE_THREADS:
                        self._threads -= 1
                        return
            goes_on = strand.run()
            with self.lock:
                self.after_run(strand, goes_on)

    def take(self) -> Strand | None:
        """The next strand to run, or None. The lock must be held."""
        if not self._ready:
            return None
        strand = self._ready.popleft()
        strand.state = _RUNNING
        self._taken += 1
        return strand

    def after_run(self, strand: Strand, goes_on: bool) -> None:
        """Queue or park a strand that has run. The lock must be held."""
        if not goes_on:
            strand.state = _DONE
        elif strand.state == _AGAIN:
            strand.state = _QUEUED
            self._ready.append(strand)
        else:
            strand.state = _PARKED
            self._park(strand)

    def _park(self, strand: Strand) -> None:
        """Record what a parked loop waits for. The lock must be held."""
        strand.wake_at = None
        if strand.loop is None:
            return
        parking = strand.loop.parking
        if parking.timeout is not None:
            strand.wake_at = time.monotonic() + parking.timeout
            if strand.timer_at is None or strand.wake_at < strand.timer_at:
                self._set_timer(strand, strand.wake_at)
                if self._timers[0][2] is strand:
                    self.call_waiter()
        fd = parking.watched
        if fd != strand.watching:
            self._unwatch(strand)
        if fd is not None:
            # An epoll descriptor can be polled itself, so one entry serves for all that the loop watches.
            flags = select.EPOLLIN | select.EPOLLONESHOT
            if strand.watching is None:
                strand.watching = fd
                self._watched[fd] = strand
                self._epoll.register(fd, flags)
            else:
                self._epoll.modify(fd, flags)

    def _set_timer(self, strand: Strand, at: float) -> None:
        strand.timer_at = at
        heapq.heappush(self._timers, (at, next(self._order), strand))

    def unwatch(self, strand: Strand) -> None:
        """Stop watching the descriptor of a loop that is about to be closed."""
        with self.lock:
            self._unwatch(strand)

    def _unwatch(self, strand: Strand) -> None:
        if strand.watching is not None:
            self._watched.pop(strand.watching, None)
            self._epoll.unregister(strand.watching)
            strand.watching = None

    def _wait_for_all(self) -> None:
        stall, late = _Stall(), False  # late: this thread ran some milliseconds later than it was to
        while True:
            timeout: float | None = None
            with self.lock:
                now = time.monotonic()
                while self._timers and self._timers[0][0] <= now:
                    at, _, strand = heapq.heappop(self._timers)
                    if at == strand.timer_at:
                        strand.timer_at = None
                        if strand.wake_at is not None and strand.wake_at > now:
                            self._set_timer(strand, strand.wake_at)  # its timer was set to a later time meanwhile
                        elif strand.wake_at is not None:
                            self._queue(strand)
                if self._timers:
                    timeout = self._timers[0][0] - now
                if self.leader is not None and (look_at := self.leader.watch(now)) is not None:
                    timeout = look_at - now if timeout is None else min(timeout, look_at - now)
                if len(self._ready) > self._idle:
                    if stall.has_lasted(self._taken, now, late=late):
                        for _ in range(min(len(self._ready), self._threads // 2 + 1)):
                            self._grow()
                    timeout = stall.look_at - now if timeout is None else min(timeout, stall.look_at - now)
                else:
                    stall = _Stall()
                self._bell.rung = False
            due = math.inf if timeout is None else time.monotonic() + timeout
            events = self._epoll.poll(timeout)
            late = time.monotonic() - due >= STALL_SECONDS
            for fd, _ in events:
                if fd == self._bell.fd:
                    self._bell.hear()
                else:
                    with self.lock:
                        found = self._watched.get(fd)
                        if found is not None:
                            self._queue(found)

    def _queue(self, strand: Strand) -> None:
        """Queue a parked strand. The lock must be held. A running one checks for work itself."""
        if strand.state == _PARKED:
            strand.state = _QUEUED
            self._ready.append(strand)
            self._queued.notify()
