"""The process between the kubelet and one container: it ends every descendant before it reports the container's end.

Started as ``python -S -E`` with ``fd of the report pipe`` and ``pid of the kubelet`` as arguments and the container's
spec as JSON on stdin; it writes one JSON object a line to the pipe:

- ``{"started": pid, "at": seconds}``
- ``{"failed": message}``: the command could not be executed
- ``{"exited": code, "signal": number or 0, "at": seconds}``: no process of the container is left

SIGTERM is passed on to the container's main process. SIGUSR1 kills everything now. SIGHUP, which the kernel sends
when the kubelet dies, does too. Standard library only, and few modules of it: this is the start latency of a pod.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from typing import Any

from localcluster.kubelet import rootfs, syscalls
from localcluster.kubelet.proctree import descendants

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
    spec = json.load(sys.stdin)

    def report(**event: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the kubelet died; what is left to do is to end the container
            os.write(report_fd, (json.dumps(event) + "\n").encode())

    try:
        pid = _start(spec)
    except OSError as error:
        _end_tree()
        report(failed=error.strerror or str(error))
        return
    report(started=pid, at=time.time())
    status = _watch(pid)
    at = time.time()
    _end_tree()
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    report(exited=128 + number if number else os.WEXITSTATUS(status), signal=number, at=at)


def _watch(pid: int) -> int:
    """Until the main process has ended; returns its wait status."""
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
    """Kill and reap until no descendant is left; orphans come to this process, so ECHILD is the proof."""
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
    """Start the main process in its own mount tree; OSError where the command cannot be executed."""
    log = os.open(spec["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    root = "/"
    if spec["isolate"] and rootfs.isolate(spec["hostname"]):
        mounts = [rootfs.Mount(**mount) for mount in spec["mounts"]]
        root = rootfs.build(mounts, spec["scratch"])
    told, tell = os.pipe2(os.O_CLOEXEC)
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(spec, root, log, shim)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            number = getattr(error, "errno", None) or 0
            os.write(tell, json.dumps([number, str(error)]).encode())
        os._exit(127)
    os.close(tell)
    os.close(log)
    with open(told, "rb") as pipe:
        problem = pipe.read()
    if problem:
        os.waitpid(pid, 0)
        number, text = json.loads(problem)
        raise OSError(number, text)
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
