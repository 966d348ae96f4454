"""The process between the kubelet and one container: it ends every descendant before it reports the container's end.

Started as ``python -S -E`` with ``fd of the report pipe`` and ``pid of the kubelet`` as arguments and the container's
spec (a dict, by marshal) on stdin; it writes lines to the pipe:

- ``started PID SECONDS``
- ``failed MESSAGE``: the command could not be executed
- ``exited CODE SIGNAL SECONDS``: no process of the container is left (SIGNAL is 0 where it exited by itself)

SIGTERM is passed on to the container's main process. SIGUSR1 kills everything now. SIGHUP, which the kernel sends
when the kubelet dies, does too.

Standard library only, and few modules of it (no json, dataclasses, contextlib, typing, pathlib: they would treble the
start-up): this is the latency of a pod's start, and there is one for each container.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys
import time

from localcluster.kubelet import rootfs, syscalls
from localcluster.kubelet.proctree import descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT}


def main() -> None:
    """Run one container to its end."""
    report_fd, kubelet = int(sys.argv[1]), int(sys.argv[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != kubelet:
        sys.exit(1)
    os.set_inheritable(report_fd, False)
    spec = marshal.load(sys.stdin.buffer)  # noqa: S302 - written by the kubelet that started this

    def report(line: str) -> None:
        try:
            os.write(report_fd, f"{line}\n".encode())
        except BrokenPipeError:  # the kubelet has died; only the container's end is left to do
            return

    try:
        pid = _start(spec)
    except OSError as error:
        _end_tree()
        report(f"failed {error.strerror or error}".replace("\n", " "))
        return
    report(f"started {pid} {time.time()}")
    status = _watch(pid)
    at = time.time()
    _end_tree()
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    report(f"exited {128 + number if number else os.WEXITSTATUS(status)} {number} {at}")


def _watch(pid: int) -> int:
    """Wait until the main process has ended; returns its wait status."""
    while True:
        # Reap before waiting: a SIGCHLD that came during the start is pending and merges with later ones.
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == pid:
                return status
            if ended == 0:
                break
        number = signal.sigwait(_AWAITED)
        if number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, signal.SIGTERM)  # not reaped yet, so the pid is still its
        elif number in (signal.SIGUSR1, signal.SIGHUP):
            os.kill(pid, signal.SIGKILL)


def _end_tree() -> None:
    """Kill and reap until no descendant is left. Orphans become children of this process, so ECHILD is the proof."""
    while True:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)


def _start(spec: dict[str, Any]) -> int:
    """Start the main process in its own mount tree; OSError if the command can't be executed."""
    log = os.open(spec["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    root = "/"
    if spec["isolate"] and rootfs.isolate(spec["hostname"]):
        root = rootfs.build(spec["mounts"], spec["scratch"], spec["read_only"])
    told, tell = os.pipe2(os.O_CLOEXEC)
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(spec, root, log, shim)
        except BaseException as error:  # noqa: BLE001 - any exception must be reported to the parent
            number = getattr(error, "errno", None) or 0
            os.write(tell, f"{number} {getattr(error, 'strerror', None) or error}".encode())
        os._exit(127)
    os.close(tell)
    os.close(log)
    with open(told) as pipe:
        problem = pipe.read()
    if problem:
        os.waitpid(pid, 0)
        number, _, text = problem.partition(" ")
        raise OSError(int(number), text)
    return pid


def _become(spec: dict[str, Any], root: str, log: int, shim: int) -> None:
    os.setsid()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shim:
        os._exit(127)
    if root != "/":
        os.chroot(root)
    os.chdir(spec["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Python ignores these two, and ignored signals stay ignored over exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    argv, environment = spec["argv"], spec["env"]
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - the pod's own command
    except FileNotFoundError as error:
        where = "no such file" if "/" in argv[0] else "executable file not found in $PATH"
        raise FileNotFoundError(error.errno, f'exec: "{argv[0]}": {where}') from error
    except OSError as error:
        raise OSError(error.errno, f'exec: "{argv[0]}": {error.strerror}') from error
