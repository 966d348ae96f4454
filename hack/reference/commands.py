"""The page of the command line, from the typer application.

``typer utils docs`` would repeat the options that all verbs have at each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from processhub.cli import main
from processhub.cli.app import app
from reference.markdown import NotDescribedError, code, link, prose, table, words

_NAME = "kubectl hub"


def page() -> str:
    """The page: every verb with its arguments and options. Options that all verbs have are listed once."""
    group: Any = typer.main.get_command(app)
    verbs = list(_verbs(group, typer.Context(group, info_name=_NAME)))
    on_hub = [verb for verb in verbs if _has(verb, code("--hub NAME"))]  # the others are about this program alone
    common = [record for record in _options(*on_hub[0]) if all(_has(verb, record[0]) for verb in on_hub)]
    index = [(link(code(context.command_path), context.command_path), words(verb.help)) for verb, context in verbs]
    parts = [
        f"# {_NAME}",
        f"{words(group.help)} The program is `kubectl-hub` (`pip install './operator[cli]'`); kubectl calls it as "
        f"`{_NAME}` where it is on PATH.",
        table(("verb", "description"), index),
        "## Options of every verb",
        "`completion` and `options` have none of them.",
        table(("option", "description"), common),
        "## Exit codes",
        prose(_after_colon(main.main.__doc__ or "")),
    ]
    for verb, context in verbs:
        parts += [f"## {context.command_path}", words(verb.help), f"```sh\n{_usage(verb, context)}\n```"]
        own = [record for record in (*_arguments(verb, context), *_options(verb, context)) if record not in common]
        if own:
            parts.append(table(("argument or option", "description"), own))
    return "\n\n".join(parts) + "\n"


def _verbs(group: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    for name, command in group.commands.items():
        below = typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from _verbs(command, below)
        elif command.help:
            yield command, below
        else:
            raise NotDescribedError(f"{below.command_path} has no help; write a docstring in processhub/cli/app.py")


def _usage(verb: Any, context: Any) -> str:
    shown = [parameter.metavar for parameter in verb.params if parameter.param_type_name == "argument"]
    return " ".join([context.command_path, *shown, "[options]"])


def _arguments(verb: Any, context: Any) -> list[tuple[str, str]]:
    return [
        (code(parameter.metavar), _described(parameter, context))
        for parameter in verb.params
        if parameter.param_type_name == "argument"
    ]


def _options(verb: Any, context: Any) -> list[tuple[str, str]]:
    found = []
    for parameter in verb.params:
        parameter.hidden = False  # what a verb's help leaves to `kubectl hub options` is on the page
        if parameter.param_type_name == "option" and (record := parameter.get_help_record(context)):
            many = " May be given several times." if parameter.multiple else ""
            _described(parameter, context)
            found.append((code(record[0]), words(record[1]) + many))
    return found


def _described(parameter: Any, context: Any) -> str:
    if parameter.help:
        return words(parameter.help)
    raise NotDescribedError(
        f"{context.command_path} {parameter.opts[0]} has no help; write one in processhub/cli/app.py"
    )


def _has(verb: tuple[Any, Any], option: str) -> bool:
    """Whether the verb has this option, with any default."""
    return any(name == option for name, _ in _options(*verb))


def _after_colon(docstring: str) -> str:
    """The list after the colon in a docstring such as ``Run one command; returns the exit code: 0 done, …``."""
    return docstring.partition("the exit code: ")[2]
