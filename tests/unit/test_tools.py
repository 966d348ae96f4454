"""Finding the local cluster's tools."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from localcluster import tools

KUBECTL = tools.BY_NAME["kubectl"]
PRETENDED = "#!/bin/sh\necho 'Client Version: v1.34.4'\n"


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PRETENDED)
    path.chmod(0o755)
    return path


def link_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["tools", "kubectl", "--bin", str(folder)])
    assert tools.main() == 0
    return folder / "kubectl"


def test_a_link_that_is_found_on_path_is_not_linked_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README has people put .venv/bin on PATH and call make again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    binary = executable(tools.cached_path(KUBECTL))
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    for _ in range(2):
        assert link_into(folder, monkeypatch).resolve() == binary


def test_a_binary_that_somebody_put_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = executable(tmp_path / "bin" / "kubectl")
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")

    assert not link_into(binary.parent, monkeypatch).is_symlink()


def test_tools_of_kind_leave_what_the_local_cluster_has_in_the_cache_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tools.cached_path(KUBECTL)

    monkeypatch.setattr(tools, "NODE_TOOLS", ())

    assert tools.cached_path(KUBECTL) == before


def test_a_source_of_our_own_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tools.PINS / "kind", tmp_path / "kind")
    monkeypatch.setattr(tools, "PINS", tmp_path)
    before = tools.cached_path(tools.BY_NAME["pause"])

    with open(tmp_path / "kind" / "pause" / "main.go", "a") as source:
        source.write("// changed\n")

    assert tools.cached_path(tools.BY_NAME["pause"]) != before


def test_only_what_was_built_from_the_pins_goes_into_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(executable(tmp_path / "bin" / "kubectl").parent))
    built = executable(tools.cached_path(KUBECTL))

    assert tools.ensure(["kubectl"])["kubectl"] != built
    assert tools.ensure(["kubectl"], own=True)["kubectl"] == built
