"""Docker's daemon: found, or started by hand if there is no systemd to do it, and ended if it was started here."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from kind import cgroups, docker, packages
from kind.docker import Daemon
from kind.layout import KIND, RUN, KindError
from kind.pidrecord import PidRecord, runs

PROGRAMS = ("docker", "dockerd", "containerd", "runc", "iptables")
# Files of dockerd and its containerd, which remain if these are killed.
_PID_FILES = {"/run/docker.pid": "dockerd", "/run/docker/containerd/containerd.pid": "containerd"}
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_CAP_SYS_RESOURCE = 24  # linux/capability.h
# Four nodes' systemd, kubelet and containerd watch more files than the kernel's defaults allow.
_INOTIFY = {"fs/inotify/max_user_instances": 1024, "fs/inotify/max_user_watches": 524288}


@dataclass(frozen=True)
class Record:
    """The changes that were made to this machine for dockerd, recorded beforehand so that ``stop`` can undo them."""

    process: PidRecord | None
    cgroups: tuple[str, ...]  # controllers that were mounted
    sysctls: dict[str, int]  # the values before


def ensure(*, start: bool) -> None:
    """Return when Docker's daemon answers, starting it if ``start``.

    Raises KindError with the remedy if it doesn't run and may not or can't be started.
    """
    match docker.state():
        case Daemon.ANSWERS:
            return
        case Daemon.FORBIDDEN:
            raise KindError("Docker's daemon runs, but you may not use it: be root, or join the group `docker`")
        case Daemon.NO_CLIENT if not start:
            packages.ensure(PROGRAMS, install=False)
        case _:
            _ensure_may_start(start)
    packages.ensure(PROGRAMS, install=start)
    _start()


START_BY_SYSTEMD = "Docker's daemon is not running; start it with: sudo systemctl start docker"


def under_systemd() -> bool:
    """Whether systemd starts the daemons here."""
    return Path("/run/systemd/system").exists()


def _ensure_may_start(start: bool) -> None:
    if under_systemd():
        raise KindError(START_BY_SYSTEMD)
    if os.geteuid() != 0:
        raise KindError("Docker's daemon is not running, and only root can start it; have it started, or be root")
    if not start:
        raise KindError("Docker's daemon is not running; start it yourself, or with: make kind-up START_DOCKERD=1")


def lost() -> bool:
    """Whether the dockerd that ``ensure`` started was ended by something else: its containers may still run."""
    record = _read()
    return record is not None and record.process is not None and not record.process.alive()


def stop() -> str:
    """End the dockerd that ``ensure`` started and undo the changes made for it; returns a text about what was done.

    A daemon that somebody else started, and one that still runs containers, is left alone.
    """
    record = _read()
    if record is None:
        return ""
    if record.process and record.process.alive() and (others := _containers()):
        return f"dockerd (process {record.process.pid}) is left running for {others} other containers"
    _undo(record)
    return "dockerd stopped"


def lacks_sys_resource(status: str) -> bool:
    """Whether the process of this /proc/<pid>/status text lacks CAP_SYS_RESOURCE, as its children then do."""
    return not has_capability(status, "CapBnd", _CAP_SYS_RESOURCE)


def has_capability(status: str, which: str, number: int) -> bool:
    """Whether the set ``which`` (CapBnd, CapEff) of this /proc/<pid>/status text has capability ``number``."""
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith(f"{which}:"))
    return bool(int(mask, 16) >> number & 1)


def command(*, shim: Path | None) -> list[str]:
    """The command line of dockerd; ``shim`` replaces runc if one is needed."""
    words = ["dockerd", "--storage-driver=overlay2", "--default-cgroupns-mode=private"]
    if shim:
        words += [f"--add-runtime=permitted={shim}", "--default-runtime=permitted"]
    return words


def _start() -> None:
    if (left := _read()) is not None:
        _undo(left)  # it ended by itself, or never answered
    record = Record(None, tuple(cgroups.unmounted()), _too_low())
    _write(record)
    try:
        for controller in record.cgroups:
            cgroups.mount(controller)
        for name in record.sysctls:
            _sysctl(name).write_text(str(_INOTIFY[name]))
        process, record = _launch(record)
        _wait(process)
    except BaseException:
        _undo(record)
        raise
    print(f"dockerd started (process {process.pid}, log {_log()}); `make kind-down` stops it", flush=True)


def _launch(record: Record) -> tuple[subprocess.Popen[bytes], Record]:
    for pid_file, name in _PID_FILES.items():
        remove_stale(Path(pid_file), name)
    shim = KIND / "runc_shim.py" if lacks_sys_resource(Path("/proc/self/status").read_text()) else None
    program, *options = command(shim=shim)
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))  # runc's and iptables' folders
    with open(_log(), "wb") as log:
        process = subprocess.Popen(
            [packages.find(program) or program, *options],
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    record = Record(PidRecord.of(process.pid), record.cgroups, record.sysctls)
    _write(record)
    return process, record


def remove_stale(pid_file: Path, name: str) -> None:
    """Remove the PID file of a killed dockerd: a zombie or another process with its pid would prevent a start."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        if not runs(int(pid_file.read_text()), name):
            pid_file.unlink()


def _wait(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while docker.state() is not Daemon.ANSWERS:
        if (code := process.poll()) is not None or time.monotonic() > deadline:
            problem = f"ended with code {code}" if code is not None else f"does not answer after {_START_SECONDS:.0f} s"
            last = "\n".join(_log().read_text(errors="replace").splitlines()[-10:])
            raise KindError(f"dockerd {problem}; its last lines:\n{last}")
        time.sleep(0.2)


def _undo(record: Record) -> None:
    if record.process:
        record.process.end(_STOP_SECONDS)
    for controller in record.cgroups:
        cgroups.unmount(controller)
    for name, value in record.sysctls.items():
        _sysctl(name).write_text(str(value))
    _file().unlink()


def _containers() -> int:
    """The number of running containers; 0 if the daemon is too broken to answer."""
    return len(docker.call("ps", "--quiet").split()) if docker.state() is Daemon.ANSWERS else 0


def _too_low() -> dict[str, int]:
    values = {name: int(_sysctl(name).read_text()) for name in _INOTIFY}
    return {name: value for name, value in values.items() if value < _INOTIFY[name]}


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _file() -> Path:
    return RUN / "dockerd.json"


def _log() -> Path:
    return RUN / "dockerd.log"


def _write(record: Record) -> None:
    RUN.mkdir(mode=0o700, exist_ok=True)
    scratch = _file().with_suffix(".new")
    scratch.write_text(json.dumps(asdict(record)))
    scratch.replace(_file())


def _read() -> Record | None:
    """The record of the dockerd that was started here in this boot; None if there is none or it isn't ours."""
    try:
        found = json.loads(_file().read_text())
    except (FileNotFoundError, PermissionError):
        return None
    process = PidRecord(**found["process"]) if found["process"] else None
    return Record(process, tuple(found["cgroups"]), found["sysctls"])
