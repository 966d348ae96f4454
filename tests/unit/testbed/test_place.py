"""Where a checkout can be set up, and the message where it can't."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import place
from localcluster.layout import CHECKOUT

NOBODY = 65534


@pytest.fixture
def anywhere() -> Iterator[Path]:
    """A folder that every user can read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Run as a user that owns nothing, if this one could write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_this_checkout_can_be_set_up() -> None:
    assert not place.obstacle(CHECKOUT)


def test_blanks_and_letters_beyond_ascii_are_no_obstacle(anywhere: Path) -> None:
    checkout = anywhere / "Prozeß hub"
    checkout.mkdir()

    assert not place.obstacle(checkout)


@pytest.mark.parametrize("name", ["a:b", "a\nb", "a\rb"])
def test_a_character_that_no_folder_on_path_can_have_is_reported(name: str, anywhere: Path) -> None:
    assert "which no folder on PATH can have; move the checkout" in place.obstacle(anywhere / name)


def test_a_name_that_is_not_utf_8_is_reported(anywhere: Path) -> None:
    assert "is not UTF-8" in place.obstacle(Path(os.fsdecode(os.fsencode(anywhere) + b"/\xff")))


@pytest.mark.parametrize("inside", ["", ".local"])
def test_a_folder_of_another_user_is_reported(inside: str, anywhere: Path, request: pytest.FixtureRequest) -> None:
    folder = anywhere / "checkout" / inside
    folder.mkdir(parents=True)
    anywhere.joinpath("checkout").chmod(0o777)
    folder.chmod(0o555)
    request.getfixturevalue("nobody")

    said = place.obstacle(anywhere / "checkout")

    assert said.startswith(f"{folder}, which belongs to ")
    assert said.endswith("; clone the repository into another folder")


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder with the files that it reads of a checkout before anything is installed."""
    (checkout / "operator").mkdir(parents=True)
    (checkout / "testbed" / "localcluster").mkdir(parents=True)
    pins = ("operator/pyproject.toml", "operator/constraints.txt")
    for name in ("Makefile", *pins, *(f"testbed/localcluster/{module}.py" for module in MODULES)):
        shutil.copy(CHECKOUT / name, checkout / name)
    command = ["make", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


MODULES = ("__init__", "layout", "place")


def test_make_reports_it_before_it_does_anything(anywhere: Path) -> None:
    answer = make(anywhere / "a:b", "demo")

    assert answer.returncode != 0
    assert f"error: '{anywhere}/a:b' has a colon or a line break in it" in answer.stderr
    assert not (anywhere / "a:b" / ".venv").exists()


@pytest.mark.parametrize("moved", [False, True])
def test_a_moved_checkout_creates_its_own_virtual_environment(moved: bool, anywhere: Path) -> None:
    checkout = anywhere / "Prozeß hub"
    (checkout / ".venv").mkdir(parents=True)
    (checkout / ".venv" / ".made").write_text(f"{anywhere / 'before' if moved else checkout}\n")

    answer = make(checkout, "--dry-run", "setup")

    assert ("-m venv --clear .venv" in answer.stdout) is moved
