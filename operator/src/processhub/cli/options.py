"""The options that several verbs share, and the decorator that adds those that every verb has.

Nothing heavy is imported here, because ``--help`` reads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from inspect import signature
from typing import Annotated, Any, Concatenate, get_args

import typer


class Output(StrEnum):
    """The values of -o."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


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


def _child_ids(context: typer.Context, incomplete: str) -> list[str]:
    from processhub.cli.completion import child_ids

    return child_ids(context, incomplete)


def member_names(context: typer.Context, incomplete: str) -> list[str]:
    """The members that a word may be completed to."""
    from processhub.cli.completion import member_names as found

    return found(context, incomplete)


def _hub_names(context: typer.Context, incomplete: str) -> list[str]:
    from processhub.cli.completion import hub_names

    return hub_names(context, incomplete)


def _global(*names: str, metavar: str | None = None, text: str) -> Any:
    """An option that every verb has, and that only ``kubectl hub options`` lists, as with kubectl."""
    return typer.Option(*names, metavar=metavar, help=text, hidden=True)


@dataclass(frozen=True)
class Target:
    """The options that every verb has, in the order of its help: the hub, the cluster, and the output format.

    A field is None if its option is missing.
    """

    hub: Annotated[
        str | None,
        typer.Option(
            "--hub",
            help="The hub; optional if there is only one, or HUB_NAME is set.",
            metavar="NAME",
            autocompletion=_hub_names,
        ),
    ] = None
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", help="The namespace; by default the context's.", metavar="NS")
    ] = None
    context: Annotated[str | None, typer.Option("--context", help="The kubeconfig's context.", metavar="NAME")] = None
    kubeconfig: Annotated[str | None, typer.Option("--kubeconfig", help="The kubeconfig.", metavar="FILE")] = None
    output: Annotated[Output, typer.Option("-o", "--output", help="The output format.")] = Output.TABLE
    as_user: Annotated[
        str | None, _global("--as", metavar="USER", text="Act with the rights of this user instead of your own.")
    ] = None
    as_groups: Annotated[list[str] | None, _global("--as-group", metavar="GROUP", text="A group of that user.")] = None
    as_uid: Annotated[str | None, _global("--as-uid", metavar="UID", text="The uid of that user.")] = None
    cluster: Annotated[
        str | None, _global("--cluster", metavar="NAME", text="The kubeconfig's cluster, in place of the context's.")
    ] = None
    user: Annotated[
        str | None, _global("--user", metavar="NAME", text="The kubeconfig's user, in place of the context's.")
    ] = None
    server: Annotated[str | None, _global("-s", "--server", metavar="URL", text="The API server's address.")] = None
    token: Annotated[str | None, _global("--token", metavar="TOKEN", text="The bearer token for the API server.")] = (
        None
    )
    authority: Annotated[
        str | None,
        _global("--certificate-authority", metavar="FILE", text="The certificates that sign the API server's own."),
    ] = None
    tls_server_name: Annotated[
        str | None,
        _global("--tls-server-name", metavar="NAME", text="The name that the API server's certificate must have."),
    ] = None
    insecure: Annotated[
        bool, _global("--insecure-skip-tls-verify", text="Accept any certificate of the API server. This is not safe.")
    ] = False
    request_timeout: Annotated[
        str | None,
        _global("--request-timeout", metavar="TIME", text="The limit for each request to the API server: 5, 5s, 1m."),
    ] = None


COMPLETION_VARIABLE = "_KUBECTL_HUB_COMPLETE"  # by which the script of a shell asks for completions

# The end of each verb's help.
MORE_OPTIONS = "kubectl hub options lists the options for the API server, such as --as, --server and --token."


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


def before_verbs() -> tuple[set[str], set[str]]:
    """The names of the options of every verb: those that take a value, and those that do not."""
    with_value: set[str] = set()
    flags: set[str] = set()
    for parameter in signature(Target, eval_str=True).parameters.values():
        kind, option = get_args(parameter.annotation)
        (flags if kind is bool else with_value).update(_names(option))
    return with_value, flags


def hidden_options() -> list[tuple[str, str]]:
    """The names and the description of each option that a verb's help leaves out."""
    found = []
    for parameter in signature(Target, eval_str=True).parameters.values():
        _, option = get_args(parameter.annotation)
        if option.hidden:
            value = f" {option.metavar}" if option.metavar else ""
            found.append((f"{', '.join(_names(option))}{value}", str(option.help)))
    return found


def _names(option: Any) -> list[str]:
    """The names of an option; typer takes the first one for a default until it has read the function."""
    first = [option.default] if isinstance(option.default, str) else []
    return [*first, *option.param_decls]
