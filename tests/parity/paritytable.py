"""Reads the rows of docs/coming-from-processhub.md, and the names that a row may use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "coming-from-processhub.md"


def rows() -> list[tuple[str, list[str]]]:
    """Return, for each row of each table, ProcessHub's name and the names in backticks of the other columns."""
    found = []
    section = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        if not line.startswith("| ") or line.startswith(("| ProcessHub |", "| kind |")):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        theirs, *ours = cells[1:] if section == "Strategies" else cells
        found.append((f"{section}: {theirs}".replace("`", ""), re.findall(r"`([^`]+)`", " | ".join(ours))))
    return found


def fields() -> set[str]:
    """Return the paths of all fields of spec in the CRDs of Hub and Child."""
    found: set[str] = set()
    for name in ("hubs", "children"):
        crd = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())
        _collect("spec", crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], found)
    return found


def _collect(path: str, schema: dict[str, Any], found: set[str]) -> None:
    found.add(path)
    for name, below in schema.get("properties", {}).items():
        _collect(f"{path}.{name}", below, found)
