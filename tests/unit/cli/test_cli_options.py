"""The options that every verb has: the decorator adds them and passes them on as a Target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import typer
import typer.main

from processhub.cli.app import app
from processhub.cli.main import main
from processhub.cli.options import IdArgument, Work, on_hub
from processhub.cli.shared import Output, Target


def verbs(group: Any) -> Iterator[Any]:
    """Return the commands of a typer application, including those of its groups."""
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from verbs(command)
        else:
            yield command


ABOUT_THIS_PROGRAM = {"completion", "options"}
OF_ALL = [
    ["--hub"],
    ["-n", "--namespace"],
    ["--context"],
    ["--kubeconfig"],
    ["-o", "--output"],
    ["--as"],
    ["--as-group"],
    ["--as-uid"],
    ["--cluster"],
    ["--user"],
    ["-s", "--server"],
    ["--token"],
    ["--certificate-authority"],
    ["--tls-server-name"],
    ["--insecure-skip-tls-verify"],
    ["--request-timeout"],
]


@pytest.mark.parametrize("verb", list(verbs(typer.main.get_command(app))), ids=lambda verb: verb.name)
def test_the_help_of_every_verb_ends_with_the_common_options(verb: Any) -> None:
    options = [parameter.opts for parameter in verb.params if parameter.param_type_name == "option"]

    assert options[-16:] == ([] if verb.name in ABOUT_THIS_PROGRAM else OF_ALL)


def test_the_options_that_help_omits_are_listed_by_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options"]) == 0

    listed = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()]
    assert [[name.split()[0] for name in names.split(", ")] for names in listed] == OF_ALL[5:]


def run(line: str, output: Output = Output.TABLE) -> tuple[list[Any], Any]:
    """Return the arguments that a verb's function received for this command line, and the application's result."""
    received: list[Any] = []
    program = typer.Typer()

    @program.command()
    @on_hub(output)
    def verb(
        target: Target,
        child: IdArgument,
        tail: Annotated[int | None, typer.Option("--tail")] = None,
        *,
        wait: bool = False,
    ) -> Work:
        async def work() -> int:
            received.extend((target, child, tail, wait))
            return 7

        return work()

    return received, program(line.split(), standalone_mode=False)


def test_a_verb_gets_a_target_and_its_own_options_and_returns_the_exit_code() -> None:
    line = "--tail 3 --hub h a -n ns --context c --wait --kubeconfig k --as u --as-group g --as-group h -o yaml -s url"
    target = Target("h", "ns", "c", "k", Output.YAML, "u", ["g", "h"], server="url")

    assert run(line) == ([target, "a", 3, True], 7)


@pytest.mark.parametrize("output", [Output.TABLE, Output.JSON])
def test_omitted_options_have_their_defaults(output: Output) -> None:
    assert run("a", output) == ([Target(output=output), "a", None, False], 7)
