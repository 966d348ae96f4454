"""The verbs of the command line and their own options. A verb's work is in a module of its own, loaded when called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from processhub.cli.options import (
    EverywhereOption,
    IdArgument,
    IdsArgument,
    MemberArgument,
    OnFailureOption,
    Shell,
    TimeoutOption,
    Verb,
    WaitOption,
    WatchOption,
    Work,
    member_names,
    on_hub,
)
from processhub.cli.shared import MORE_OPTIONS, Output, Target, hidden_options

app = typer.Typer(
    name="kubectl hub",
    help="Hubs and their children: start, stop, find, explain.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
quorum = typer.Typer(help="The hub's quorum.", rich_markup_mode=None)


@dataclass
class CommandLine:
    """The command after ``start … --exec --`` or ``exec … --``."""

    words: list[str] | None = None


command_line = CommandLine()


def verb(
    name: str | None = None, *, group: typer.Typer = app, output: Output = Output.TABLE
) -> Callable[[Verb], Callable[..., None]]:
    """Make a function a verb with the options of all, whose help ends with where the other options are."""
    return lambda work: group.command(name, epilog=MORE_OPTIONS)(on_hub(output)(work))


@verb()
def start(
    target: Target,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Ids to start.", show_default=False)] = None,
    *,
    exec_: Annotated[bool, typer.Option("--exec", help="Run a program: --exec -- CMD ARG…")] = False,
    python: Annotated[str | None, typer.Option("--python", help="Run an Actor.", metavar="MODULE:CLASS")] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "-f", "--filename", help="Child manifests or specs: a file, a folder, or - for stdin.", metavar="FILE"
        ),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option("--node", help="A member to run on (Guided hubs).", metavar="MEMBER")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag of the children.", metavar="TAG")] = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="Never move it.")] = False,
    on_failure: Annotated[
        OnFailureOption, typer.Option("--on-failure", help="rollback: all of them or none.")
    ] = OnFailureOption.CONTINUE,
    wait: WaitOption = False,
    timeout: TimeoutOption = "30s",
) -> Work:
    """Start children: ID… (--exec -- CMD… | --python MODULE:CLASS | -f FILE)."""
    from processhub.cli.start import Order, start_children

    order = Order(
        ids=tuple(ids or ()),
        exec=exec_,
        command=tuple(command_line.words or ()),
        python=python,
        files=tuple(file or ()),
        nodes=tuple(node or ()),
        tags=tuple(tag or ()),
        pinned=pinned,
    )
    return start_children(order, target, on_failure=on_failure.value, wait=wait, timeout=timeout)


@verb()
def stop(target: Target, ids: IdsArgument, *, wait: WaitOption = False, timeout: TimeoutOption = "30s") -> Work:
    """Stop children; with --wait, until their processes have ended.

    A child that a request has started (the Hub's spec.onDemand) is started again by the next request.
    """
    from processhub.cli.stop import stop_children

    return stop_children(ids, target, wait=wait, timeout=timeout)


@verb("await")
def await_(target: Target, ids: IdsArgument, *, timeout: TimeoutOption = "30s") -> Work:
    """Wait until children run."""
    from processhub.cli.stop import await_children

    return await_children(ids, target, timeout=timeout)


@verb("list")
def list_(
    target: Target,
    *,
    member: Annotated[
        str | None,
        typer.Option("--member", help="Only those on this member.", metavar="MEMBER", autocompletion=member_names),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Only those with this tag, or all of these.", metavar="TAG")
    ] = None,
    everywhere: EverywhereOption = False,
    watch: WatchOption = False,
) -> Work:
    """List the children on record, and those that have not ended yet.

    UPTIME is the time since the child's process was started. ON-DEMAND, in hubs with spec.onDemand, says whether a
    request has started the child.
    """
    from processhub.cli.listing import Selection, list_children

    return list_children(target, Selection(member, tuple(tag or ()), everywhere, watch))


@verb()
def where(target: Target, child: IdArgument) -> Work:
    """Show where a child runs: member, pod, Kubernetes node, pid."""
    from processhub.cli import show

    return show.where(child, target)


@verb()
def lookup(target: Target, child: IdArgument) -> Work:
    """Show a child's spec and its copies."""
    from processhub.cli import show

    return show.lookup(child, target)


@verb()
def status(target: Target, *, everywhere: EverywhereOption = False, watch: WatchOption = False) -> Work:
    """Show how the hub does: its conditions, its members, and the children that do not run."""
    from processhub.cli.status import status as show_status

    return show_status(target, everywhere=everywhere, watch=watch)


@verb()
def ui(
    target: Target,
    *,
    everywhere: EverywhereOption = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0: any that is free.")] = 8090,
) -> Work:
    """Serve a read-only page on localhost: conditions, members and children, as they change."""
    from processhub.cli.ui import serve

    return serve(target, everywhere=everywhere, port=port)


@verb()
def members(target: Target, *, everywhere: EverywhereOption = False, watch: WatchOption = False) -> Work:
    """List the hub's members. READY says Drained of a member that takes no children until it is undrained."""
    from processhub.cli.status import members as list_members

    return list_members(target, everywhere=everywhere, watch=watch)


@verb(output=Output.JSON)
def dump(target: Target) -> Work:
    """Print the whole registry."""
    from processhub.cli.listing import dump as print_registry

    return print_registry(target)


@verb()
def explain(target: Target, child: IdArgument) -> Work:
    """Explain why a child is where it is: candidates, scores, cap, pin, conditions, history.

    For an id that nothing runs for, in a hub with spec.onDemand: what a request for it would do.
    """
    from processhub.cli.explain import explain as explain_child

    return explain_child(child, target)


@verb()
def plan(
    target: Target,
    *,
    add: Annotated[int, typer.Option("--add", help="Members to add.", min=0, max=1000, metavar="N")] = 0,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A member to remove.", metavar="MEMBER")] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "-f", "--filename", help="A file or folder with the manifests: plan without a cluster.", metavar="FILE"
        ),
    ] = None,
) -> Work:
    """Show what would move. Nothing is changed."""
    from processhub.cli.plan import plan as plan_changes

    return plan_changes(target, add=add, remove=tuple(remove or ()), files=tuple(file or ()))


