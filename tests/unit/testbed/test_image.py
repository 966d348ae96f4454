"""The image's locked wheels against what the package asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

OPERATOR = Path(__file__).resolve().parents[3] / "operator"
LEFT_OUT = {"kubernetes"}  # image/overrides.txt says why


def pinned(text: str) -> dict[str, str]:
    """Version by name."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.M))


def test_the_lock_has_each_dependency_in_the_version_of_the_package() -> None:
    project = tomllib.loads((OPERATOR / "pyproject.toml").read_text())["project"]
    wanted = pinned("\n".join(project["dependencies"]))
    locked = pinned((OPERATOR / "requirements.lock").read_text())

    assert len(wanted) > len(LEFT_OUT)
    assert {name: locked.get(name) for name in wanted} == {
        name: None if name in LEFT_OUT else version for name, version in wanted.items()
    }, "run `make lock`"


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
