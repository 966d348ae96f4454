"""The options that every verb has: the hub, the cluster and the output format.

Nothing heavy is imported here, because ``--help`` reads this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from inspect import signature
from typing import Annotated, Any, get_args

import typer


class Output(StrEnum):
    """The values of -o."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


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
        typer.Option("--hub", help="The hub; optional if there is only one, or HUB_NAME is set.", metavar="NAME"),
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
