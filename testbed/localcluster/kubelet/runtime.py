"""One run of a container: the shim's process and its reports."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from localcluster.kubelet import proctree
from localcluster.kubelet.rootfs import Mount
from localcluster.kubelet.shimcode import entry_point

RUN_MARKER = "LOCALCLUSTER_CONTAINER"
START_ERROR = 128  # containerd's exit code where the command could not be executed


@dataclass(frozen=True)
class Spec:
    """The container as the shim needs it; ``code`` is the folder that the shim is run from."""

    code: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    hostname: str
    isolate: bool
    scratch: str
    read_only: bool
    mounts: list[Mount]


@dataclass(frozen=True)
class Exit:
    """The end of a run; times are seconds since the epoch."""

    code: int
    signal: int
    at: float
    reason: str
    message: str = ""


@dataclass
class Run:
    """A container's main process and all of its descendants."""

    id: str
    shim: subprocess.Popen[bytes]
    code: str
    pid: int = 0
    started_at: float = 0.0
    started: asyncio.Event = field(default_factory=asyncio.Event)  # set after a failed start too
    ended: asyncio.Future[Exit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def alive(self) -> bool:
        """Whether any process of the container may be left."""
        return not self.ended.done()

    def terminate(self) -> None:
        """Send SIGTERM to the main process."""
        self._tell(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to all processes."""
        self._tell(signal.SIGUSR1)

    def kill_main(self) -> None:
        """Send SIGKILL to the main process, as ``kill -9`` would; the shim ends the rest."""
        if self.alive and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """The pids of all live processes of the container, without the shim."""
        return proctree.descendants(self.shim.pid) if self.alive else []

    async def pause(self) -> None:
        """Send SIGSTOP to all processes; returns when none can run any more, including those forked meanwhile.

        A process in an uninterruptible call (``D``, for example while its vfork child is stopped) gets the signal too:
        it stops before it runs on. Children are signalled before parents: a stopped child keeps its parent in vfork.
        """
        told: set[int] = set()
        while running := [pid for pid in reversed(self.processes()) if _may_run(pid, told)]:
            for pid in running:
                told.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.001)

    def resume(self) -> None:
        """Send SIGCONT to all processes."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _tell(self, number: signal.Signals) -> None:
        if self.alive:
            self.shim.send_signal(number)


def _may_run(pid: int, told: set[int]) -> bool:
    state = proctree.state(pid)
    return state in "RS" or (state == "D" and pid not in told)


def start(spec: Spec) -> Run:
    """Start the container; the run's ``started`` is set when its command is executed or has failed to be."""
    identity = uuid.uuid4().hex
    environment = {**spec.env, RUN_MARKER: identity}
    told, tell = os.pipe2(os.O_CLOEXEC)
    given = os.memfd_create("spec", os.MFD_CLOEXEC)  # not a pipe: a large environment would block this process
    try:
        os.write(given, marshal.dumps({**vars(spec), "env": environment}))
        os.lseek(given, 0, os.SEEK_SET)
        shim = subprocess.Popen(
            [*entry_point(Path(spec.code), "shim"), str(tell), str(os.getpid())],
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=None,
            pass_fds=(tell,),
            start_new_session=True,
        )
    finally:
        os.close(given)
        os.close(tell)
    run = Run(identity, shim, spec.code)
    os.set_blocking(told, False)
    _follow(run, told)
    return run


def _follow(run: Run, told: int) -> None:
    loop = asyncio.get_running_loop()
    buffer = b""

    def readable() -> None:
        nonlocal buffer
        try:
            chunk = os.read(told, 65536)
        except BlockingIOError:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            _take(run, line.decode())
        if not chunk:
            loop.remove_reader(told)
            os.close(told)
            run.shim.wait()  # its report pipe closed because it ended
            if not run.ended.done():
                _end_orphans(run.id)
                run.ended.set_result(Exit(137, signal.SIGKILL, time.time(), "Error", "the container's shim was killed"))
            run.started.set()

    loop.add_reader(told, readable)


def _take(run: Run, line: str) -> None:
    """Take in one line of the shim's report."""
    word, _, rest = line.partition(" ")
    if word == "failed":
        run.ended.set_result(Exit(START_ERROR, 0, time.time(), "StartError", rest))
        return
    values = rest.split()
    if word == "started":
        run.pid, run.started_at = int(values[0]), float(values[1])
        run.started.set()
    else:
        code = int(values[0])
        run.ended.set_result(Exit(code, int(values[1]), float(values[2]), "Error" if code else "Completed"))


def _end_orphans(identity: str) -> None:
    """End the processes of a container whose shim was killed: they become this process's children (a subreaper).

    They are looked for in all of /proc, because they have no parent of ours for a moment while their parents die.
    """
    wanted = f"{RUN_MARKER}={identity}".encode()
    while left := [pid for pid in _all_pids() if _has(pid, wanted)]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):  # reaped by its own parent
                os.waitpid(pid, 0)


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _has(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
