"""The shape of a pod child's template, as far as the operator adds to it. The rest is checked by the API server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_ANY: Any = None
_CONTAINER: dict[str, Any] = {"env": [{}], "volumeMounts": [{}]}
_REQUIRED = {"nodeSelectorTerms": [{"matchFields": [_ANY]}]}
_POD_TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
        "volumes": [{}],
        "schedulingGates": [{}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _REQUIRED}},
    },
}
_SHOWN = 60  # Characters of a wrong value that a message shows.


def wrong_shape(template: Mapping[str, Any], path: str) -> str:
    """A sentence about the first field that is an object or a list in a PodTemplateSpec, and is not here; or "".

    ``path`` is that of the template. A field that is null counts as left out.
    """
    return _wrong(template, _POD_TEMPLATE, path)


def _wrong(value: Any, shape: Any, path: str) -> str:
    if shape is _ANY:
        return ""
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return _sentence(value, "an object", path)
        parts = [(value.get(name), inner, f"{path}.{name}") for name, inner in shape.items()]
        return next((why for part in parts if part[0] is not None and (why := _wrong(*part))), "")
    if not isinstance(value, list):
        return _sentence(value, "a list", path)
    items = [(item, shape[0], f"{path}[{index}]") for index, item in enumerate(value)]
    return next((why for item in items if (why := _wrong(*item))), "")


def _sentence(value: Any, words: str, path: str) -> str:
    return f"{path} is {msgspec.json.encode(value).decode()[:_SHOWN]}; it must be {words}"
