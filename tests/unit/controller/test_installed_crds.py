"""Which fields the operator misses in the CRDs of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from processhub.controller.lead.installedcrds import lacking

CRDS = Path(__file__).resolve().parents[3] / "crds"


def crd(plural: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return read


def schema(read: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = read["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


@pytest.mark.parametrize("plural", ["hubs", "children", "childsets", "registryslices"])
def test_the_crds_of_the_same_version_lack_nothing(plural: str) -> None:
    assert lacking(f"{plural}.processhub.dev", crd(plural)) == []


def test_fields_of_objects_and_of_lists_that_a_crd_lacks_are_named() -> None:
    slices, hubs = crd("registryslices"), crd("hubs")
    del schema(slices)["spec"]["properties"]["settings"]["properties"]["requestSeconds"]
    del schema(slices)["status"]["properties"]["port"]
    del schema(hubs)["spec"]["properties"]["children"]["items"]["properties"]["suspend"]
    del schema(hubs)["spec"]["properties"]["onDemand"]

    assert lacking("registryslices.processhub.dev", slices) == ["spec.settings.requestSeconds", "status.port"]
    assert sorted(lacking("hubs.processhub.dev", hubs)) == ["spec.children[].suspend", "spec.onDemand"]
