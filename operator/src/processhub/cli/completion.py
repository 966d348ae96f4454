"""Completion of command lines by Tab: the scripts for shells, and the program that kubectl asks.

Typer completes verbs and options. kubectl completes ``kubectl hub …`` by a program ``kubectl_complete-hub`` on PATH,
which gets the words and prints one completion a line, and last a directive.
"""

from __future__ import annotations

import contextlib
import os
import shlex

import typer

from processhub.cli.errors import DONE
from processhub.cli.options import Shell
from processhub.cli.output import out
from processhub.cli.shared import COMPLETION_VARIABLE

_PROGRAM = "kubectl-hub"
_NO_FILES = ":4"  # the directive of cobra, by which kubectl is written: no names of files


def script(app: typer.Typer, shell: Shell) -> int:
    """Print the script that makes the shell complete ``kubectl-hub``; returns the exit code."""
    _complete(app, f"source_{shell.value}")
    return DONE


def for_kubectl(app: typer.Typer, arguments: list[str]) -> int:
    """Print what the last argument may be completed to, and the directive; returns the exit code."""
    words = [_PROGRAM, *arguments]
    # The form for fish is the one that kubectl reads: the word, a tab and its description.
    _complete(
        app,
        "complete_fish",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        _TYPER_COMPLETE_ARGS=" ".join(shlex.quote(word) if word else "" for word in words),
    )
    out(_NO_FILES)
    return DONE


def register_shells() -> None:
    """Make typer know the shells, which it does by itself only for programs with its own options for completion."""
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()


def _complete(app: typer.Typer, instruction: str, **more: str) -> None:
    """Have typer print what the instruction asks for. It takes that from environment variables, which go again."""
    register_shells()
    given = {COMPLETION_VARIABLE: instruction, **more}
    os.environ.update(given)
    try:
        with contextlib.suppress(SystemExit):
            app([], prog_name=_PROGRAM, complete_var=COMPLETION_VARIABLE)
    finally:
        for name in given:
            del os.environ[name]
