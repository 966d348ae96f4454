"""The agent's side of the watchdog: start it, send it orders, receive its reports."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from processhub.agent.frames import Inbox, Message, Outbox
from processhub.agent.listeners import Listeners
from processhub.agent.watchdog.fence import FEED

log = logging.getLogger(__name__)
_SOURCE = Path(__file__).resolve().parents[3]
_MAIN = "import sys; sys.path.append(sys.argv[1]); from processhub.agent.watchdog.main import main; main()"


class Watcher(Protocol):
    """Receives the reports of one process: ``started`` or ``failed``, and ``exited`` after a start.

    ``exited`` comes alone if the process was killed before the exec.
    """

    def started(self, pid: int) -> None:
        """Handle the report that the exec took place."""

    def failed(self, what: str, number: int, text: str) -> None:
        """Handle a failed start. ``what`` is fork, cwd, exec, value or fenced; ``number`` is an errno, or 0."""

    def stuck(self, pid: int, user: int) -> None:
        """The kernel does not let process ``pid`` of the tree be signalled: it runs as another user."""

    def exited(self, status: int, fenced: bool, memory: tuple[int, int] | None = None) -> None:
        """Handle the end of the process and all below it.

        ``status`` is the exit code, or minus the number of the signal that ended the process. ``memory``: it was killed
        because it used most of the container's memory, of which hardly any was left; the bytes used and the limit.
        """


class Feed:
    """Sends the Lease's deadlines to the watchdog; used on the Lease's own thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def set(self, stop_at: float, kill_at: float) -> None:
        """Order stop signals at ``stop_at`` and SIGKILL at ``kill_at`` (seconds of CLOCK_BOOTTIME); 0 and 0: never."""
        try:
            os.write(self._fd, FEED.pack(stop_at, kill_at))
        except BlockingIOError:
            log.error("the watchdog does not read its deadlines")
        except BrokenPipeError:
            pass  # the watchdog has ended: the agent's main loop notices that too, and ends


class WatchdogProcess:
    """The watchdog's process and the connections to it, made before an event loop exists."""

    def __init__(self) -> None:
        """Start the process. This is done early: it takes some 40 ms, in which the agent loads its own imports."""
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        feed_end, feed = os.pipe()
        self.process = subprocess.Popen(
            # Without site and environment, so that it comes up quickly and in the same way in any image.
            [sys.executable, "-S", "-E", "-P", "-c", _MAIN, str(_SOURCE), str(its.fileno()), str(feed_end)],
            pass_fds=(its.fileno(), feed_end),
            stdin=subprocess.DEVNULL,
            close_fds=True,
        )
        its.close()
        os.close(feed_end)
        mine.setblocking(False)
        os.set_blocking(feed, False)
        self.socket = mine
        self.feed = Feed(feed)


class WatchdogClient:
    """Sends orders to the watchdog and receives its reports, on the running loop.

    ``lost`` notifies of the watchdog's end.
    """

    def __init__(self, watchdog: WatchdogProcess, nofile: tuple[int, int] | None) -> None:
        self.pid = watchdog.process.pid
        self.lost: Listeners[()] = Listeners()
        self._socket, self._nofile = watchdog.socket, nofile
        self._inbox, self._outbox = Inbox(watchdog.socket), Outbox(watchdog.socket)
        self._watchers: dict[str, Watcher] = {}
        self._count = 0
        self._writing = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(watchdog.socket.fileno(), self._read)

    def spawn(
        self,
        watcher: Watcher,
        argv: list[str],
        env: dict[str, str],
        *,
        cwd: str = "",
        stop_signal: int = signal.SIGTERM,
        main_alone: bool = False,
        fds: dict[int, int],
    ) -> str:
        """Order the start of a process; returns its key for ``stop`` and ``signal``.

        ``fds`` maps the new process's descriptor numbers to descriptors of this process, which are closed here.
        ``main_alone``: signals go to the process and not to its group; SIGKILL always goes to the group.
        """
        self._count += 1
        key = str(self._count)
        self._watchers[key] = watcher
        order: Message = {"op": "spawn", "key": key, "argv": argv, "env": env, "cwd": cwd, "stop": int(stop_signal)}
        order["fds"], order["main_alone"] = list(fds), main_alone
        if self._nofile:
            order["nofile"] = self._nofile
        self._send(order, tuple(fds.values()))
        return key

    def stop(self, key: str, grace: float) -> None:
        """Send the stop signal now, and SIGKILL after ``grace`` seconds; 0: SIGKILL at once. May be called again."""
        self._send({"op": "stop", "key": key, "grace": grace})

    def signal(self, key: str, signum: int) -> None:
        """Send a signal to the process group, or to the process with ``main_alone``."""
        self._send({"op": "signal", "key": key, "signal": signum})

    def close(self) -> None:
        """Close the connection. The watchdog then kills all that still runs, and ends."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()

    def _send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        self._outbox.send(message, fds)
        if self._outbox.pending and not self._writing and not self._outbox.closed:
            self._writing = True
            self._loop.add_writer(self._socket.fileno(), self._write)

    def _write(self) -> None:
        self._outbox.flush()
        if not self._outbox.pending:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> None:
        for message in self._inbox.read():
            key, event = message["key"], message["ev"]
            if event == "started":
                self._watchers[key].started(message["pid"])
            elif event == "failed":
                self._watchers.pop(key).failed(message["what"], message["errno"], message["text"])
            elif event == "stuck":
                self._watchers[key].stuck(message["pid"], message["user"])
            elif event == "exited":
                memory = message["memory"]
                self._watchers.pop(key).exited(message["status"], message["fenced"], tuple(memory) if memory else None)
        if self._inbox.closed:
            self._loop.remove_reader(self._socket.fileno())
            self.lost.notify()
