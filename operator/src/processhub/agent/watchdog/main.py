"""The watchdog's loop: it takes orders, starts and ends processes, and reports their exits.

A member's processes form this tree:

    agent ─► watchdog ─┬─► exec child ─► its own processes
                       └─► runner

The watchdog depends on the agent for orders and deadlines only. If the agent hangs past a deadline, or ends, the
watchdog ends the children by itself. It never waits for the agent: reports that the agent does not read stay in memory.

A process is reported as ended only when nothing of its tree is left. To find processes that left their group, each
one inherits a mark in its environment that names the child it belongs to.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import select
import signal
import socket
import sys
import time

from processhub.agent.frames import Inbox, Message, Outbox
from processhub.agent.watchdog.fence import Fence
from processhub.agent.watchdog.launch import Launch, launch
from processhub.agent.watchdog.linux import (
    become_subreaper,
    began,
    boottime,
    descendants,
    end_all,
    environment_value,
    has_become,
    kill,
    own_children,
    session_of,
    user_of,
)
from processhub.agent.watchdog.managedprocess import ManagedProcess
from processhub.agent.watchdog.memory import MemoryGuard, memory_of

# This variable marks all processes that a managed process starts, whatever their session or parent.
MARK = "PROCESSHUB_WARD"
_SWEEP_AGAIN_SECONDS = 0.02
_LOOKS_FOR_A_MARK = 10  # after so many looks an orphan without a mark is killed
_END_SECONDS = 30.0
# A signal to the whole container is the agent's to answer: it ends the watchdog by closing the socket. The last two, of
# a write that fails, are errors of that write.
_WITHOUT_EFFECT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


class Watchdog:
    """All managed processes of a member. ``control`` is the agent's socket, ``feed`` the pipe of Lease deadlines."""

    def __init__(self, control: socket.socket, feed: int) -> None:
        self._inbox, self._outbox = Inbox(control), Outbox(control)
        self._control = control.fileno()
        self._fence = Fence(feed)
        self._processes: dict[str, ManagedProcess] = {}
        self._by_pid: dict[int, ManagedProcess] = {}
        self._stopping: dict[str, ManagedProcess] = {}  # the stop signal was sent, SIGKILL is due later
        self._ending: dict[str, ManagedProcess] = {}  # the main process was reaped, others of its tree may be left
        self._unmarked: dict[int, int] = {}  # by pid: in how many looks in a row an orphan had no mark
        self._sweep_at = 0.0  # CLOCK_BOOTTIME of the earliest next look at the tree
        self._memory = MemoryGuard()
        self._epoll = select.epoll()
        self._reports: dict[int, ManagedProcess] = {}
        self._writing = False
        # Part of all marks: a watchdog restarted in the same container must not take old marks for its own.
        self._nonce = f"{os.getpid()}.{time.time_ns()}"

    def run(self) -> None:
        """Serve until the agent's socket ends, then end every process below this one and return."""
        wake, wake_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for fd in (self._control, self._fence.feed, self._fence.timer.fd, wake):
            self._epoll.register(fd, select.EPOLLIN)
        try:
            self._serve(wake)
        finally:
            self._epoll.close()  # What is left is found by /proc, for which a descriptor is needed.
            end_all(_END_SECONDS)

    def _serve(self, wake: int) -> None:
        while not (self._inbox.closed or self._outbox.closed or self._fence.broken):
            for fd, _ in self._epoll.poll(self._timeout()):
                if fd == self._control:
                    self._outbox.flush()
                    for starts, messages in itertools.groupby(self._inbox.read(), lambda item: item["op"] == "spawn"):
                        (self._spawn if starts else self._dispatch)(list(messages))
                elif fd == self._fence.timer.fd:
                    self._fence.timer.acknowledge()
                elif fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 65536)
                elif fd in self._reports:
                    self._launched(fd)
            self._deadlines()
            self._guard_memory()
            self._reap()
            self._sweep()
            self._poll_for_writing()

    def _timeout(self) -> float | None:
        times = [process.kill_at for process in self._stopping.values()]
        if self._ending:
            times.append(self._sweep_at)
        if self._by_pid and self._memory.limit:
            times.append(self._memory.next_look)
        return max(0.0, min(times) - boottime()) if times else None

    def _poll_for_writing(self) -> None:
        if self._outbox.pending != self._writing:
            self._writing = self._outbox.pending
            self._epoll.modify(self._control, select.EPOLLIN | (select.EPOLLOUT if self._writing else 0))

    # Orders.

    def _dispatch(self, messages: list[Message]) -> None:
        for message in messages:
            process = self._processes.get(message["key"])
            if process is None:
                continue  # it ended meanwhile, which is reported to the agent
            if message["op"] == "stop":
                self._stop(process, message["grace"])
            elif message["op"] == "signal":
                self._signal(process, message["signal"])

    def _spawn(self, messages: list[Message]) -> None:
        """Start processes. What is written to between two forks is copied, so there is hardly anything between them."""
        orders = [self._prepared(message) for message in messages]
        self._fence.read()
        forks = [self._fork(order) for order in orders]
        for message, order, fork in zip(messages, orders, forks, strict=True):
            for fd in order.fds.values():
                os.close(fd)
            if isinstance(fork, str):
                self._failed(message["key"], fork)
                continue
            pid, report = fork
            process = ManagedProcess(
                message["key"], pid, report, message["stop"], main_alone=message["main_alone"], began=began(pid)
            )
            self._processes[process.key] = self._by_pid[pid] = self._reports[report] = process
            self._epoll.register(report, select.EPOLLIN)

    def _prepared(self, message: Message) -> Launch:
        return Launch(
            argv=message["argv"],
            env={**message["env"], MARK: f"{self._nonce}/{message['key']}"},
            cwd=message["cwd"],
            fds=dict(zip(message["fds"], self._inbox.take_fds(len(message["fds"])), strict=True)),
            nofile=tuple(message["nofile"]) if message.get("nofile") else None,
        )

    def _fork(self, order: Launch) -> tuple[int, int] | str:
        """The pid and the launch pipe of the new process, or why there is none."""
        if self._fence.closed:
            return "fenced 0 the member's Lease was not renewed in time"
        if order.problem:
            return f"value 0 {order.problem}"
        try:
            return launch(order)
        except OSError as error:
            return f"fork {error.errno} {error.strerror}"

    def _launched(self, fd: int) -> None:
        """Handle the outcome of an exec: the launch pipe says what failed, or ended empty.

        The pipe also ends empty if the fork was killed before its exec. No program ran then, so ``started`` must not be
        reported.
        """
        process = self._reports.pop(fd)
        self._epoll.unregister(fd)
        process.failure = os.read(fd, 4096).decode(errors="replace")
        os.close(fd)
        process.report = -1
        if not process.failure and has_become(process.pid):
            self._outbox.send({"ev": "started", "key": process.key, "pid": process.pid})
            if process.key in self._stopping:
                self._signal(process, process.stop_signal)

    def _failed(self, key: str, failure: str) -> None:
        what, number, text = failure.split(" ", 2)
        self._outbox.send({"ev": "failed", "key": key, "what": what, "errno": int(number), "text": text})

    def _stop(self, process: ManagedProcess, grace: float) -> None:
        kill_at = boottime() + grace
        if grace <= 0:
            self._signal(process, signal.SIGKILL)
        elif not process.kill_at:
            self._stopping[process.key] = process
            if process.report < 0:  # before the exec, the signal would be lost
                self._signal(process, process.stop_signal)
        process.kill_at = min(process.kill_at or kill_at, kill_at)

    def _deadlines(self) -> None:
        now = boottime()
        for process in [process for process in self._stopping.values() if now >= process.kill_at]:
            del self._stopping[process.key]
            self._signal(process, signal.SIGKILL)
        if due := self._fence.due():
            for process in self._by_pid.values():
                process.fenced = True
                if due == "kill":
                    self._fence.broken |= not self._signal(process, signal.SIGKILL)
                elif not process.kill_at:
                    # It also gets its SIGKILL if the Lease is renewed by then: a process that is stopping is of no more
                    # use, least of all a runner in which other actors have ended already.
                    self._stop(process, self._fence.kill_at - now)

    def _guard_memory(self) -> None:
        """End the process whose tree uses most if the container runs out of memory, one at a time."""
        now = boottime()
        if not self._by_pid or not self._memory.limit or now < self._memory.next_look or not self._memory.is_short(now):
            return
        if any(process.over_memory for process in self._processes.values()):
            return  # Something of it is left, whose memory is not free yet.
        try:
            used = self._memory_used()
        except OSError:
            return  # There is no descriptor to read /proc with, for the moment.
        process = self._by_pid[max(used, key=lambda pid: used[pid])]
        if self._signal(process, signal.SIGKILL):
            process.over_memory = used[process.pid], self._memory.limit

    def _memory_used(self) -> dict[int, int]:
        """The bytes in memory of each process that runs, with all that is below it and its daemons, by pid."""
        daemons = own_children(self._by_pid)
        used = memory_of([*self._by_pid, *daemons])
        for pid in daemons:
            of_daemon, process = used.pop(pid), self._processes.get(self._key_of(pid))
            if process is not None and process.pid in used:
                used[process.pid] += of_daemon
        return used

    def _signal(self, process: ManagedProcess, signum: int) -> bool:
        """Signal the process group. If the kernel refuses, report that to the agent and return False."""
        allowed = process.signal(signum)
        if not allowed:
            self._report_stuck(process, process.pid)
        return allowed

    def _report_stuck(self, process: ManagedProcess, pid: int) -> None:
        """Report once that the kernel refuses signals to ``pid``, which is in the process's tree."""
        user = user_of(pid)
        if user is not None and not process.reported_stuck:
            process.reported_stuck = True
            self._outbox.send({"ev": "stuck", "key": process.key, "pid": pid, "user": user})

    # Ends.

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            process = self._by_pid.pop(ended.si_pid, None)
            if process is not None:
                # While it is a zombie its number can't be reused, so the group is certainly its own.
                process.signal(signal.SIGKILL)
                if process.report >= 0:
                    self._launched(process.report)
            _, status = os.waitpid(ended.si_pid, 0)
            if process is not None:
                process.status = os.waitstatus_to_exitcode(status)
                self._stopping.pop(process.key, None)
                self._ending[process.key] = process

    def _sweep(self) -> None:
        """Look at the tree if an end is awaited. Without a descriptor it can't be seen: then look again later."""
        now = boottime()
        if not self._ending or now < self._sweep_at:
            return
        with contextlib.suppress(OSError):
            self._look()
        # Reading all of /proc is slow if many processes run: it takes at most a fifth of the time.
        spent = boottime() - now
        self._sweep_at = now + max(4 * spent, _SWEEP_AGAIN_SECONDS if self._ending else 0.0)

    def _look(self) -> None:
        """Kill the processes that left the groups of ended processes, and report ends of which nothing is left.

        An orphan comes to the watchdog when its parent ends, before that end can be seen here. If the orphan's mark
        can't be read (a wiped environment, another user), it belongs to the process whose session it is in. An orphan
        without either belongs to no process and is killed, so that nothing runs unaccounted for. During an exec there
        is no mark to read for a moment, so that takes several looks.
        """
        left: set[str] = set()
        guilty, unmarked = dict[int, set[str]](), dict[int, int]()
        for pid, state in own_children(self._by_pid).items():
            if state in "ZX":
                # It ended after the list was read. Its own children came here at that moment, and may not be on the
                # list.
                left |= self._ending.keys()
                continue
            key = self._key_of(pid)
            if key in self._processes and key not in self._ending:
                continue  # a daemon of a child that still runs
            if not key:
                unmarked[pid] = self._unmarked.get(pid, 0) + 1
            holds = {key} & self._ending.keys() or self._older_than(pid)
            if key or unmarked[pid] >= _LOOKS_FOR_A_MARK:
                guilty[pid] = holds
            left |= holds
        self._unmarked = unmarked
        self._end_strays(guilty)
        for process in list(self._ending.values()):
            if process.key not in left and process.group_gone():
                self._over(process)

    def _key_of(self, pid: int) -> str:
        """The key of the process that an orphan comes from, by its mark, else by its session; "" if unknown."""
        nonce, _, key = (environment_value(pid, MARK) or "").partition("/")
        if nonce:
            return key if nonce == self._nonce else nonce
        session = session_of(pid)
        return next((process.key for process in self._processes.values() if process.pid == session), "")

    def _older_than(self, pid: int) -> set[str]:
        """The keys of the ending processes that an orphan of unknown origin may come from: it began after them."""
        since = began(pid) or math.inf  # What it has started comes here now, and may not be on the list.
        return {key for key, process in self._ending.items() if process.began <= since}

    def _end_strays(self, strays: dict[int, set[str]]) -> None:
        """Kill the orphans and what is below them. ``strays`` has, by pid, the keys whose end the orphan delays."""
        refused = {pid for pid in descendants(strays) if not kill(pid)} if strays else set()
        if not refused:
            return
        for root, keys in strays.items():
            stuck = [pid for pid in descendants([root]) if pid in refused]
            for key in keys if stuck else ():
                self._report_stuck(self._ending[key], stuck[0])

    def _over(self, process: ManagedProcess) -> None:
        del self._ending[process.key], self._processes[process.key]
        if process.failure:
            self._failed(process.key, process.failure)
        else:
            report: Message = {"ev": "exited", "key": process.key, "status": process.status, "fenced": process.fenced}
            self._outbox.send({**report, "memory": process.over_memory})
            if process.over_memory:
                self._memory.settle(boottime())


def main() -> None:
    """Run the watchdog, which the agent starts with the arguments ``<control fd> <feed fd>`` (watchdog/client.py)."""
    control, feed = (int(word) for word in sys.argv[-2:])
    for signum in _WITHOUT_EFFECT:
        # With a handler, not with SIG_IGN: an exec would pass that on to the program.
        signal.signal(signum, lambda *_: None)
    for signum in signal.valid_signals():
        if signal.getsignal(signum) == signal.SIG_IGN:  # A shell that starts the agent in the background does that.
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    become_subreaper()
    os.set_blocking(feed, False)
    for fd in (control, feed):
        os.set_inheritable(fd, False)
    sock = socket.socket(fileno=control)
    sock.setblocking(False)
    gc.freeze()  # Looking for garbage would write to each object, and after a fork each page written to is copied.
    Watchdog(sock, feed).run()
