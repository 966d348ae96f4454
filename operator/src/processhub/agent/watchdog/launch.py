"""Fork and exec of one process: in a session of its own, with default signals, and killed if the watchdog dies.

The time that a fork takes is spent on the pages of memory that either process writes to afterwards: each is copied. So
all that can be prepared is prepared before, and the new process calls little more than the C library. With Python's own
fork, exec and signal functions it writes to three times as many pages.

There is no vfork here: it copies nothing, but lets the watchdog wait until the program is read from its disk. If that
took long, no deadline would be kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import struct

from processhub.agent.watchdog.linux import libc, set_death_signal

# Looked up here, because each new process would have to do it again.
_setsid, _setrlimit, _chdir = libc.setsid, libc.setrlimit, libc.chdir
_fcntl, _dup2, _execve = libc.fcntl, libc.dup2, libc.execve


class Launch:
    """The program to run, as it is passed to the C library.

    ``fds`` maps descriptor numbers in the new process to descriptors of this one. ``nofile`` is RLIMIT_NOFILE of the
    new process, since the agent raised its own. ``problem`` says what of all that no process can have, if anything.
    """

    def __init__(
        self, argv: list[str], env: dict[str, str], cwd: str, fds: dict[int, int], nofile: tuple[int, int] | None
    ) -> None:
        self.fds, self.problem = fds, ""
        self.nofile = struct.pack("qq", *nofile) if nofile else b""  # a struct rlimit
        try:
            self.cwd = _encoded([cwd])[0]
            self.paths = _encoded(_paths(argv[0], env))
            self.argv = _array(_encoded(argv))
            self.env = _array(_encoded([f"{name}={value}" for name, value in env.items()]))
        except (ValueError, IndexError) as error:
            self.problem = str(error)


def _paths(program: str, env: dict[str, str]) -> list[str]:
    """Where the program may be, by the PATH of its own environment."""
    if "/" in program:
        return [program]
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    return [os.path.join(folder, program) for folder in folders]  # noqa: PTH118 a Path would drop the "./" of a text


def _encoded(texts: list[str]) -> list[bytes]:
    """The texts as bytes, all by one call. Raises ValueError for a text with a NUL character."""
    encoded = os.fsencode("\0".join(texts)).split(b"\0")
    if len(encoded) != len(texts):
        raise ValueError("embedded null byte")
    return encoded


def _array(items: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """A C array of C strings, with NULL behind the last."""
    return (ctypes.c_char_p * (len(items) + 1))(*items, None)


def launch(order: Launch) -> tuple[int, int]:
    """Fork and exec; returns ``(pid, report)``.

    ``report`` is the read end of a pipe. It ends empty once the exec took place. Otherwise it contains ``<what> <errno>
    <text>``, where ``what`` is cwd, exec or value. Raises OSError if the fork fails.
    """
    report, child_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    parent = os.getpid()
    pid = libc.fork()
    if pid == 0:
        _become(order, parent, child_end)
    os.close(child_end)
    try:
        _check(pid)
    except OSError:
        os.close(report)
        raise
    return pid, report


def _become(order: Launch, parent: int, report: int) -> None:
    """Execute the program, in the new process. The signals need nothing: those with a handler are reset by an exec."""
    what = "value"
    try:
        set_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)  # the watchdog died before the death signal was set
        _check(_setsid())
        if order.nofile:
            _check(_setrlimit(resource.RLIMIT_NOFILE, order.nofile))
        _arrange(order.fds)
        if order.cwd:
            what = "cwd"
            _check(_chdir(order.cwd))
        what = "exec"
        _check(_execute(order))
    except OSError as error:
        _report(report, f"{what} {error.errno or 0} {error.strerror}")
    except BaseException as error:  # noqa: BLE001 reported to the agent; a forked process can do no more
        _report(report, f"value 0 {error}")
    os._exit(127)


def _execute(order: Launch) -> int:
    """Call exec for one path after the other. If none can be executed, the error of one that is there counts."""
    failure = 0
    for path in order.paths:
        _execve(path, order.argv, order.env)
        number = ctypes.get_errno()
        if failure in (0, errno.ENOENT, errno.ENOTDIR):
            failure = number
    ctypes.set_errno(failure)
    return -1


def _check(result: int) -> int:
    """The result of a C function. Raises OSError if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _arrange(fds: dict[int, int]) -> None:
    """Put the descriptors on their numbers. Sources that may be on the number of a target are moved first."""
    above = max(fds, default=0) + 1
    for target, source in fds.items():
        if source < above:
            fds[target] = _check(_fcntl(source, fcntl.F_DUPFD_CLOEXEC, above))
    for target, source in fds.items():
        _check(_dup2(source, target))


def _report(report: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(report, text.encode(errors="replace")[:4096])
