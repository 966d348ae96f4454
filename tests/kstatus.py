"""The status that tools which follow kstatus derive from an object, by its rules for kinds that it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kstatus(item: Mapping[str, Any]) -> str:
    """Return the result for an object: Terminating, InProgress, Failed or Current."""
    metadata, status = item["metadata"], item.get("status", {})
    conditions = {found["type"]: found["status"] for found in status.get("conditions", ())}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return "InProgress"
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    return "Current" if conditions.get("Ready", "True") == "True" else "InProgress"
