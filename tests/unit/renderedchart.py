"""The chart as helm renders it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "processhub"
Manifest = dict[str, Any]


def template(helm: str, *options: str, chart: Path = CHART) -> list[Manifest]:
    """Return the objects of a release in the namespace ``hubs-system``."""
    command = [helm, "template", "processhub", str(chart), "-n", "hubs-system", *options]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return [document for document in yaml.load_all(answer.stdout, Loader=yaml.CSafeLoader) if document]


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the only object of this kind and name."""
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return all objects of a kind."""
    return [each for each in manifests if each["kind"] == kind]


def operator_pod(manifests: list[Manifest]) -> Manifest:
    """Return the operator's pod template."""
    template: Manifest = one(manifests, "Deployment", "processhub-operator")["spec"]["template"]
    return template
