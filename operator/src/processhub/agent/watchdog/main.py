"""The warden's loop: orders in, processes started and ended, exits told.

It is fed by the agent and depends on it for nothing else: when the agent hangs past the deadline, or ends, the
warden ends the children by itself. It never waits for a peer: messages that the agent does not read stay in memory.
"""

from __future__ import annotations

import contextlib
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
    boottime,
    descendants,
    end_all,
    environment_value,
    has_become,
    own_children,
)
from processhub.agent.watchdog.managedprocess import ManagedProcess

MARK = "PROCESSHUB_WARD"  # in the environment of all that a ward starts: whose it is, wherever it went
_SWEEP_AGAIN_SECONDS = 0.02
_LOOKS_FOR_A_MARK = 10
_END_SECONDS = 30.0


class Warden:
    """All wards of a member. ``control`` is the agent's socket, ``feed`` the pipe of Lease deadlines."""

    def __init__(self, control: socket.socket, feed: int) -> None:
        self._inbox, self._outbox = Inbox(control), Outbox(control)
        self._control = control.fileno()
        self._fence = Fence(feed)
        self._wards: dict[str, ManagedProcess] = {}
        self._by_pid: dict[int, ManagedProcess] = {}
        self._stopping: dict[str, ManagedProcess] = {}  # told to stop, SIGKILL still to come
        self._ending: dict[str, ManagedProcess] = {}  # main process reaped, tree perhaps not gone
        self._unmarked: dict[int, int] = {}  # orphans without a mark, and at how many looks in a row
        self._sweep_at = 0.0  # CLOCK_BOOTTIME before which the tree is not looked at again
        self._epoll = select.epoll()
        self._reports: dict[int, ManagedProcess] = {}
        self._writing = False
        # In the marks: a warden restarted in the same container must not take old marks for its own.
        self._nonce = f"{os.getpid()}.{time.time_ns()}"

    def run(self) -> None:
        """Serve until the agent's socket ends, then end every process below and return."""
        wake, wake_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for fd in (self._control, self._fence.feed, self._fence.timer.fd, wake):
            self._epoll.register(fd, select.EPOLLIN)
        try:
            self._serve(wake)
        finally:
            end_all(_END_SECONDS)

    def _serve(self, wake: int) -> None:
        while not (self._inbox.closed or self._outbox.closed):
            for fd, _ in self._epoll.poll(self._timeout()):
                if fd == self._control:
                    self._outbox.flush()
                    for message in self._inbox.read():
                        self._obey(message)
                elif fd == self._fence.timer.fd:
                    self._fence.timer.acknowledge()
                elif fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 65536)
                elif fd in self._reports:
                    self._launched(fd)
            self._deadlines()
            self._reap()
            self._sweep()
            self._poll_for_writing()

    def _timeout(self) -> float | None:
        times = [ward.kill_at for ward in self._stopping.values()]
        if self._ending:
            times.append(self._sweep_at)
        return max(0.0, min(times) - boottime()) if times else None

    def _poll_for_writing(self) -> None:
        if self._outbox.pending != self._writing:
            self._writing = self._outbox.pending
            self._epoll.modify(self._control, select.EPOLLIN | (select.EPOLLOUT if self._writing else 0))

    # orders

    def _obey(self, message: Message) -> None:
        ward = self._wards.get(message["key"])
        if message["op"] == "spawn":
            self._spawn(message)
        elif ward is None:
            return  # it ended meanwhile; the agent is told of that
        elif message["op"] == "stop":
            self._stop(ward, message["grace"])
        elif message["op"] == "signal":
            ward.signal(message["signal"])

    def _spawn(self, message: Message) -> None:
        key = message["key"]
        fds = self._inbox.take_fds(len(message["fds"]))
        try:
            if self._fence.closed:
                self._failed(key, "fenced 0 the member's Lease was not renewed in time")
                return
            order = Launch(
                argv=message["argv"],
                env={**message["env"], MARK: f"{self._nonce}/{key}"},
                cwd=message["cwd"],
                fds=dict(zip(message["fds"], fds, strict=True)),
                nofile=tuple(message["nofile"]) if message.get("nofile") else None,
            )
            try:
                pid, report = launch(order)
            except OSError as error:
                self._failed(key, f"fork {error.errno} {error.strerror}")
                return
        finally:
            for fd in fds:
                os.close(fd)
        ward = ManagedProcess(key=key, pid=pid, stop_signal=message["stop"], report=report)
        self._wards[key] = self._by_pid[pid] = self._reports[report] = ward
        self._epoll.register(report, select.EPOLLIN)

    def _launched(self, fd: int) -> None:
        """The exec's outcome is known: the launch pipe says what failed, or ended empty.

        It ends so too where the fork was killed before its exec: then no program ran, and "started" would be a lie.
        """
        ward = self._reports.pop(fd)
        self._epoll.unregister(fd)
        ward.failure = os.read(fd, 4096).decode(errors="replace")
        os.close(fd)
        ward.report = -1
        if not ward.failure and has_become(ward.pid):
            self._outbox.send({"ev": "started", "key": ward.key, "pid": ward.pid})
            if ward.key in self._stopping:
                ward.signal(ward.stop_signal)

    def _failed(self, key: str, failure: str) -> None:
        what, number, text = failure.split(" ", 2)
        self._outbox.send({"ev": "failed", "key": key, "what": what, "errno": int(number), "text": text})

    def _stop(self, ward: ManagedProcess, grace: float) -> None:
        kill_at = boottime() + grace
        if grace <= 0:
            ward.kill()
        elif not ward.kill_at:
            self._stopping[ward.key] = ward
            if ward.report < 0:  # else the signal would be lost on the fork that has not become the program yet
                ward.signal(ward.stop_signal)
        ward.kill_at = min(ward.kill_at or kill_at, kill_at)

    def _deadlines(self) -> None:
        now = boottime()
        for ward in [ward for ward in self._stopping.values() if now >= ward.kill_at]:
            del self._stopping[ward.key]
            ward.kill()
        if due := self._fence.due():
            for ward in self._by_pid.values():
                ward.fenced = True
                if due == "kill":
                    ward.kill()
                elif not ward.kill_at:
                    # With its SIGKILL, also if the Lease is renewed by then: one that was told to stop is of no use any
                    # more, a runner whose other actors have ended already least of all.
                    self._stop(ward, self._fence.kill_at - now)

    # ends

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            ward = self._by_pid.pop(ended.si_pid, None)
            if ward is not None:
                # While it is a zombie nobody else can have its number, so the group is surely its own.
                ward.signal(signal.SIGKILL)
                if ward.report >= 0:
                    self._launched(ward.report)
            _, status = os.waitpid(ended.si_pid, 0)
            if ward is not None:
                ward.status = os.waitstatus_to_exitcode(status)
                self._stopping.pop(ward.key, None)
                self._ending[ward.key] = ward

    def _sweep(self) -> None:
        """End what escaped from the groups of ended wards, and tell of those of which nothing is left.

        An orphan comes to the warden when its parent ends, before that end can be seen here. One whose mark
        can't be read (a wiped environment) belongs to nobody and is ended: nothing runs unaccounted for. Amid an exec
        there is none to read for a moment, so that takes several looks.
        """
        began = boottime()
        if not self._ending or began < self._sweep_at:
            return
        left: set[str] = set()
        guilty, unmarked = [], dict[int, int]()
        for pid, state in own_children(self._by_pid).items():
            if state in "ZX":
                # It ended after the list was read: its own children came here then, and may not be on it.
                left |= self._ending.keys()
                continue
            nonce, _, key = (environment_value(pid, MARK) or "").partition("/")
            if nonce == self._nonce and key in self._wards and key not in self._ending:
                continue  # a daemon of a child that still runs
            if not key:
                unmarked[pid] = self._unmarked.get(pid, 0) + 1
            if key or unmarked[pid] >= _LOOKS_FOR_A_MARK:
                guilty.append(pid)
            left |= {key} & self._ending.keys() or self._ending.keys()
        self._unmarked = unmarked
        for pid in descendants(guilty) if guilty else ():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for ward in list(self._ending.values()):
            if ward.key not in left and ward.group_gone():
                self._over(ward)
        # Reading all of /proc is dear where many processes run: never more than a fifth of the time.
        spent = boottime() - began
        self._sweep_at = began + max(4 * spent, _SWEEP_AGAIN_SECONDS if self._ending else 0.0)

    def _over(self, ward: ManagedProcess) -> None:
        del self._ending[ward.key], self._wards[ward.key]
        if ward.failure:
            self._failed(ward.key, ward.failure)
        else:
            self._outbox.send({"ev": "exited", "key": ward.key, "status": ward.status, "fenced": ward.fenced})


def main() -> None:
    """``<control fd> <feed fd>`` as the last two arguments; the agent starts it (agent/watchdog/client.py)."""
    control, feed = (int(word) for word in sys.argv[-2:])
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A signal to the whole container is the agent's to answer; it ends the warden by closing the socket.
        signal.signal(signum, signal.SIG_IGN)
    become_subreaper()
    os.set_blocking(feed, False)
    for fd in (control, feed):
        os.set_inheritable(fd, False)
    sock = socket.socket(fileno=control)
    sock.setblocking(False)
    Warden(sock, feed).run()
