"""The package examples/own-strategy, installed by pip in a folder for PYTHONPATH; no index is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "examples" / "own-strategy"
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")


def installed(folder: Path) -> str:
    """Install the package below ``folder``; where its modules are."""
    source, packages = folder / "source", folder / "packages"
    shutil.copytree(SOURCE, source)  # pip leaves what it builds beside the sources
    # With the setuptools that is here.
    command = [sys.executable, *_PIP, "--no-build-isolation", "--target", str(packages), str(source)]
    subprocess.run(command, check=True)
    return str(packages)
