"""The verbs and their options. Each verb's work is a module of its own, loaded only when it is called."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Optional

import typer

from processhub.cli.options import Output, Target

app = typer.Typer(
    name="kubectl hub",
    help="Hubs and their children: start, stop, find, explain.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


@dataclass
class CommandLine:
    """What stood after ``start … --exec --``."""

    words: list[str] | None = None


command_line = CommandLine()


class OnFailureOption(StrEnum):
    """Values of --on-failure."""

    CONTINUE = "continue"
    ROLLBACK = "rollback"


# ruff: noqa: UP045 - typer reads these annotations at run time
HubOption = Annotated[
    Optional[str],
    typer.Option(
        "--hub", help="The hub; may be left out where it is the only one, or HUB_NAME is set.", metavar="NAME"
    ),
]
NamespaceOption = Annotated[
    Optional[str], typer.Option("-n", "--namespace", help="The namespace; else the context's.", metavar="NS")
]
ContextOption = Annotated[Optional[str], typer.Option("--context", help="The kubeconfig's context.", metavar="NAME")]
KubeconfigOption = Annotated[Optional[str], typer.Option("--kubeconfig", help="The kubeconfig.", metavar="FILE")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of children.", show_default=False)]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The child's id.", show_default=False)]
MemberArgument = Annotated[str, typer.Argument(metavar="MEMBER", help="The member's name.", show_default=False)]
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when it is done, not when it is ordered.")]
TimeoutOption = Annotated[str, typer.Option("--timeout", help="How long to wait: 30, 30s, 1m30s.", metavar="TIME")]


def _finish(work: Coroutine[Any, Any, int]) -> None:
    import asyncio

    raise typer.Exit(asyncio.run(work))


@app.command()
def start(
    ids: Annotated[Optional[list[str]], typer.Argument(metavar="ID…", help="Ids to start.", show_default=False)] = None,
    exec_: Annotated[bool, typer.Option("--exec", help="Run a program: --exec -- CMD ARG…")] = False,
    python: Annotated[Optional[str], typer.Option("--python", help="Run an Actor.", metavar="MODULE:CLASS")] = None,
    file: Annotated[
        Optional[str], typer.Option("-f", "--filename", help="Child manifests or specs; - is stdin.", metavar="FILE")
    ] = None,
    node: Annotated[
        Optional[list[str]], typer.Option("--node", help="A member to run on (Guided hubs).", metavar="MEMBER")
    ] = None,
    tag: Annotated[Optional[list[str]], typer.Option("--tag", help="A tag to find it by.", metavar="TAG")] = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="Never move it.")] = False,
    on_failure: Annotated[
        OnFailureOption, typer.Option("--on-failure", help="rollback: all of them or none.")
    ] = OnFailureOption.CONTINUE,
    wait: WaitOption = False,
    timeout: TimeoutOption = "30s",
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start children: ID… (--exec -- CMD… | --python MODULE:CLASS | -f FILE)."""
    from processhub.cli.start import Order, start_children

    order = Order(
        ids=tuple(ids or ()),
        exec=exec_,
        command=tuple(command_line.words or ()),
        python=python,
        file=file,
        nodes=tuple(node or ()),
        tags=tuple(tag or ()),
        pinned=pinned,
    )
    target = Target(hub, namespace, context, kubeconfig, output)
    _finish(start_children(order, target, on_failure=on_failure.value, wait=wait, timeout=timeout))


