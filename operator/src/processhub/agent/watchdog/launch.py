"""Fork and exec of one process: in a session of its own, with default signals, and killed if the watchdog dies."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from dataclasses import dataclass, field

from processhub.agent.watchdog.linux import set_death_signal


@dataclass(frozen=True)
class Launch:
    """The program to run. ``fds`` maps descriptor numbers in the new process to descriptors of this one."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    fds: dict[int, int] = field(default_factory=dict)
    nofile: tuple[int, int] | None = None  # RLIMIT_NOFILE of the new process, since the agent raised its own


_INHERITED_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores these signals, and an exec would pass that on
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def launch(order: Launch) -> tuple[int, int]:
    """Fork and exec; returns ``(pid, report)``.

    ``report`` is the read end of a pipe. It ends empty once the exec took place. Otherwise it contains ``<what> <errno>
    <text>``, where ``what`` is cwd, exec or value. Raises OSError if the fork fails.
    """
    report, child_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(report)
        os.close(child_end)
        raise
    if pid == 0:
        _become(order, parent, child_end)
    os.close(child_end)
    return pid, report


def _become(order: Launch, parent: int, report: int) -> None:
    what = "value"
    try:
        set_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)  # the watchdog died before the death signal was set
        os.setsid()
        for signum in (*_INHERITED_IGNORES, *_HANDLED):
            signal.signal(signum, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if order.nofile:
            resource.setrlimit(resource.RLIMIT_NOFILE, order.nofile)
        _arrange(order.fds)
        if order.cwd:
            what = "cwd"
            os.chdir(order.cwd)
        what = "exec"
        os.execvpe(order.argv[0], order.argv, order.env)  # noqa: S606 a list, never a string for a shell
    except OSError as error:
        _report(report, f"{what} {error.errno or 0} {error.strerror}")
    except BaseException as error:  # noqa: BLE001 reported to the agent; a forked process can do no more
        _report(report, f"value 0 {error}")
    os._exit(127)


def _arrange(fds: dict[int, int]) -> None:
    """Put the descriptors on their numbers. It takes two steps, because a source may have the number of a target."""
    high = {target: os.dup(source) for target, source in fds.items()}
    while any(source in fds for source in high.values()):
        high = {target: os.dup(source) for target, source in high.items()}
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for target, source in high.items():
        os.dup2(source, target)


def _report(report: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(report, text.encode(errors="replace")[:4096])
