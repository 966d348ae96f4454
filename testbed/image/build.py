"""``python -m image.build``: the operator's image from operator/Dockerfile, its wheels fetched and checked first.

The build itself needs no network: the wheels are in its context, each with the hash that requirements.lock gives.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from image.base import ImageError, choose, docker
from localcluster.layout import CHECKOUT
from localcluster.tools import cache_root
from processhub import __version__

_OPERATOR = CHECKOUT / "operator"
_LOCKS = (_OPERATOR / "requirements.lock", _OPERATOR / "image" / "build.lock")
_CONTEXT = ("Dockerfile", "requirements.lock", "image", "src")


def platforms(machine: str) -> list[str]:
    """The platforms of wheels that an image of this architecture may have: glibc 2.28 or older."""
    return [f"manylinux_2_{minor}_{machine}" for minor in range(5, 29)] + [f"manylinux2014_{machine}"]


def build(tag: str, base: str) -> str:
    """Build the image and return its size as a text. Raises ImageError."""
    if docker("info", check=False).returncode != 0:
        raise ImageError("Docker's daemon is not running; start it, or let `make kind-up START_DOCKERD=1` do it")
    chosen = choose(base)
    locked = wheels()
    with tempfile.TemporaryDirectory(prefix="processhub-image-") as scratch:
        for name in _CONTEXT:
            source = _OPERATOR / name
            if source.is_dir():
                shutil.copytree(
                    source, Path(scratch) / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
                )
            else:
                shutil.copy2(source, scratch)
        shutil.copytree(locked, Path(scratch) / ".wheels")
        # The classic builder is in every Docker; this file needs nothing newer.
        command = [
            "docker",
            "build",
            "--quiet",
            "--network=none",
            "--build-arg",
            f"BASE={chosen}",
            "--tag",
            tag,
            scratch,
        ]
        answer = subprocess.run(
            command, env={**os.environ, "DOCKER_BUILDKIT": "0"}, capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            raise ImageError("docker build failed:\n" + "\n".join((answer.stdout + answer.stderr).splitlines()[-20:]))
    size = int(docker("image", "inspect", "--format", "{{.Size}}", tag).stdout)
    return f"{tag} on {chosen}: {size / 1e6:.0f} MB unpacked"


def wheels() -> Path:
    """The folder of all locked wheels for this machine, from the cache or downloaded. Raises ImageError."""
    machine = platform.machine()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _LOCKS)).hexdigest()[:12]
    folder = cache_root().parent / f"wheels-{machine}-{digest}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheels-", dir=folder.parent) as scratch:
        target = Path(scratch) / "wheels"
        allowed = [option for name in platforms(machine) for option in ("--platform", name)]
        for lock in _LOCKS:
            command = [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
                *("--require-hashes", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"),
                *("--abi", "cp311", "--abi", "abi3", "--abi", "none"),
                *(*allowed, "--dest", str(target), "--requirement", str(lock)),
            ]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode != 0:
                raise ImageError(f"the wheels of {lock.name} can't be fetched:\n{answer.stderr.strip()}")
        try:
            target.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another run was faster
                raise
    return folder


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m image.build", description=__doc__)
    parser.add_argument("--tag", default=f"processhub:{__version__}")
    parser.add_argument("--base", default="", help="image with CPython 3.11 to build upon")
    arguments = parser.parse_args()
    begun = time.monotonic()
    try:
        said = build(arguments.tag, arguments.base)
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{said}; {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
