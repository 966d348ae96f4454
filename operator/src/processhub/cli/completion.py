"""Completion of command lines by Tab: the scripts for shells, the program that kubectl asks, and the names of objects.

Typer completes verbs and options. kubectl completes ``kubectl hub …`` by a program ``kubectl_complete-hub`` on PATH,
which gets the words and prints one completion a line, and last a directive.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
from collections.abc import Iterable

import typer

from processhub.api.naming import natural_order
from processhub.cli.errors import DONE
from processhub.cli.options import COMPLETION_VARIABLE, Output, Shell, Target
from processhub.cli.output import out
from processhub.client.session import Session

_PROGRAM = "kubectl-hub"
_SECONDS = 3.0  # a Tab that takes longer completes nothing
_NO_FILES = ":4"  # the directive of cobra, by which kubectl is written: no names of files


def script(shell: Shell) -> int:
    """Print the script that makes the shell complete ``kubectl-hub``; returns the exit code."""
    _complete(f"source_{shell.value}")
    return DONE


def for_kubectl() -> int:
    """Run the console script ``kubectl_complete-hub``; its last argument is the word to complete."""
    words = [_PROGRAM, *sys.argv[1:]]
    # The form for fish is the one that kubectl reads: the word, a tab and its description.
    os.environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    os.environ["_TYPER_COMPLETE_ARGS"] = " ".join(shlex.quote(word) if word else "" for word in words)
    _complete("complete_fish")
    out(_NO_FILES)
    return DONE


def register_shells() -> None:
    """Make typer know the shells, which it does by itself only for programs with its own options for completion."""
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()


def _complete(instruction: str) -> None:
    """Have typer print what the instruction asks for."""
    from processhub.cli.app import app

    register_shells()
    os.environ[COMPLETION_VARIABLE] = instruction
    with contextlib.suppress(SystemExit):
        app([], prog_name=_PROGRAM, complete_var=COMPLETION_VARIABLE)


def child_ids(context: typer.Context, incomplete: str) -> list[str]:
    """The ids that begin so, in the hubs that the command line leaves."""
    return _matching((child_id for session in _sessions(context) for child_id in session.registry.records), incomplete)


def member_names(context: typer.Context, incomplete: str) -> list[str]:
    """The members whose names begin so."""
    names = (member.name for session in _sessions(context) for member in session.living_hub().status.members)
    return _matching(names, incomplete)


def hub_names(context: typer.Context, incomplete: str) -> list[str]:
    """The hubs whose names begin so."""
    return _matching((session.name for session in _sessions(context, named=False)), incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)}, key=natural_order)


def _sessions(context: typer.Context, *, named: bool = True) -> list[Session]:
    """The hubs of the command line's namespace, or the one that it names; none if they can't be read in time."""
    fields = Target.__dataclass_fields__
    given = {name: value for name, value in context.params.items() if name in fields and value is not None}
    target = Target(**{**given, "output": Output.TABLE})
    hub = target.hub or os.environ.get("HUB_NAME") or ""
    with contextlib.suppress(Exception):  # completion never fails: there is nobody to read why
        return asyncio.run(_read(target, hub if named else ""))
    return []


async def _read(target: Target, hub: str) -> list[Session]:
    from processhub.cli.scope import Scope
    from processhub.cli.target import connection

    async with asyncio.timeout(_SECONDS), connection(target) as (client, namespace):
        scope = Scope(client, namespace, hub)
        await scope.read()
        return scope.sessions
