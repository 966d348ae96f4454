"""Writes of annotations that are users' orders: only if the order is still the one that was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.kinds import CHILD_SETS, CHILDREN, HUBS, Kind
from processhub.controller.rounds.round import Round

Ordered = Child | ChildSet | Hub
_KINDS: Mapping[str, Kind[Any]] = {"Child": CHILDREN, "ChildSet": CHILD_SETS, "Hub": HUBS}


async def write_annotations(round: Round, item: Ordered, order: str, changes: Mapping[str, str | None]) -> None:
    """Write these annotations (None removes one) if the annotation ``order`` has its value still. Raises ApiError."""
    kind, annotations = _KINDS[item.kind], item.metadata.annotations
    patch: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/uid", "value": item.metadata.uid},
        {"op": "test", "path": _path(order), "value": annotations[order]},
    ]
    for name, value in changes.items():
        if value is not None:
            patch.append({"op": "add", "path": _path(name), "value": value})
        elif name in annotations:
            patch.append({"op": "remove", "path": _path(name)})
    stored = await round.client.patch(kind, *item.metadata.key, patch, content_type=JSON_PATCH)
    round.store.put(kind.plural, stored)


def _path(annotation: str) -> str:
    """The JSON Pointer of an annotation."""
    return "/metadata/annotations/" + annotation.replace("~", "~0").replace("/", "~1")
