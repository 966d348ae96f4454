"""Finding the local cluster's tools."""

from __future__ import annotations

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
