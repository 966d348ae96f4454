"""What the CRDs define for their objects: defaults, dropped fields, validation, and selectable fields.

Of the CEL rules, those that compare a value with the one before are evaluated: immutable fields, and the term of a
slice, which never falls. All others count as fulfilled.
"""

from __future__ import annotations

import copy
import functools
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_BOUNDS: dict[str, tuple[type | tuple[type, ...], Callable[[Any, Any], bool], Callable[[Any], Any]]] = {
    "minimum": ((int, float), operator.ge, lambda value: value),
    "maximum": ((int, float), operator.le, lambda value: value),
    "minLength": (str, operator.ge, len),
    "maxLength": (str, operator.le, len),
    "minItems": (list, operator.ge, len),
    "maxItems": (list, operator.le, len),
    "minProperties": (dict, operator.ge, len),
    "maxProperties": (dict, operator.le, len),
}
_SAME_FIELD = re.compile(
    r"has\(self\.(\w+)\) == has\(oldSelf\.\1\) && \(!has\(self\.\1\) \|\| self\.\1 == oldSelf\.\1\)"
)
_TRANSITIONS = {"self == oldSelf": operator.eq, "self >= oldSelf": operator.ge}


@functools.cache
def _versions() -> dict[str, Json]:
    """The stored version of each CRD, by its plural."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crds = [yaml.load(path.read_text(), loader) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    return {crd["spec"]["names"]["plural"]: crd["spec"]["versions"][0] for crd in crds}


def schema_of(plural: str) -> Json | None:
    """Return the schema of a custom resource."""
    version = _versions().get(plural)
    return None if version is None else version["schema"]["openAPIV3Schema"]


def can_select(plural: str, field: str) -> bool:
    """Return whether lists of the kind can be selected by the field; Kubernetes' own kinds are not checked."""
    version = _versions().get(plural)
    if version is None or field in ("metadata.name", "metadata.namespace"):
        return True
    return f".{field}" in [each["jsonPath"] for each in version.get("selectableFields", ())]


def complete(schema: Json, value: Any) -> None:
    """Drop the fields that are not in the schema, and set defaults."""
    if isinstance(value, list):
        for item in value:
            complete(schema.get("items", {}), item)
    if not isinstance(value, dict):
        return
    fields, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, inner in fields.items():
        if value.get(name) is None and not inner.get("nullable"):
            value.pop(name, None)
        if "default" in inner and name not in value:
            value[name] = copy.deepcopy(inner["default"])
    for name in list(value):
        if name in fields:
            complete(fields[name], value[name])
        elif isinstance(others, dict):
            complete(others, value[name])
        elif schema and not others and not schema.get("x-kubernetes-preserve-unknown-fields"):
            del value[name]


def complete_object(schema: Json, item: Json) -> None:
    """Complete a whole object, whose metadata the CRD leaves to Kubernetes."""
    metadata = item.pop("metadata")
    complete(schema, item)
    item["metadata"] = metadata


def errors(schema: Json, value: Any, before: Any = None, path: str = "") -> Iterator[str]:
    """Return the errors by the schema; ``before`` is the stored value."""
    kind = schema.get("type")
    if kind and not (isinstance(value, _TYPES[kind]) and (kind == "boolean") == isinstance(value, bool)):
        yield f"{path}: Invalid value: must be of type {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: Unsupported value: {value!r}"
    for name, bound in schema.items():
        if name in _BOUNDS:
            of, holds, measure = _BOUNDS[name]
            if isinstance(value, of) and not holds(measure(value), bound):
                yield f"{path}: Invalid value: {name} is {bound}"
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        yield f"{path}: Invalid value: does not match {schema['pattern']}"
    for rule in schema.get("x-kubernetes-validations", ()) if before is not None else ():
        if not _may_follow(rule["rule"], value, before):
            yield f"{path}: Invalid value: {rule['message']}"
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from errors(schema.get("items", {}), item, None, f"{path}[{number}]")
    elif isinstance(value, dict):
        yield from _errors_of_fields(schema, value, before if isinstance(before, dict) else {}, path)


def _may_follow(rule: str, value: Any, before: Any) -> bool:
    """Return whether a rule lets the value follow this one."""
    if match := _SAME_FIELD.fullmatch(rule):
        return bool(value.get(match[1]) == before.get(match[1]))
    return rule not in _TRANSITIONS or _TRANSITIONS[rule](value, before)


def _errors_of_fields(schema: Json, value: Json, before: Json, path: str) -> Iterator[str]:
    fields, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}: Required value"
    for name, each in value.items():
        inner = fields.get(name, others)
        if isinstance(inner, dict) and not (name in before and before[name] == each):  # it was checked when stored
            yield from errors(inner, each, before.get(name), f"{path}.{name}" if path else name)
