"""The base image: a public Python image, or a Debian root made here if no image registry can be reached."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

PUBLIC = "python:3.11-slim-bookworm"
_SUITE = "bookworm"  # its python3 is 3.11
_PACKAGES = ("python3", "ca-certificates")
# Bytes that no container needs: documentation, translations, the package manager's lists and archives.
_SURPLUS = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"),
    *("var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "var/log"),
)


class ImageError(Exception):
    """The image can't be built; the message says what to do."""


def choose(given: str) -> str:
    """The name of the base image, present in Docker: ``given``, the public one, else the one made here."""
    name = given or PUBLIC
    if _present(name) or docker("pull", "--quiet", name, check=False).returncode == 0:
        return name
    if given:
        raise ImageError(f"BASE={given} is neither here nor in reach; build it, or leave BASE out")
    return _local()


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run docker. Raises ImageError with its message."""
    try:
        answer = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ImageError("there is no docker; install it (on Debian: apt-get install docker.io)") from None
    if check and answer.returncode != 0:
        raise ImageError(f"docker {' '.join(arguments)}: {answer.stderr.strip() or answer.stdout.strip()}")
    return answer


def _present(name: str) -> bool:
    return docker("image", "inspect", name, check=False).returncode == 0


def _local() -> str:
    """Build a Debian root with debootstrap, named after its inputs."""
    digest = hashlib.sha256(" ".join((_SUITE, *_PACKAGES, *_SURPLUS)).encode()).hexdigest()[:12]
    name = f"localhost/processhub-base:{_SUITE}-{digest}"
    lock_path = Path(tempfile.gettempdir()) / f"processhub-base-{os.getuid()}.lock"
    with open(lock_path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _present(name):
            _import(name)
    return name


def _import(name: str) -> None:
    program = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin")
    if program is None or os.geteuid() != 0:
        raise ImageError(
            f"{PUBLIC} is not in reach, and a Debian root can't be made: that needs root and debootstrap "
            "(apt-get install debootstrap); or name an image with CPython 3.11 by BASE="
        )
    with tempfile.TemporaryDirectory(prefix="processhub-base-") as scratch:
        root = Path(scratch) / "root"
        command = [program, "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(root)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise ImageError("debootstrap failed:\n" + "\n".join(answer.stdout.splitlines()[-10:]))
        for folder in _SURPLUS:
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder).mkdir(parents=True)
        tar = subprocess.Popen(["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(["docker", "import", "-", name], stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL)
        if tar.wait() != 0:
            docker("image", "rm", name)
            raise ImageError("the Debian root could not be packed")
