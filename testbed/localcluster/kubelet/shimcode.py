"""The code of the small processes beside the containers, kept as it was when the kubelet started.

They are started again and again while the kubelet runs. If they were read from the checkout, an edit or a pull would
mix two versions of one program.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_MODULES = ("syscalls", "proctree", "rootfs", "rootfs_probe", "shim", "enter")


def install(folder: Path) -> None:
    """Copy the code to ``folder``, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "localcluster" / "kubelet"
    package.mkdir(parents=True)
    for name in _MODULES:
        shutil.copy(_PACKAGE / f"{name}.py", package)
    for init in (package, package.parent):
        (init / "__init__.py").touch()


def entry_point(folder: Path, module: str) -> list[str]:
    """The command that runs ``main`` of one of these programs, without site-packages: it starts in some 20 ms."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from localcluster.kubelet.{module} import main; main()"
    return [sys.executable, "-S", "-E", "-c", code]