@app.command()
def stop(
    ids: IdsArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = "30s",
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop children; --wait until their processes have ended."""
    from processhub.cli.stop import stop_children

    _finish(stop_children(ids, Target(hub, namespace, context, kubeconfig, output), wait=wait, timeout=timeout))


@app.command("await")
def await_(
    ids: IdsArgument,
    timeout: TimeoutOption = "30s",
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Wait until children run."""
    from processhub.cli.stop import await_children

    _finish(await_children(ids, Target(hub, namespace, context, kubeconfig, output), timeout=timeout))


@app.command("list")
def list_(
    member: Annotated[Optional[str], typer.Option("--member", help="Only of this member.", metavar="MEMBER")] = None,
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the children on record, and what still has to end."""
    from processhub.cli.show import list_children

    _finish(list_children(Target(hub, namespace, context, kubeconfig, output), member))


@app.command()
def where(
    child: IdArgument,
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say where a child runs: member, pod, Kubernetes node, pid."""
    from processhub.cli.show import where as show_where

    _finish(show_where(child, Target(hub, namespace, context, kubeconfig, output)))


@app.command()
def lookup(
    child: IdArgument,
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a child's spec and its copies."""
    from processhub.cli.show import lookup as show_lookup

    _finish(show_lookup(child, Target(hub, namespace, context, kubeconfig, output)))


@app.command()
def members(
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the hub's members."""
    from processhub.cli.show import members as show_members

    _finish(show_members(Target(hub, namespace, context, kubeconfig, output)))


@app.command()
def dump(
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.JSON,
) -> None:
    """Print the whole registry."""
    from processhub.cli.show import dump as show_dump

    _finish(show_dump(Target(hub, namespace, context, kubeconfig, output)))


@app.command()
def explain(
    child: IdArgument,
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say why a child is where it is: candidates, scores, cap, pin, conditions, history."""
    from processhub.cli.explain import explain as explain_child

    _finish(explain_child(child, Target(hub, namespace, context, kubeconfig, output)))


@app.command()
def plan(
    add: Annotated[int, typer.Option("--add", help="Members to add.", min=0, max=1000, metavar="N")] = 0,
    remove: Annotated[
        Optional[list[str]], typer.Option("--remove", help="A member to take away.", metavar="MEMBER")
    ] = None,
    file: Annotated[
        Optional[list[str]],
        typer.Option("-f", "--filename", help="Hub and Child manifests: plan without a cluster.", metavar="FILE"),
    ] = None,
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what would move; changes nothing."""
    from processhub.cli.plan import plan as plan_changes

    target = Target(hub, namespace, context, kubeconfig, output)
    _finish(plan_changes(target, add=add, remove=tuple(remove or ()), files=tuple(file or ())))


@app.command()
def logs(
    child: IdArgument,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new lines.")] = False,
    tail: Annotated[
        Optional[int], typer.Option("--tail", help="Only the last N of the child's lines.", min=0, metavar="N")
    ] = None,
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print a child's own lines out of its member's log."""
    from processhub.cli.logs import logs as print_logs

    _finish(print_logs(child, Target(hub, namespace, context, kubeconfig, output), follow=follow, tail=tail))


@app.command()
def call(
    child: IdArgument,
    request: Annotated[str, typer.Argument(metavar="JSON", help="The request; - is stdin.", show_default=False)],
    timeout: TimeoutOption = "1m",
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a child and print its answer."""
    from processhub.cli.ask import call as call_child

    _finish(call_child(child, request, Target(hub, namespace, context, kubeconfig, output), timeout=timeout))


@app.command()
def cast(
    child: IdArgument,
    message: Annotated[str, typer.Argument(metavar="JSON", help="The message; - is stdin.", show_default=False)],
    everywhere: Annotated[bool, typer.Option("--all", help="To every running copy of the child.")] = False,
    timeout: TimeoutOption = "1m",
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send a child a message; returns when it is in its queue."""
    from processhub.cli.ask import cast as cast_to_child

    target = Target(hub, namespace, context, kubeconfig, output)
    _finish(cast_to_child(child, message, target, everywhere=everywhere, timeout=timeout))


@app.command()
def drain(
    member: MemberArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Stop guided and pinned children, which can't leave it.")
    ] = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = "60s",
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Empty a member: it gives its children away and takes none until it is undrained."""
    from processhub.cli.moves import drain as drain_member

    target = Target(hub, namespace, context, kubeconfig, output)
    _finish(drain_member(member, target, force=force, wait=wait, timeout=timeout))


@app.command()
def undrain(
    member: MemberArgument,
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a drained member take children again, as one that joins."""
    from processhub.cli.moves import undrain as undrain_member

    _finish(undrain_member(member, Target(hub, namespace, context, kubeconfig, output)))


@app.command()
def move(
    child: IdArgument,
    member: MemberArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = "30s",
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move a child to a member; on a Guided hub its spec.nodes is changed.

    Of several copies the one there becomes the active one; where there is none, the active one moves, or, of copies
    that are all active, the one that is placed worst.
    """
    from processhub.cli.moves import move as move_child

    _finish(move_child(child, member, Target(hub, namespace, context, kubeconfig, output), wait=wait, timeout=timeout))


@app.command()
def top(
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what members' children use of CPU and memory, and which children restart most."""
    from processhub.cli.top import top as show_top

    _finish(show_top(Target(hub, namespace, context, kubeconfig, output)))


quorum = typer.Typer(help="The hub's quorum.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(quorum, name="quorum")


@quorum.command()
def reset(
    wait: WaitOption = False,
    timeout: TimeoutOption = "30s",
    hub: HubOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take the members that are live now for the hub's size: the others are gone for good."""
    from processhub.cli.quorum import reset as reset_quorum

    _finish(reset_quorum(Target(hub, namespace, context, kubeconfig, output), wait=wait, timeout=timeout))
