"""What the CRDs define for their objects: defaults, dropped fields, validation, and selectable fields.

Of the CEL rules, those that compare a value with the one before are evaluated: immutable fields, and the term of a
slice, which never falls. All others count as fulfilled.
"""

from __future__ import annotations

import copy
import functools
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
Steps = tuple[str | int, ...]  # to a value, from the object
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
_TRANSITIONS: dict[str, Callable[[Any, Any], bool]] = {"self == oldSelf": operator.eq, "self >= oldSelf": operator.ge}


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


@functools.cache
def rules_of(plural: str) -> Rules | None:
    """Return the same, prepared to complete and check objects."""
    schema = schema_of(plural)
    return None if schema is None else Rules(schema)


def can_select(plural: str, field: str) -> bool:
    """Return whether lists of the kind can be selected by the field; Kubernetes' own kinds are not checked."""
    version = _versions().get(plural)
    if version is None or field in ("metadata.name", "metadata.namespace"):
        return True
    return f".{field}" in [each["jsonPath"] for each in version.get("selectableFields", ())]


class Rules:
    """A schema and those inside it, prepared once, because the simulator checks some thousand objects a second."""

    def __init__(self, schema: Json) -> None:
        self._kind = schema.get("type")
        self._enum = schema.get("enum")
        self._bounds = [(name, bound, *_BOUNDS[name]) for name, bound in schema.items() if name in _BOUNDS]
        self._pattern = re.compile(schema["pattern"]) if "pattern" in schema else None
        rules = [(_transition(rule["rule"]), rule["message"]) for rule in schema.get("x-kubernetes-validations", ())]
        self._transitions = [(follows, message) for follows, message in rules if follows is not None]
        self._required = schema.get("required", ())
        self.fields = {name: Rules(inner) for name, inner in schema.get("properties", {}).items()}
        self._items = Rules(schema["items"]) if "items" in schema else None
        others = schema.get("additionalProperties")
        self._others = Rules(others) if isinstance(others, dict) else None
        self._drops_others = schema and not others and not schema.get("x-kubernetes-preserve-unknown-fields")
        self._nullable = schema.get("nullable")
        self._defaults = {
            name: inner["default"] for name, inner in schema.get("properties", {}).items() if "default" in inner
        }

    def complete_object(self, item: Json, before: Json | None = None) -> None:
        """Complete a whole object, whose metadata the CRD leaves to Kubernetes; ``before`` is the stored one."""
        metadata = item.pop("metadata")
        self.complete(item, before)
        item["metadata"] = metadata

    def complete(self, value: Any, before: Any = None) -> None:
        """Drop the fields that are not in the schema, and set defaults. What is as before is complete."""
        if isinstance(value, list):
            for item in value if self._items is not None else ():
                self._items.complete(item)
        if not isinstance(value, dict):
            return
        fields, others = self.fields, self._others
        for name in [name for name, each in value.items() if each is None and name in fields]:
            if not fields[name]._nullable:
                del value[name]
        for name, default in self._defaults.items():
            if name not in value:
                value[name] = copy.deepcopy(default)
        unknown, past = [], before if isinstance(before, dict) else {}
        for name, each in value.items():
            inner = fields.get(name, others)
            if inner is None:
                unknown.append(name)
            elif isinstance(each, dict | list) and past.get(name) != each:
                inner.complete(each, past.get(name))
        for name in unknown if self._drops_others else ():
            del value[name]

    def errors(self, value: Any, before: Any = None, path: Steps = ()) -> list[str]:
        """Return the errors by the schema; ``before`` is the stored value."""
        if (kind := self._kind) and not (
            isinstance(value, _TYPES[kind]) and (kind == "boolean") == isinstance(value, bool)
        ):
            return [f"{_at(path)}: Invalid value: must be of type {kind}"]
        found = []
        if self._enum is not None and value not in self._enum:
            found.append(f"{_at(path)}: Unsupported value: {value!r}")
        for name, bound, of, holds, measure in self._bounds:
            if isinstance(value, of) and not holds(measure(value), bound):
                found.append(f"{_at(path)}: Invalid value: {name} is {bound}")
        if self._pattern is not None and isinstance(value, str) and not self._pattern.search(value):
            found.append(f"{_at(path)}: Invalid value: does not match {self._pattern.pattern}")
        for follows, message in self._transitions if before is not None else ():
            if not follows(value, before):
                found.append(f"{_at(path)}: Invalid value: {message}")
        if isinstance(value, dict):
            found += self._errors_of_fields(value, before if isinstance(before, dict) else {}, path)
        elif isinstance(value, list) and self._items is not None:
            for number, item in enumerate(value):
                found += self._items.errors(item, None, (*path, number))
        return found

    def _errors_of_fields(self, value: Json, before: Json, path: Steps) -> list[str]:
        fields, others = self.fields, self._others
        found = [f"{_at(path)}.{name}: Required value" for name in self._required if name not in value]
        for name, each in value.items():
            inner = fields.get(name, others)
            if inner is not None and not (name in before and before[name] == each):  # it was checked when stored
                found += inner.errors(each, before.get(name), (*path, name))
        return found


def _at(path: Steps) -> str:
    """Return the path as the API server writes it."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _transition(rule: str) -> Callable[[Any, Any], bool] | None:
    """Return whether a rule lets a value follow another, or None for a rule that is not evaluated."""
    if match := _SAME_FIELD.fullmatch(rule):
        return lambda value, before: bool(value.get(match[1]) == before.get(match[1]))
    return _TRANSITIONS.get(rule)
