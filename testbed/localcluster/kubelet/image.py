"""The replacement for a container's image: the folders of this machine that contain its programs.

They stay visible at their own paths, even if a folder above them is mounted over: otherwise an emptyDir at /tmp would
hide a checkout below /tmp from its own pods.
"""

from __future__ import annotations

import compileall
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from localcluster.kubelet.rootfs import Mount
from localcluster.layout import CHECKOUT

_MOST_LINKS = 40  # as many as the kernel follows


def compile_programs() -> None:
    """Write the byte code of the folders that pods import from, if it is missing or older than its source.

    As in an image: most pods can't write it, and each would compile the same hundreds of modules at its start.
    """
    for folder in (sysconfig.get_path("purelib"), CHECKOUT / "operator" / "src", CHECKOUT / "testbed"):
        # A file that can't be written or does not compile is left to its importers.
        compileall.compile_dir(folder, quiet=2)


def search_path(tools: Path | None) -> str:
    """PATH of every container: this interpreter's environment, the cluster's tools, then the machine's."""
    parts = [str(Path(sys.executable).parent), str(tools) if tools else "", os.environ.get("PATH", "")]
    return ":".join(part for part in parts if part)


def folders(tools: Path | None) -> tuple[str, ...]:
    """The checkout, this interpreter with its import folders, the folders of PATH and those that tools are links to."""
    named: list[Path | str] = [CHECKOUT, sys.prefix, sys.base_prefix, *sys.path, *search_path(tools).split(":")]
    programs = [Path(sys.executable), *(tools.iterdir() if tools else ())]
    paths = [*(Path(name) for name in named), *(folder for program in programs for folder in _link_folders(program))]
    return outermost(str(path) for path in paths if path.is_absolute())


def _link_folders(program: Path) -> list[Path]:
    """The folder of each link's target on the way from the program's name to its file."""
    found: list[Path] = []
    while program.is_symlink() and len(found) < _MOST_LINKS:
        program = Path(os.path.normpath(program.parent / program.readlink()))
        found.append(program.parent)
    return found


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """The folders among ``paths``, as named and with all links resolved, without those that lie in another of them."""
    folders = [path for path in paths if Path(path).is_dir()]
    given = {form for path in folders for form in (os.path.normpath(path), os.path.realpath(path))}
    return tuple(sorted(path for path in given if not any(_inside(path, other) for other in given)))


def hidden(kept: Iterable[str], mounts: Iterable[Mount], *, read_only: bool) -> list[Mount]:
    """The folders that must be mounted beside ``mounts``, each in its own place, so that all of ``kept`` is visible."""
    covers = {form for _, target, _ in mounts for form in (os.path.normpath(target), os.path.realpath(target))}
    return [(path, path, read_only) for path in kept if any(_inside(path, cover) for cover in covers)]


def _inside(path: str, folder: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")
