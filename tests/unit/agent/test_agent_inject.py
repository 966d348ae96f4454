"""The agent that an init container copies into a member's container of any image."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from processhub.agent import inject


def made(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder /opt/processhub of the operator's image, with the interpreter's library beside it."""
    home, library = tmp_path / "opt", tmp_path / "stdlib"
    for name in ("aiohttp/__init__.py", "numpy/__init__.py", "kopf-1.dist-info/METADATA", "processhub/agent/main.py"):
        made(home / "lib" / "python3" / "site-packages" / name)
    made(home / "inject" / "bin" / "python3.99")
    made(home / "inject" / "lib" / "libc.so.6")
    made(home / "bin" / "processhub-agent", "the agent")
    made(library / "asyncio" / "__init__.py")
    made(library / "test" / "__init__.py")
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(library)}.__getitem__)
    return home


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_an_agent_is_copied_with_its_interpreter_and_without_the_operators_libraries(
    image: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()

    inject.inject(target, image)

    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    assert files(target) == {
        "bin/python",
        "bin/processhub-agent",
        "pyvenv.cfg",
        "lib/python3/site-packages/aiohttp/__init__.py",
        "lib/python3/site-packages/processhub/agent/main.py",
        f"base/lib/{version}/asyncio/__init__.py",
        "base/bin/python3.99",
        "base/so/libc.so.6",
    }
    assert (target / "bin" / "python").readlink() == Path("/opt/processhub/base/bin/python3.99")
    assert (target / "bin" / "processhub-agent").read_text() == "the agent"


@pytest.mark.parametrize("in_image", [True, False])
def test_files_of_an_earlier_attempt_are_replaced(
    in_image: bool, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside the image, where pods are processes of the machine, the installed agent is linked to."""
    target = tmp_path / "target"
    made(target / "bin" / "processhub-agent", "half of it")
    (target / "left").symlink_to(target / "bin")
    monkeypatch.setattr(inject, "HOME", image if in_image else tmp_path / "nothing")
    monkeypatch.setattr(inject.inject, "__defaults__", (image,))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "venv" / "bin" / "processhub-inject"), str(target)])

    assert inject.main() == 0

    agent = target / "bin" / "processhub-agent"
    assert not (target / "left").is_symlink()
    if in_image:
        assert agent.read_text() == "the agent"
    else:
        assert agent.readlink() == tmp_path / "venv" / "bin" / "processhub-agent"


def test_a_wrong_command_line_is_rejected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["processhub-inject"])

    assert inject.main() == 2
    assert "usage: processhub-inject TARGET" in capsys.readouterr().err
