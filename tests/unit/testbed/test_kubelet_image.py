"""What containers of the process kubelet see of this machine, whatever is mounted over it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import kopf

from localcluster.kubelet import image
from processhub.agent import app


def folder(path: Path) -> str:
    path.mkdir(parents=True, exist_ok=True)
    return str(path)


def test_modules_that_pods_import_have_byte_code() -> None:
    image.compile_programs()

    for module in (app, kopf):
        source = Path(str(module.__file__))
        compiled = Path(importlib.util.cache_from_source(str(source)))
        assert compiled.stat().st_mtime >= source.stat().st_mtime


def test_a_folder_inside_another_needs_no_mount_of_its_own(tmp_path: Path) -> None:
    checkout, venv, beside = (folder(tmp_path / name) for name in ("a b ü/x", "a b ü/x/.venv", "a b ü/x2"))

    assert image.outermost([venv, beside, checkout, str(tmp_path / "nothing")]) == (checkout, beside)


def test_a_folder_known_by_a_link_is_kept_under_both_names(tmp_path: Path) -> None:
    real, link = folder(tmp_path / "real"), tmp_path / "link"
    link.symlink_to(real)

    assert set(image.outermost([str(link)])) == {real, str(link)}


def test_the_file_behind_a_tools_link_is_kept(tmp_path: Path) -> None:
    tools, cache = Path(folder(tmp_path / "bin")), Path(folder(tmp_path / "cache"))
    (cache / "kubectl").touch()
    (tools / "kubectl").symlink_to("../cache/kubectl")

    assert {str(tools), str(cache)} <= set(image.folders(tools))


def test_only_folders_that_a_mount_hides_are_mounted_again(tmp_path: Path) -> None:
    hidden, seen = folder(tmp_path / "tmp" / "checkout"), folder(tmp_path / "tmpfile")
    over = ("/volumes/tmp", str(tmp_path / "tmp"), False)
    on = ("/volumes/mine", seen, False)  # a pod that mounts over one of the folders asks for just that

    assert image.hidden([hidden, seen], [over, on], read_only=True) == [(hidden, hidden, True)]


def test_a_mount_path_that_is_a_link_hides_its_target(tmp_path: Path) -> None:
    hidden, link = folder(tmp_path / "private" / "checkout"), tmp_path / "tmp"
    link.symlink_to("private")

    assert image.hidden([hidden], [("/volumes/tmp", str(link), False)], read_only=False) == [(hidden, hidden, False)]
