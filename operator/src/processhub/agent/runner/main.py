"""The runner: it takes orders from the agent, and starts and ends actors.

Agent and runner exchange these messages (frames.py). The JSON of a user is the payload of its message:

- from the agent: ``hub`` (first), ``start``, ``stop``, ``role``, ``handover``, ``call``, ``cast``, and ``asked`` (the
  answer to ``ask``)
- to the agent: ``ready``, ``running`` (of one or more actors), ``answer`` (to a call or cast), ``ask`` (a request to
  another child), ``unask`` (its answer is not needed any more), ``handed`` and ``kept`` (to a handover), ``crashed``,
  ``ended``

``ended`` means that nothing of the actor will run any more. After ``crashed`` something still does.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
from typing import NoReturn

from processhub.actor import HubHandle
from processhub.agent.frames import Inbox, Message, frame, is_broken
from processhub.agent.runner.hosted import Hosted
from processhub.agent.runner.leader import Leader
from processhub.agent.runner.output import ChildLines
from processhub.agent.runner.scheduler import Scheduler

_GC_OBJECTS = 10_000  # new objects, after which garbage is looked for among them
CHANNEL = 3  # the number of the descriptor of the agent's socket
_TERM_GRACE = 3600.0  # the sender of SIGTERM also sends SIGKILL when the grace is over
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


class Runner:
    """All actors of this process."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Condition()
        self._out: list[bytes] = []  # frames to be sent
        self._begun = memoryview(b"")  # those that were sent in part
        self._blocked = False  # a thread waits for room in the socket
        self._unreported: list[str] = []  # the actors that came up and were not reported yet
        self._leader: Leader | None = None
        self._scheduler = Scheduler()
        self._hosted: dict[str, Hosted] = {}
        self.hub = HubHandle("", "", "")
        self._ending = False

    def run(self) -> NoReturn:
        """Serve until the agent closes its socket; that ends the process. SIGTERM ends all actors in order first."""
        inbox = Inbox(self._sock)
        # A signal is queued among the orders, because its handler may run in the middle of one or while a lock is held.
        signalled, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGTERM, lambda *_: os.write(wake, b"\0"))
        # A process that an actor forks is not the runner: the signal ends it, as it ends any process.
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
        poll = select.poll()
        for fd in (self._sock.fileno(), signalled):
            poll.register(fd, select.POLLIN)
        self.send({"ev": "ready", "pid": os.getpid()})

        def gather() -> None:
            try:
                for fd, _ in poll.poll():
                    if fd == signalled:
                        os.read(signalled, 256)
                        self._terminate()
                    else:
                        for message in inbox.read():
                            self._dispatch(message)
            except BaseException:  # noqa: BLE001 without this thread no actor would hear anything any more
                traceback.print_exc()
                os._exit(1)
            if inbox.closed:
                os._exit(0)

        self._leader = Leader(self._scheduler, gather, self._flush)
        while True:  # this thread handles signals, and no actor's code may keep it from that
            signal.pause()

    def _terminate(self) -> None:
        self._ending = True
        for hosted in list(self._hosted.values()):
            hosted.stop(_TERM_GRACE, "shutdown")
        self._end_if_empty()

    def _dispatch(self, message: Message) -> None:
        operation = message["op"]
        if operation == "hub":
            self.hub = HubHandle(message["name"], message["namespace"], message["member"])
        elif operation == "start":
            hosted = Hosted(message, self, self._scheduler)
            self._hosted[hosted.key] = hosted
            hosted.wake()
            if self._ending:
                # It came late; the ends of all actors are reported by the end of the process.
                hosted.stop(_TERM_GRACE, "shutdown")
        else:
            found = self._hosted.get(message["key"])
            if found is None:
                return  # it ended meanwhile, which was reported to the agent
            if operation == "stop":
                found.stop(message["grace"], "stop")
            elif operation == "asked":
                found.answered(message)
            else:
                found.deliver(message)

    # For actors (ActorHost).

    def over(self, key: str) -> None:
        """Forget an actor that has ended."""
        self._hosted.pop(key, None)

    def came_up(self, key: str) -> None:
        """Report that an actor is up, together with others: many start at once."""
        self._unreported.append(key)
        self._settle()

    def send(self, message: Message) -> None:
        """Send an event to the agent, after those of all actors that came up before."""
        if message["ev"] == "ended" and self._ending:
            # After a signal, the end of the process reports the ends of its actors, and the cause.
            self._end_if_empty()
            return
        payload = message.pop("payload", None)
        with self._sending:
            self._put_up()
            self._out.append(frame(_encode(message).encode(), payload))
        self._settle()

    def _settle(self) -> None:
        """Send what is to be sent. The leader does that for all the strands that it runs."""
        if self._leader is None or not self._leader.is_current:
            self._flush()

    def _put_up(self) -> None:
        """Queue the message about the actors that came up. The lock must be held."""
        if count := len(self._unreported):
            keys = self._unreported[:count]
            del self._unreported[:count]  # threads may have added more meanwhile
            self._out.append(frame(_encode({"ev": "running", "keys": keys}).encode()))

    def _flush(self) -> None:
        """Send what the socket takes. A thread that ran actors is not kept: the rest is sent once there is room."""
        with self._sending:
            self._put_up()
            if self._blocked or self._send():
                return
            self._blocked = True
            try:
                threading.Thread(target=self._send_rest, name="writer", daemon=True).start()
            except RuntimeError:  # the container's limit of threads is reached
                self._send_rest()

    def _send(self) -> bool:
        """Send until the socket is full; returns whether all is sent. The lock must be held."""
        while self._begun or self._out:
            if not self._begun:
                self._begun = memoryview(b"".join(self._out))
                self._out.clear()
            try:
                self._begun = self._begun[self._sock.send(self._begun) :]
            except OSError as error:
                if is_broken(error):
                    os._exit(0)  # the agent has ended
                return False
        return True

    def _send_rest(self) -> None:
        """Send the rest, as fast as the agent reads it."""
        while True:
            select.select((), (self._sock,), ())
            with self._sending:
                self._put_up()
                if self._send():
                    self._blocked = False
                    self._sending.notify_all()
                    return

    def _end_if_empty(self) -> None:
        if self._ending and not self._hosted:
            self._flush()
            with self._sending:
                self._sending.wait_for(lambda: not self._blocked)
            os._exit(0)


def main() -> None:
    """Run ``python -m processhub.agent.runner``: the watchdog starts it with the agent's socket as descriptor 3."""
    sock = socket.socket(fileno=CHANNEL)
    sock.setblocking(False)
    os.set_inheritable(CHANNEL, False)
    out, err = ChildLines(1, "stdout"), ChildLines(2, "stderr")
    sys.stdout, sys.stderr = out, err
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=err)
    # By the default, looking for cycles after each few new actors took half of the time of their starts.
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 20, 20)
    runner = Runner(sock)
    try:
        runner.run()
    except KeyboardInterrupt:
        os._exit(0)
