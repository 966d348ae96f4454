"""Commands that run beside a child, with the environment and the working directory of its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-c", "import sys; from processhub.agent.main import main; sys.exit(main())")
SHOW = ("sh", "-c", 'echo "$HUB_CHILD_ID $HUB_EPOCH $HUB_ROLE $COLOUR $PWD $AGENTS_OWN"')


@pytest.fixture
def child(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A process with the environment of the child ``a``; its pid is in ``pid``. Changes apply to later commands."""
    environment = {"HUB_NAME": "hub", "HUB_CHILD_ID": "a", "HUB_EPOCH": "3", "HUB_ROLE": "Active", "COLOUR": "blue"}
    (tmp_path / "there").mkdir()
    process = subprocess.Popen(["/bin/sleep", "100"], env=environment, cwd=tmp_path / "there")
    yield {"pid": str(process.pid)}
    process.kill()
    process.wait()


def beside(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AGENTS_OWN": "secret"}
    return subprocess.run([*PROGRAM, "exec", *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_command_has_the_childs_environment_and_folder(child: dict[str, str], tmp_path: Path) -> None:
    ran = beside("a", child["pid"], "9", "Passive", "--", *SHOW)

    assert (ran.stdout, ran.stderr) == (f"a 3 Active blue {tmp_path / 'there'} \n", "")
    assert beside("a", child["pid"], "3", "Active", "--", "sh", "-c", "exit 5").returncode == 5


def test_a_child_that_shares_its_process_adds_its_own_variables(tmp_path: Path) -> None:
    process = subprocess.Popen(["/bin/sleep", "100"], env={"HUB_NAME": "hub", "COLOUR": "red"}, cwd=tmp_path)
    try:
        ran = beside("b", str(process.pid), "9", "Passive", "--", *SHOW)
    finally:
        process.kill()
        process.wait()

    assert ran.stdout == f"b 9 Passive red {tmp_path} \n"


@pytest.mark.parametrize(
    ("child_id", "command", "sentence", "code"),
    [
        ("other", "true", "error: child 'other' has no process {pid} here any more; try again\n", 1),
        ("a", "no-such", "error: no-such: there is no such program in the member's container\n", 127),
        ("a", "/", "error: /: Permission denied\n", 126),
    ],
)
def test_a_command_that_cannot_run_is_reported_in_a_sentence(
    child: dict[str, str], child_id: str, command: str, sentence: str, code: int
) -> None:
    ran = beside(child_id, child["pid"], "3", "Active", "--", command)

    assert (ran.stdout, ran.stderr, ran.returncode) == ("", sentence.format(**child), code)


def test_a_process_that_has_ended_is_reported_in_a_sentence() -> None:
    ran = beside("a", "999999999", "3", "Active", "--", "true")

    assert ran.stderr == "error: child 'a' has no process 999999999 here any more; try again\n"
