"""The program kubectl_complete-hub, which kubectl asks to complete ``kubectl hub …``."""

from __future__ import annotations

import sys

from processhub.cli.app import app
from processhub.cli.completion import for_kubectl


def main(arguments: list[str] | None = None) -> int:
    """Complete the last argument; returns the exit code."""
    return for_kubectl(app, sys.argv[1:] if arguments is None else arguments)
