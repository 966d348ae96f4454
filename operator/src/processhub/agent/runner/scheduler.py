"""The scheduler of actors: it runs many loops on a few threads.

A loop that has work is queued, and a thread of the pool runs it until it would wait. Then it is parked, and one more
thread waits for all parked loops together: for a timer, a descriptor or a call from another thread.

The states of a strand, which is one actor's loop, are:

    parked ──wake──► queued ──a thread takes it──► running ──nothing to do──► parked
                       ▲                             │ woken while it runs
                       └──────────── again ◄─────────┘

If nothing was taken from the queue for some milliseconds, the threads of the pool are blocked in actors' code. The pool
then grows, so that other actors need not wait for the blocked ones.

One thread leads: it takes the messages for all actors, and runs the strands that they wake itself, because to have
another thread run them takes longer than most messages take. A leader that is blocked in an actor's code is replaced
after some milliseconds, by a thread that takes further messages. While actors' code takes long, what messages wake is
run by the pool.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from processhub.agent.runner.loop import ActorLoop, Parked

_BASE_THREADS = 4
_STALL_SECONDS = 0.005
_IDLE_SECONDS = 10.0
_LONG_SECONDS = 0.001  # a strand that runs longer than this would keep others waiting
_SHARED_SECONDS = 1.0  # how long the pool then runs what the leader wakes
_WATCH_SECONDS = 1.0  # how long a leader that had work is watched
_SETTLE_SECONDS = 0.002  # how long what strands have to report may wait for that of others

_PARKED, _QUEUED, _RUNNING, _AGAIN, _DONE = range(5)


class Strand:
    """One actor's loop as the scheduler runs it. The callbacks run on pool threads, one at a time.

    ``begin(loop)`` is called first, before the loop runs. ``failed(error)`` is called when an error left the loop,
    which then runs on. ``finished()`` is called once the loop is closed and never runs again.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        begin: Callable[[ActorLoop], None],
        failed: Callable[[BaseException], None],
        finished: Callable[[], None],
    ) -> None:
        self._scheduler, self._begin, self._failed, self._finished = scheduler, begin, failed, finished
        self.loop: ActorLoop | None = None
        self.state = _PARKED
        self.wake_at: float | None = None  # when the loop needs to run again
        self.timer_at: float | None = None  # the time of the strand's earliest entry among the timers
        self.watching: int | None = None
        self.ending = False

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
                self.loop = ActorLoop(self.wake)
                self._begin(self.loop)
            if not self.ending:
                self.loop.run_forever()
        except Parked:
            pass
        except BaseException as error:  # noqa: BLE001 any error ends this actor and no other
            self._failed(error)
            self.wake()  # run again, for the clean-up
        if not self.ending:
            return True
        if self.loop is not None:
            self._scheduler.unwatch(self)  # before the number of its descriptor can be used for another file
            with contextlib.suppress(Exception):  # a loop that can't be closed is not run again either
                self.loop.close()
        self._finished()
        return False


