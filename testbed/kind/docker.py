"""The docker command: whether its daemon answers, and calls that report a failure as one sentence."""

from __future__ import annotations

import subprocess
from enum import Enum

from kind import packages
from kind.layout import KindError


class Daemon(Enum):
    """The state of the daemon, from ``docker info``."""

    ANSWERS = "answers"
    FORBIDDEN = "forbidden"  # it runs, but this user may not use it
    SILENT = "silent"
    NO_CLIENT = "no client"  # the docker command itself is missing


def state() -> Daemon:
    """Whether the daemon can be used."""
    if packages.find("docker") is None:
        return Daemon.NO_CLIENT
    answer = _run("info", "--format", "{{.ServerVersion}}", timeout=30)
    if answer.returncode == 0:
        return Daemon.ANSWERS
    return Daemon.FORBIDDEN if "permission denied" in answer.stderr else Daemon.SILENT


def call(*arguments: str, timeout: float = 120) -> str:
    """Run docker; returns its output. Raises KindError with docker's message; ``timeout`` is in seconds."""
    answer = _run(*arguments, timeout=timeout)
    if answer.returncode != 0:
        raise KindError(f"docker {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout.strip()


def works(*arguments: str) -> bool:
    """Run docker; whether it succeeded."""
    return _run(*arguments, timeout=60).returncode == 0


def has_image(name: str) -> bool:
    """Whether Docker has this image."""
    return works("image", "inspect", name)


def _run(*arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        said = f"no answer within {timeout:.0f} s"
        return subprocess.CompletedProcess(["docker", *arguments], 124, stdout="", stderr=said)
