"""Images as users bring them: programs without a Python, and a Python package of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

from kube import CommandError, docker

from image.base import choose

PLAIN = "localhost/e2e-plain:1"
PYTHON = "localhost/e2e-python:1"
WRITER = "localhost/e2e-writer:1"
OF_EXAMPLE = "debian:bookworm-slim"  # manifests/examples/11-image.yaml

_GREETER = '''"""A user's package."""

import processhub


class Greeter(processhub.Actor):
    async def init(self, args):
        print("hello from the package greeter", flush=True)
'''


def build(folder: Path) -> list[str]:
    """Build what is missing; the names of all."""
    base = choose("")
    _build(
        folder / "plain",
        PLAIN,
        f"FROM {base}\nRUN rm -rf /usr/bin/python3* /usr/local/bin/python3* /usr/lib/python3*\n",
    )
    package = folder / "python" / "greeter" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text(_GREETER)
    _build(
        folder / "python", PYTHON, f"FROM {base}\nCOPY greeter /srv/packages/greeter\nENV PYTHONPATH=/srv/packages\n"
    )
    try:
        docker("image", "inspect", OF_EXAMPLE)
    except CommandError:
        docker("tag", PLAIN, OF_EXAMPLE)  # no registry: any Debian will do
    return [PLAIN, PYTHON, OF_EXAMPLE]


def build_writer(folder: Path) -> str:
    """The image of the fault tests' children (faults/children); its name."""
    shutil.copytree(Path(__file__).with_name("faults") / "children", folder / "packages")
    _build(folder, WRITER, f"FROM {choose('')}\nCOPY packages /srv/packages\nENV PYTHONPATH=/srv/packages\n")
    return WRITER


def _build(folder: Path, name: str, dockerfile: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    docker("build", "--quiet", "--network=none", "--tag", name, str(folder))
