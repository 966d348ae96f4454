"""The image's locked wheels against the package's requirements."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from image.build import platforms

OPERATOR = Path(__file__).resolve().parents[3] / "operator"


def test_every_locked_wheel_has_a_hash() -> None:
    for lock in ("requirements.lock", "image/build.lock"):
        text = (OPERATOR / lock).read_text()
        entries = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.M)[1:]
        assert entries
        assert all("--hash=sha256:" in entry for entry in entries)


def test_the_image_has_the_commands_of_the_package() -> None:
    project = tomllib.loads((OPERATOR / "pyproject.toml").read_text())["project"]
    scripts, handlers = project["scripts"], project["entry-points"]["processhub.hooks"]
    assemble = (OPERATOR / "image" / "assemble.py").read_text()

    assert dict(re.findall(r'^    "([a-z_-]+)": "(\S+)",$', assemble, re.M)) == scripts | handlers
    dockerfile = (OPERATOR / "Dockerfile").read_text()
    assert {f"/opt/processhub/bin/{name}" for name in scripts} <= set(re.findall(r'"(/opt/[^"]+)"', dockerfile))


def test_the_image_is_built_for_the_architecture_of_the_machine() -> None:
    for machine in ("x86_64", "aarch64"):
        names = platforms(machine)
        assert f"manylinux_2_17_{machine}" in names
        assert all(name.endswith(f"_{machine}") for name in names)
    for path in (OPERATOR / "Dockerfile", *(OPERATOR / "image").glob("*.py")):
        assert not re.search(r"x86.64|amd64|aarch64|arm64", path.read_text()), path.name
