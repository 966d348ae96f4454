"""Tables for people and programs, the names of children in output, and shell completion."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from processhub.api.meta import API_VERSION
from processhub.api.naming import natural_order
from processhub.cli import kubectlcomplete
from processhub.cli.errors import DONE
from processhub.cli.main import main
from processhub.cli.output import Columns, named, table
from processhub.cli.shared import Output
from processhub.cli.start import report
from processhub.client.errors import names
from processhub.client.records import Processes
from processhub.client.results import Result

LONG = "z" * 250


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_has_plain_columns_unless_it_is_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("a", "Running"), ("long\nid", "")]
    table(("ID", "STATE"), rows)
    assert capsys.readouterr().out == "ID        STATE\na         Running\nlong?id   <none>\n"

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    table(("ID", "STATE"), rows)
    assert "\x1b[32mRunning" in terminal.getvalue()
    assert "long?id" in terminal.getvalue()


def test_a_table_fits_the_terminal_and_keeps_all_of_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    table(("ID", "STATE", "MESSAGE"), [(LONG, "Running", "v" * 100), ("b", "Failed", "short")])

    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert terminal.getvalue().count("z") == 250
    assert terminal.getvalue().count("v") == 100
    assert lines[-1].split() == ["b", "Failed", "short"]


def test_wide_characters_count_as_wide_as_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table(("ID", "STATE"), [("東京 🐙", "Running"), ("e\u0301", "Failed"), ("plain", "Failed")])

    assert capsys.readouterr().out.splitlines() == [
        "ID        STATE",
        "東京 🐙   Running",
        "e\u0301         Failed",
        "plain     Failed",
    ]


def test_later_rows_stand_under_the_same_header(capsys: pytest.CaptureFixture[str]) -> None:
    columns = Columns(("ID", "STATE"))
    columns.print([("abcdef", "Running")])
    columns.print([("b", "Failed"), (LONG, "Failed")])

    assert capsys.readouterr().out.splitlines() == [
        "ID       STATE",
        "abcdef   Running",
        "b        Failed",
        f"{LONG}   Failed",
    ]


def test_a_childs_id_is_quoted_for_a_shell() -> None:
    assert named("web-1") == "web-1"
    assert named("ünïcode/東京 🐙") == "'ünïcode/東京 🐙' (child/n-code-66994bf936)"


def test_numbers_in_ids_are_ordered_by_value() -> None:
    assert sorted(["w-10", "w-9", "w", "10", "9", "w-9a"], key=natural_order) == ["9", "10", "w", "w-9", "w-9a", "w-10"]
    assert names({"w-10", "w-9"}) == "w-9, w-10"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_completion_script_calls_this_program(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0

    script = capfd.readouterr().out
    assert "kubectl-hub" in script
    assert f"complete_{shell}" in script


@pytest.mark.parametrize(
    ("words", "found"), [(["sta"], ["start", "status"]), (["list", "--mem"], ["--member"]), (["where", ""], [])]
)
def test_kubectls_completion_gets_words_and_a_directive(
    words: list[str], found: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")

    assert kubectlcomplete.main(words) == 0
    *lines, directive = capfd.readouterr().out.splitlines()
    assert [line.partition("\t")[0] for line in lines if line] == found
    assert directive == ":4"


def test_the_version_is_printed_without_a_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")

    assert main(["version", "--client", "-o", "json"]) == 0
    assert '"client": "' in capsys.readouterr().out
    assert main(["version"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("Client: ")
    assert said.err == "error: kubeconfig /nowhere not found; name one that exists with --kubeconfig or KUBECONFIG\n"


def ended(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, for output that fails as that of a terminal or file may."""
    code = "import sys; from processhub.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


def test_output_that_cannot_be_written_is_reported() -> None:
    with Path("/dev/full").open("w") as full:
        done = ended("options", stdout=full)

    assert (done.returncode, done.stderr) == (1, "error: the output can't be written: No space left on device\n")


def test_characters_that_a_terminal_does_not_have_are_escaped(tmp_path: Path) -> None:
    hub = "apiVersion: processhub.dev/v1alpha1\nkind: Hub\nmetadata: {name: h}\n"
    (tmp_path / "hub.yaml").write_text(f'{hub}spec: {{children: [{{id: "\\xe9", exec: {{command: [x]}}}}]}}')

    done = ended("plan", "-f", str(tmp_path / "hub.yaml"), "-o", "name", stdout=subprocess.PIPE)

    assert (done.returncode, done.stdout) == (0, "\\xe9\n"), done.stderr


@pytest.mark.parametrize(("wait", "said"), [(True, "a ended with success\n"), (False, "a created\n")])
def test_a_child_that_has_completed_while_it_was_waited_for_is_not_called_created(
    wait: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Result()
    result.started["a"] = Processes(())

    assert report(result, Output.TABLE, wait=wait) == DONE

    assert capsys.readouterr().out == said


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_data_for_programs_can_be_read_whatever_the_terminals_encoding(output: str, tmp_path: Path) -> None:
    """A pipe on Windows has the code page of the system."""
    spec = {"members": {"replicas": 1}, "children": [{"id": "tökyö/東京", "exec": {"command": ["x"]}}]}
    hub = {"apiVersion": API_VERSION, "kind": "Hub", "metadata": {"name": "shop"}, "spec": spec}
    (tmp_path / "hub.yaml").write_text(json.dumps(hub))

    done = ended("plan", "-f", str(tmp_path / "hub.yaml"), "-o", output, stdout=subprocess.PIPE)

    assert done.stdout.isascii()
    assert [entry["id"] for entry in yaml.safe_load(done.stdout)["placed"]] == ["tökyö/東京"]
    assert output == "yaml" or json.loads(done.stdout)
