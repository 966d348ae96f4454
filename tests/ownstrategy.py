"""Installs the package examples/own-strategy with pip in a folder for PYTHONPATH, without an index."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "examples" / "own-strategy"
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")


def installed(folder: Path) -> str:
    """Install the package below ``folder`` and return the folder of its modules."""
    source, packages = folder / "source", folder / "packages"
    shutil.copytree(SOURCE, source)  # pip leaves build files beside the sources
    # With the installed setuptools.
    command = [sys.executable, *_PIP, "--no-build-isolation", "--target", str(packages), str(source)]
    subprocess.run(command, check=True)
    return str(packages)
