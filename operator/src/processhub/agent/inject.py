"""Copy the agent and its own interpreter into a volume, so that it runs in a container of any image.

``processhub-inject TARGET`` runs in the init container of a member whose Hub names an image. TARGET is a volume that
the member mounts at /opt/processhub. The copy needs nothing of the image that it is mounted in:

    bin/                 the commands and links to the interpreter, as in the operator's image
    lib/python3.x/       the packages that an agent imports
    base/bin, base/lib   interpreter and standard library
    base/so              the C library and all others that they need

If pods are processes of this machine (the local cluster), TARGET gets a link to the agent that is installed here.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

HOME = Path("/opt/processhub")  # also compiled into the interpreter's copy, see image/assemble.py
# Packages that only the operator and the command line import. They are half of all bytes.
_NOT_FOR_AGENTS = ("numpy*", "kopf*", "typer*", "rich*", "pygments*", "markdown_it*", "tests", "test")
_NOT_OF_PYTHON = (
    *("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "config-*"),
    *("site-packages", "dist-packages", "EXTERNALLY-MANAGED"),
)


def inject(target: Path, home: Path = HOME) -> None:
    """Fill ``target``, an empty folder, with the agent. Raises OSError."""
    prepared = home / "inject"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    _copy(home / "lib", target / "lib", _NOT_FOR_AGENTS)
    _copy(Path(sysconfig.get_path("stdlib")), target / "base" / "lib" / version, _NOT_OF_PYTHON)
    _copy(prepared / "lib", target / "base" / "so")
    _copy(prepared / "bin", target / "base" / "bin")
    interpreter = next((target / "base" / "bin").iterdir()).name
    (target / "pyvenv.cfg").write_text(f"home = {HOME}/base/bin\ninclude-system-site-packages = false\n")
    bin_folder = target / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").symlink_to(HOME / "base" / "bin" / interpreter)
    shutil.copy2(home / "bin" / "processhub-agent", bin_folder)


def _copy(source: Path, target: Path, without: tuple[str, ...] = ()) -> None:
    shutil.copytree(source, target, symlinks=False, ignore=shutil.ignore_patterns(*without))


def main() -> int:
    """Run the console script; returns the exit code, 2 for a wrong command line."""
    if len(sys.argv) != 2:
        print("usage: processhub-inject TARGET", file=sys.stderr)  # noqa: T201
        return 2
    target = Path(sys.argv[1])
    for left in target.iterdir():  # files of an earlier container that was ended while it copied
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    if (HOME / "inject").is_dir():
        inject(target)
    else:
        (target / "bin").mkdir()
        (target / "bin" / "processhub-agent").symlink_to(Path(sys.argv[0]).resolve().with_name("processhub-agent"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
