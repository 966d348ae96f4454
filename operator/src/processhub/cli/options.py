"""The options that several verbs have, and the decorator that adds those of every verb.

Nothing heavy is imported here, because ``--help`` reads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import wraps
from inspect import signature
from typing import Annotated, Any, Concatenate, get_args

import typer

from processhub.cli.shared import Output, Target


class Shell(StrEnum):
    """The shells that can be made to complete command lines."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


class OnFailureOption(StrEnum):
    """The values of --on-failure."""

    CONTINUE = "continue"
    ROLLBACK = "rollback"


def _completing(what: str) -> Callable[[typer.Context, str], list[str]]:
    """The function of this name in ``cli/candidates.py``, which is loaded when it is called."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        from processhub.cli import candidates

        found: list[str] = getattr(candidates, what)(context, incomplete)
        return found

    return complete


_child_ids, member_names = _completing("child_ids"), _completing("member_names")
IdsArgument = Annotated[
    list[str], typer.Argument(metavar="ID…", help="Ids of children.", show_default=False, autocompletion=_child_ids)
]
IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The child's id.", show_default=False, autocompletion=_child_ids)
]
MemberArgument = Annotated[
    str, typer.Argument(metavar="MEMBER", help="The member's name.", show_default=False, autocompletion=member_names)
]
EverywhereOption = Annotated[
    bool, typer.Option("-A", "--all-namespaces", help="All hubs of all namespaces, or those named --hub.")
]
WatchOption = Annotated[bool, typer.Option("-w", "--watch", help="Go on, and print what changes.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until it is done.")]
TimeoutOption = Annotated[str, typer.Option("--timeout", help="How long to wait: 30, 30s, 1m30s.", metavar="TIME")]

Work = Coroutine[Any, Any, int]  # the work of a verb; its result is the exit code
Verb = Callable[Concatenate[Target, ...], Work]


def on_hub(output: Output = Output.TABLE) -> Callable[[Verb], Callable[..., None]]:
    """Make a verb's function a command: it gets the options of every verb, and exits with the code of its work.

    The function receives these options as a Target. ``output`` is the verb's default of ``-o``.
    """
    shared = dict(signature(Target, eval_str=True).parameters)
    shared["output"] = shared["output"].replace(default=output)
    _, hub = get_args(shared["hub"].annotation)
    hub.autocompletion = _completing("hub_names")

    def command_of(verb: Verb) -> Callable[..., None]:
        @wraps(verb)
        def command(**options: Any) -> None:
            import asyncio

            target = Target(**{name: options.pop(name) for name in shared})
            raise typer.Exit(asyncio.run(verb(target, **options)))

        own = signature(verb, eval_str=True)
        _, *parameters = own.parameters.values()
        parameters += [option.replace(kind=option.KEYWORD_ONLY) for option in shared.values()]
        # typer takes a command's arguments and options from its signature.
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return command_of
