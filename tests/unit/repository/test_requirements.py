"""The package's requirements: ranges for its users, and pins in the repository for its own builds."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OPERATOR = Path(__file__).resolve().parents[3] / "operator"
PROJECT: dict[str, Any] = tomllib.loads((OPERATOR / "pyproject.toml").read_text())["project"]
PARTS = {
    "": ("processhub.client", "processhub.actor", "processhub.examples", "processhub.requesterrors"),
    "agent": ("processhub.agent",),
    "cli": ("processhub.cli",),
    "operator": ("processhub.controller", "processhub.strategies", "processhub.extensions"),
}
IMPORTED_AS = {"pyyaml": "yaml", "prometheus-client": "prometheus_client"}
BY_HAND = {"kubernetes"}  # imported where a kubeconfig needs it, with a message that names the package


def requirements(extra: str) -> dict[str, Requirement]:
    """Return the requirements of the package without extras, and of an extra in addition, by name."""
    texts = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else ())]
    return {canonicalize_name(found.name): found for found in map(Requirement, texts)}


def pins(name: str) -> dict[str, str]:
    """Return the version of each package in a file of pins."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (OPERATOR / name).read_text(), re.M))


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("processhub", include_external_packages=True, exclude_type_checking_imports=True)


@pytest.mark.parametrize("extra", PARTS)
def test_each_part_requires_the_packages_that_it_imports(extra: str, imports: grimp.ImportGraph) -> None:
    found: set[str] = set()
    for part in PARTS[extra]:
        found |= imports.find_upstream_modules(part, as_package=bool(imports.find_children(part)))
    needed = {name for name in found if name.partition(".")[0] not in {"processhub", *sys.stdlib_module_names}}

    offered = {IMPORTED_AS.get(name, name) for name in requirements(extra)}
    assert needed - offered <= BY_HAND
    if not extra:
        assert offered == needed - BY_HAND, "whoever imports the client installs nothing else"


def test_the_command_line_can_use_every_kubeconfig() -> None:
    assert "kubernetes" in requirements("cli")


@pytest.mark.parametrize("extra", PARTS)
def test_users_get_ranges(extra: str) -> None:
    for name, requirement in requirements(extra).items():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, name
        assert operators <= {">=", "<"}, name


def test_own_builds_are_pinned() -> None:
    constraints, image = pins("constraints.txt"), pins("requirements.lock")

    for extra in PROJECT["optional-dependencies"]:
        for name, requirement in requirements(extra).items():
            assert name == "processhub" or requirement.specifier.contains(constraints[name]), "run `make lock`"
    for name, version in image.items():
        assert constraints[name] == version, "run `make lock`"
    for extra in ("agent", "cli", "operator"):
        assert requirements(extra).keys() - image.keys() == ({"kubernetes"} if extra == "cli" else set()), extra