@verb()
def logs(
    target: Target,
    child: IdArgument,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Stream new lines.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", help="Only the last N of the child's lines.", min=0, metavar="N")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only lines newer than this: 30, 30s, 1m30s.", metavar="TIME")
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Begin each line with its time.")] = False,
) -> Work:
    """Print a child's own lines from its member's log."""
    from processhub.cli.logs import Wanted
    from processhub.cli.logs import logs as print_logs

    return print_logs(child, target, Wanted(follow, tail, since, timestamps))


@verb("exec")
def exec_(
    target: Target,
    child: IdArgument,
    *,
    stdin: Annotated[bool, typer.Option("-i", "--stdin", help="Pass standard input to the command.")] = False,
    terminal: Annotated[bool, typer.Option("-t", "--tty", help="With -i: give the command a terminal.")] = False,
) -> Work:
    """Run a command beside a child, with its environment and in its working directory: exec ID -- CMD.

    The command runs in the container that the child runs in: its member's, or that of its own Pod. The exit code is the
    command's own.
    """
    from processhub.cli.execute import execute

    return execute(child, command_line.words, target, stdin=stdin, terminal=terminal)


@verb()
def call(
    target: Target,
    child: IdArgument,
    request: Annotated[str, typer.Argument(metavar="JSON", help="The request; - is stdin.", show_default=False)],
    *,
    timeout: TimeoutOption = "1m",
) -> Work:
    """Ask a child and print its answer."""
    from processhub.cli import ask

    return ask.call(child, request, target, timeout=timeout)


@verb()
def cast(
    target: Target,
    child: IdArgument,
    message: Annotated[str, typer.Argument(metavar="JSON", help="The message; - is stdin.", show_default=False)],
    *,
    everywhere: Annotated[bool, typer.Option("--all", help="Send it to every running copy of the child.")] = False,
    timeout: TimeoutOption = "1m",
) -> Work:
    """Send a child a message; returns when it is in its queue."""
    from processhub.cli import ask

    return ask.cast(child, message, target, everywhere=everywhere, timeout=timeout)


@verb()
def drain(
    target: Target,
    member: MemberArgument,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Stop guided and pinned children, which can't leave it.")
    ] = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = "60s",
) -> Work:
    """Drain a member: its children move away, and it takes none until it is undrained."""
    from processhub.cli import moves

    return moves.drain(member, target, force=force, wait=wait, timeout=timeout)


@verb()
def undrain(
    target: Target, member: MemberArgument, *, wait: WaitOption = False, timeout: TimeoutOption = "60s"
) -> Work:
    """Allow a drained member to take children again, like a member that joins."""
    from processhub.cli import moves

    return moves.undrain(member, target, wait=wait, timeout=timeout)


@verb()
def move(
    target: Target,
    child: IdArgument,
    member: MemberArgument,
    *,
    wait: WaitOption = False,
    timeout: TimeoutOption = "30s",
) -> Work:
    """Move a child to a member; on a Guided hub it stays there until its spec.nodes is edited.

    If the child has several copies, the one on the member becomes the active one. If it has no copy there, the active
    copy moves there; if all copies are active, the lowest-ranked one.
    """
    from processhub.cli import moves

    return moves.move(child, member, target, wait=wait, timeout=timeout)


@verb()
def top(target: Target, *, everywhere: EverywhereOption = False) -> Work:
    """Show the CPU and memory that members' children use, and the children with the most restarts."""
    from processhub.cli.top import top as show_top

    return show_top(target, everywhere=everywhere)


app.add_typer(quorum, name="quorum")


@verb(group=quorum)
def reset(target: Target, *, wait: WaitOption = False, timeout: TimeoutOption = "30s") -> Work:
    """Make the number of members that are live now the hub's size. The others count as gone for good."""
    from processhub.cli.quorum import reset as reset_quorum

    return reset_quorum(target, wait=wait, timeout=timeout)


@verb()
def version(
    target: Target,
    *,
    client: Annotated[bool, typer.Option("--client", help="Only this program's; no cluster is asked.")] = False,
) -> Work:
    """Print the versions of this program, of the operator and of the API server."""
    from processhub.cli.version import version as print_versions

    return print_versions(target, client_only=client)


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.", show_default=False)],
) -> None:
    """Print the script by which a shell completes kubectl-hub: source <(kubectl hub completion bash).

    kubectl completes "kubectl hub" itself if the program kubectl_complete-hub, which is installed with kubectl-hub, is
    on PATH.
    """
    from processhub.cli.completion import script

    raise typer.Exit(script(app, shell))


@app.command()
def options() -> None:
    """List the options for the API server, which every verb has."""
    from processhub.cli.output import out

    rows = hidden_options()
    width = max(len(names) for names, _ in rows)
    out("\n".join(f"  {names:<{width}}  {text}" for names, text in rows))
