"""The options that several verbs share, and the decorator that adds those that every verb has.

Nothing heavy is imported here, because ``--help`` reads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from inspect import signature
from typing import Annotated, Any, Concatenate

import typer


class Output(StrEnum):
    """The values of -o."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class OnFailureOption(StrEnum):
    """The values of --on-failure."""

    CONTINUE = "continue"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Target:
    """The options that every verb has, in the order of its help: the hub, and the output format.

    A field is None if its option is missing.
    """

    hub: Annotated[
        str | None,
        typer.Option("--hub", help="The hub; optional if there is only one, or HUB_NAME is set.", metavar="NAME"),
    ] = None
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", help="The namespace; by default the context's.", metavar="NS")
    ] = None
    context: Annotated[str | None, typer.Option("--context", help="The kubeconfig's context.", metavar="NAME")] = None
    kubeconfig: Annotated[str | None, typer.Option("--kubeconfig", help="The kubeconfig.", metavar="FILE")] = None
    user: Annotated[
        str | None, typer.Option("--as", help="Act with the rights of this user instead of your own.", metavar="USER")
    ] = None
    groups: Annotated[
        list[str] | None, typer.Option("--as-group", help="A group of that user; may be repeated.", metavar="GROUP")
    ] = None
    output: Annotated[Output, typer.Option("-o", "--output", help="The output format.")] = Output.TABLE


IdsArgument = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of children.", show_default=False)]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The child's id.", show_default=False)]
MemberArgument = Annotated[str, typer.Argument(metavar="MEMBER", help="The member's name.", show_default=False)]
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
