"""A runner process: started through the warden, spoken to over a socket of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from typing import Any

from processhub.agent.env import Environment
from processhub.agent.execchild import exit_text
from processhub.agent.frames import Inbox, Message, Outbox
from processhub.agent.logs import LogSink, now, pipe_reader
from processhub.agent.spawner import Spawner
from processhub.api.reasons import Reason

_CHANNEL = 3
_SHARED = ("PATH", "HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ")


class RunnerProcess:
    """The process and its socket. A subclass defines ``heard(message)`` and ``process_ended(what, reason, fenced)``."""

    def __init__(self, env: Environment, spawner: Spawner, sink: LogSink, python: str, path: str) -> None:
        self.pid = 0
        self.up = False  # it said that it is ready
        self.last_words = ""  # the last line on stderr that was no actor's
        self._spawner, self._python = spawner, python
        self._loop = asyncio.get_running_loop()
        mine, its = socket.socketpair()
        mine.setblocking(False)
        self._socket = mine
        self._inbox, self._outbox = Inbox(mine), Outbox(mine)
        self._writing = False
        self._finish_logs: list[Callable[[], None]] = []
        fds = {number: self._pipe(env, sink, stream) for number, stream in ((1, "stdout"), (2, "stderr"))}
        self._loop.add_reader(mine.fileno(), self._read)
        self.send({"op": "hub", "name": env.hub, "namespace": env.namespace, "member": env.member})
        self._key = spawner.spawn(
            self,
            [python, "-m", "processhub.agent.runner"],
            _environment(env, path),
            stop_signal=signal.SIGTERM,
            fds={**fds, _CHANNEL: its.detach()},
        )

    def send(self, message: Message) -> None:
        """Send to the runner; never waits."""
        self._outbox.send(message)
        if self._outbox.pending and not self._writing and not self._outbox.closed:
            self._writing = True
            self._loop.add_writer(self._socket.fileno(), self._write)

    def kill(self) -> None:
        """SIGKILL to the process and all below it."""
        self._spawner.stop(self._key, 0)

    def heard(self, message: Message) -> None:
        """An event of the runner."""
        raise NotImplementedError

    def process_ended(self, what: str, reason: Reason, *, fenced: bool) -> None:
        """The process is gone, or never came up."""
        raise NotImplementedError

    # what the warden tells

    def started(self, pid: int) -> None:
        """The exec took place."""
        self.pid = pid

    def failed(self, what: str, number: int, text: str) -> None:
        """Nothing runs."""
        self._close()
        reason = Reason.COMMAND_NOT_FOUND if what == "exec" else Reason.EXITED
        self.process_ended(f"{self._python}: {text}", reason, fenced=what == "fenced")

    def exited(self, status: int, fenced: bool) -> None:
        """Nothing of its tree is left."""
        self._read()  # what it said last
        self._close()
        self.process_ended(exit_text(status, fenced), Reason.EXITED, fenced=fenced)

    # inside

    def _read(self) -> None:
        for message in self._inbox.read():
            self.up = self.up or message["ev"] == "ready"
            self.heard(message)
        if self._inbox.closed and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())

    def _write(self) -> None:
        self._outbox.flush()
        if not self._outbox.pending:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _close(self) -> None:
        for finish in self._finish_logs:
            finish()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _pipe(self, env: Environment, sink: LogSink, stream: str) -> int:
        def take(line: str) -> dict[str, Any]:
            record: dict[str, Any] = {"time": now(), "hub": env.hub, "member": env.member}
            if line.startswith('{"child":'):
                try:
                    said = json.loads(line)
                    if said["child"]:
                        record |= {"child": said["child"], "epoch": said["epoch"]}
                    return {**record, "stream": said["stream"], "message": said["message"]}
                except (ValueError, KeyError, TypeError):
                    pass  # some program's own line that happens to begin like ours
            if stream == "stderr" and line:
                self.last_words = line
            return {**record, "stream": stream, "message": line}

        write_end, finish = pipe_reader(self._loop, sink, take)
        self._finish_logs.append(finish)
        return write_end


def _environment(env: Environment, path: str) -> dict[str, str]:
    shared = {name: env.container[name] for name in _SHARED if name in env.container}
    return {
        **shared,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HUB_NAME": env.hub,
        "HUB_NAMESPACE": env.namespace,
        "HUB_MEMBER": env.member,
        "HUB_URL": env.url,
        "HUB_TOKEN_FILE": env.token_file,
    }