class Scheduler:
    """The queue, the threads of the pool, and the one thread that waits for all parked loops."""

    def __init__(self) -> None:
        self._lock = threading.Condition(lock := threading.RLock())
        self._ready: deque[Strand] = deque()
        self._idle = self._threads = self._taken = 0
        self._timers: list[tuple[float, int, Strand]] = []
        self._order = itertools.count()
        self._epoll = select.epoll()
        self._watched: dict[int, Strand] = {}
        self._bell, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._rung = False
        self._leader = 0  # the number of the thread that leads; 0: none
        self._stand_ins = 0  # threads that wait to lead
        self._succession = threading.Condition(lock)
        self._lead_work: tuple[Callable[[], None], Callable[[], None]] | None = None
        self._busy_since: float | None = None  # when the leader began to run its present strand
        self._busy_at = 0.0  # when it last began to run one
        self._watched_until = 0.0  # the waiter looks at the leader until then
        self._shared_until = 0.0  # until then the pool runs what the leader wakes
        for _ in range(_BASE_THREADS):
            self._grow()
        threading.Thread(target=self._wait_for_all, name="waiter", daemon=True).start()

    def wake(self, strand: Strand) -> None:
        """Queue a parked strand. A running one is run once more."""
        with self._lock:
            if strand.state == _PARKED:
                strand.state = _QUEUED
                self._ready.append(strand)
                if threading.get_ident() == self._leader and time.monotonic() >= self._shared_until:
                    return  # it runs the strand itself
                self._lock.notify()
                if len(self._ready) > self._idle:
                    self._call_waiter()
            elif strand.state == _RUNNING:
                strand.state = _AGAIN

    # The leader.

    @property
    def leads(self) -> bool:
        """Whether the calling thread is the leader, which settles what its strands have to report."""
        return threading.get_ident() == self._leader

    def lead(self, gather: Callable[[], None], settle: Callable[[], None]) -> None:
        """Have a thread call ``gather()`` over and over, and run the strands that it wakes.

        ``gather`` waits for messages. ``settle()`` sends what the strands have to report. It is called when the strands
        have run, and in between when that takes long. It may be called by two threads at once.
        """
        self._lead_work = gather, settle
        self._stand_in()

    def _stand_in(self) -> None:
        try:
            threading.Thread(target=self._lead, name="leader", daemon=True).start()
        except RuntimeError:
            self._call_waiter()  # the container's limit of threads is reached: it is tried again

    def _lead(self) -> None:
        assert self._lead_work is not None
        gather, settle = self._lead_work
        me = threading.get_ident()
        while self._succeed(me):
            settle()  # what a leader before has left
            while self._leader == me:
                gather()
                self._run_gathered(me, settle)
                settle()

    def _succeed(self, me: int) -> bool:
        """Wait until no thread leads, and lead; returns False if another waits for that already."""
        with self._lock:
            if self._leader and self._stand_ins:
                return False
            self._stand_ins += 1
            while self._leader:
                self._succession.wait()
            self._stand_ins -= 1
            self._leader = me
            return True

    def _run_gathered(self, me: int, settle: Callable[[], None]) -> None:
        """Run what is queued until nothing is, or another thread leads."""
        settled = time.monotonic()
        while True:
            with self._lock:
                now = time.monotonic()
                if self._leader != me:
                    return
                if not self._ready:
                    self._busy_since = None
                    return
                strand = self._taken_next()
                self._busy_since = self._busy_at = now
                if now > self._watched_until - _STALL_SECONDS:
                    self._call_waiter()
            if now - settled > _SETTLE_SECONDS:
                settle()
                settled = now
            goes_on = strand.run()
            with self._lock:
                self._after_run(strand, goes_on)
                if self._leader == me and time.monotonic() - now > _LONG_SECONDS:
                    self._share()

    def _share(self) -> None:
        """Have the pool run what is queued, and what the leader wakes from now on. The lock must be held."""
        self._shared_until = time.monotonic() + _SHARED_SECONDS
        self._lock.notify(len(self._ready))

    def _watch_leader(self, now: float) -> float | None:
        """Replace a leader that is blocked; returns when to look again. The lock must be held."""
        if self._lead_work is None:
            return None
        if self._busy_since is not None and now - self._busy_since >= _STALL_SECONDS:
            self._leader, self._busy_since = 0, None
            self._share()
        if not self._leader:
            if self._stand_ins:
                self._succession.notify()
            else:
                self._stand_in()
        self._watched_until = self._busy_at + _WATCH_SECONDS
        if self._busy_since is not None:
            return self._busy_since + _STALL_SECONDS
        return now + _STALL_SECONDS if now < self._watched_until or not self._leader else None

    def _call_waiter(self) -> None:
        if not self._rung:
            self._rung = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._ring, b"\0")

    def _grow(self) -> None:
        try:
            threading.Thread(target=self._work, name="actors", daemon=True).start()
            self._threads += 1
        except RuntimeError:
            pass  # the container's limit of threads is reached: the actors in the queue wait

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._ready:
                    self._idle += 1
                    notified = self._lock.wait(_IDLE_SECONDS)
                    self._idle -= 1
                    if not notified and not self._ready and self._threads > _BASE_THREADS:
                        self._threads -= 1
                        return
                strand = self._taken_next()
            goes_on = strand.run()
            with self._lock:
                self._after_run(strand, goes_on)

    def _taken_next(self) -> Strand:
        """The next strand to run. The lock must be held."""
        strand = self._ready.popleft()
        strand.state = _RUNNING
        self._taken += 1
        return strand

    def _after_run(self, strand: Strand, goes_on: bool) -> None:
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
        assert strand.loop is not None
        parking = strand.loop.parking
        strand.wake_at = None
        if parking.timeout is not None:
            strand.wake_at = time.monotonic() + parking.timeout
            if strand.timer_at is None or strand.wake_at < strand.timer_at:
                self._set_timer(strand, strand.wake_at)
                if self._timers[0][2] is strand:
                    self._call_waiter()
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
        with self._lock:
            self._unwatch(strand)

    def _unwatch(self, strand: Strand) -> None:
        if strand.watching is not None:
            self._watched.pop(strand.watching, None)
            self._epoll.unregister(strand.watching)
            strand.watching = None

    def _wait_for_all(self) -> None:
        taken, since = -1, 0.0  # the count of taken strands when the queue was first seen waiting, and the time of that
        while True:
            timeout: float | None = None
            with self._lock:
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
                if (look_at := self._watch_leader(now)) is not None:
                    timeout = look_at - now if timeout is None else min(timeout, look_at - now)
                if len(self._ready) > self._idle:
                    if self._taken != taken:
                        taken, since = self._taken, now
                    # Checked, because the bell and descriptors wake this thread more often.
                    elif now - since >= _STALL_SECONDS:
                        since = now
                        for _ in range(min(len(self._ready), self._threads // 2 + 1)):
                            self._grow()
                    stalled = since + _STALL_SECONDS - now
                    timeout = stalled if timeout is None else min(timeout, stalled)
                else:
                    taken = -1
                self._rung = False
            for fd, _ in self._epoll.poll(timeout):
                if fd == self._bell:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell, 64)
                else:
                    with self._lock:
                        found = self._watched.get(fd)
                        if found is not None:
                            self._queue(found)

    def _queue(self, strand: Strand) -> None:
        """Queue a parked strand. The lock must be held. A running one checks for work itself."""
        if strand.state == _PARKED:
            strand.state = _QUEUED
            self._ready.append(strand)
            self._lock.notify()
