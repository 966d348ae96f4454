"""Runs each command of kubectl-hub in its own process, forked from one that has imported all modules.

The imports take nine tenths of a command's time. ``Cli.begin`` starts the program as users do. This module is both the
tests' side and the program that forks.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple

from waiting import ENDS_WITH_US

_LONGEST = 1 << 20
_SECONDS = 90


class Finished(NamedTuple):
    """The output and exit code of a command."""

    out: str
    err: str
    code: int


async def run(words: Sequence[str], environment: Mapping[str, str], stdin: str) -> Finished:
    """Run ``kubectl-hub`` with these arguments."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        reading, writing = os.pipe()
        try:
            request = json.dumps({"words": list(words), "environment": dict(environment)}).encode()
            socket.send_fds(_server(), [request], [given.fileno(), out.fileno(), err.fileno(), writing])
        finally:
            os.close(writing)
        code = await asyncio.wait_for(_all_of(reading), _SECONDS)
        said, complaint = (_content(file) for file in (out, err))
        assert code, f"kubectl-hub {' '.join(words)} ended without an exit code: {complaint}"
        return Finished(said, complaint, int(code))


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@functools.cache
def _server() -> socket.socket:
    """Return the connection to the program that forks, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
    with theirs:
        command = [*ENDS_WITH_US, sys.executable, __file__, str(theirs.fileno())]
        server = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


async def _all_of(descriptor: int) -> bytes:
    reader = asyncio.StreamReader()
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        return await reader.read()


def _serve(requests: socket.socket) -> None:
    """Fork for each request until the tests' side closes the connection."""
    import processhub.cli
    from processhub.agent.watchdog.linux import set_death_signal
    from processhub.cli.main import main

    for module in pkgutil.iter_modules(processhub.cli.__path__, "processhub.cli."):
        importlib.import_module(module.name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks are not waited for: each reports its exit code
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _LONGEST, 4)
        if not request:
            return
        if os.fork() == 0:
            set_death_signal(signal.SIGKILL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for standard, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, standard)
            order = json.loads(request)
            os.environ.clear()
            os.environ.update(order["environment"])
            sys.argv = ["kubectl-hub", *order["words"]]
            try:
                code: int | str | None = main()
            except SystemExit as end:  # click ends like this when a shell asks it for completions
                code = end.code
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(descriptors[3], str(code).encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
