"""A runner process: the agent starts it through the watchdog and exchanges messages with it over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket

import msgspec

from processhub.agent.children.execchild import exit_text
from processhub.agent.children.output import Encode, open_pipes, tagged
from processhub.agent.children.runs import out_of_memory
from processhub.agent.env import Environment
from processhub.agent.frames import Inbox, Message, Outbox
from processhub.agent.logs import LogSink
from processhub.agent.watchdog.client import WatchdogClient
from processhub.api.reasons import Reason
from processhub.cluster.timestamps import now_micros

log = logging.getLogger(__name__)
_CHANNEL = 3  # the number of the socket's descriptor in the runner


class RunnerProcess:
    """The process and its socket. Raises OSError if no descriptors are left.

    A subclass defines ``heard(message)`` and ``process_ended(what, reason, fenced)``.
    """

    def __init__(self, env: Environment, watchdog: WatchdogClient, sink: LogSink, python: str, path: str) -> None:
        self.pid = 0
        self.up = False  # the runner has reported that it is ready
        self.last_words = ""  # the last line on stderr that no actor wrote
        self.out_of_memory = ""  # why it was killed, if for that
        self._watchdog, self._python = watchdog, python
        self._loop = asyncio.get_running_loop()
        encoders = {number: self._encoder(env, stream) for number, stream in ((1, "stdout"), (2, "stderr"))}
        self._outputs, fds = open_pipes(self._loop, sink, encoders)
        try:
            mine, its = socket.socketpair()
        except OSError:
            for fd in fds.values():
                os.close(fd)
            self._finish_outputs()
            raise
        mine.setblocking(False)
        self._socket = mine
        self._inbox, self._outbox = Inbox(mine), Outbox(mine)
        self._writing = self._flushing = False
        self._loop.add_reader(mine.fileno(), self.listen)
        self.send({"op": "hub", "name": env.hub, "namespace": env.namespace, "member": env.member})
        self._key = watchdog.spawn(
            self,
            [python, "-m", "processhub.agent.runner"],
            _environment(env, path),
            stop_signal=signal.SIGTERM,
            fds={**fds, _CHANNEL: its.detach()},
        )

    def send(self, message: Message) -> None:
        """Send a message to the runner without waiting."""
        self._outbox.send(message)
        self._write_later()

    def post(self, data: bytes, *, at_once: bool = True) -> None:
        """Send a frame to the runner: the first of a turn of the event loop ``at_once``, all further ones together."""
        self._outbox.queue(data)
        if not self._flushing:
            self._flushing = True
            if at_once:
                self._outbox.flush()
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._socket.fileno() >= 0:
            self._outbox.flush()
            self._write_later()

    def _write_later(self) -> None:
        if self._outbox.pending and not self._writing and not self._outbox.closed:
            self._writing = True
            self._loop.add_writer(self._socket.fileno(), self._write)

    def kill(self) -> None:
        """Send SIGKILL to the process and all processes below it."""
        self._watchdog.stop(self._key, 0)

    def heard(self, message: Message) -> None:
        """Handle an event of the runner."""
        raise NotImplementedError

    def process_ended(self, what: str, reason: Reason, *, fenced: bool) -> None:
        """Handle the end of the process, or its failed start."""
        raise NotImplementedError

    # Reports of the watchdog.

    def started(self, pid: int) -> None:
        """Record that the exec took place."""
        self.pid = pid

    def failed(self, what: str, number: int, text: str) -> None:
        """Report that the process could not be started."""
        self._close()
        reason = Reason.COMMAND_NOT_FOUND if what == "exec" else Reason.EXITED
        self.process_ended(f"{self._python}: {text}", reason, fenced=what == "fenced")

    def stuck(self, pid: int, user: int) -> None:
        """Log that the kernel refuses signals to a process of the runner."""
        log.warning("process %d of the runner %d can't be signalled: it runs as user %d", pid, self.pid, user)

    def exited(self, status: int, fenced: bool, memory: tuple[int, int] | None = None) -> None:
        """Report the end: the process ended, and nothing of its process tree is left."""
        self.listen()  # read the last messages that it sent
        self._close()
        self.out_of_memory = out_of_memory(memory) if memory else ""
        reason = Reason.OUT_OF_MEMORY if memory else Reason.EXITED
        self.process_ended(exit_text(status, fenced), reason, fenced=fenced)

    # Internal.

    def listen(self) -> None:
        """Read the messages that the runner has sent."""
        for message in self._inbox.read():
            if message["ev"] == "ready":
                self.up, self.pid = True, message["pid"]  # a busy watchdog may report the start later
            self.heard(message)
        if self._inbox.closed and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())

    def _write(self) -> None:
        self._outbox.flush()
        if not self._outbox.pending:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _close(self) -> None:
        self._finish_outputs()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _finish_outputs(self) -> None:
        for output in self._outputs:
            output.finish()

    def _encoder(self, env: Environment, stream: str) -> Encode:
        common = {"hub": env.hub, "member": env.member}
        plain = tagged({**common, "stream": stream})
        head = msgspec.json.encode(common)[1:-1]

        def encode(lines: list[bytes]) -> list[bytes]:
            start = b'{"time":"%s",%s,' % (now_micros().encode(), head)
            encoded = []
            for line in lines:
                if _is_actors(line):
                    encoded.append(start + line[1:] + b"\n")
                else:
                    encoded += plain([line])
                    if stream == "stderr" and line:
                        self.last_words = line.decode(errors="replace")
            return encoded

        return encode


class _ActorLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line that an actor printed, as runner/output.py writes it."""

    child: str
    epoch: int
    stream: str
    message: str


_line = msgspec.json.Decoder(_ActorLine)


def _is_actors(line: bytes) -> bool:
    """Whether the line comes from an actor, as the runner wraps it. Such a line is JSON and is logged unchanged."""
    if not line.startswith(b'{"child":"'):
        return False
    with contextlib.suppress(msgspec.DecodeError):
        return bool(_line.decode(line).child)
    return False


def _environment(env: Environment, path: str) -> dict[str, str]:
    return {
        **env.container,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HUB_NAME": env.hub,
        "HUB_NAMESPACE": env.namespace,
        "HUB_MEMBER": env.member,
        "HUB_URL": env.url,
        "HUB_TOKEN_FILE": env.token_file,
    }
