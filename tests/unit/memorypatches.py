"""Patches of objects: merge patches, JSON patches, and server-side apply with its field owners."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from memoryschemas import schema_of

Json = dict[str, Any]
Path = tuple[Any, ...]  # names of fields, and the keys of a list's items
Owners = Mapping[tuple[str, str], frozenset[Path]]  # by manager and subresource
UPDATE = ("", "")  # the owner of everything that was not applied
# Lists of Kubernetes' own kinds whose items are merged by their keys, by the name of the field.
_KEYS = {
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("port", "containerPort", "protocol"),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_KEY_DEFAULTS = {"protocol": "TCP"}
_SETS = {"finalizers"}
_ATOMIC = {"selector", "labelSelector", "nodeSelector"}
_OWNED_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")


class PatchError(Exception):
    """A JSON patch that can't be applied: a test fails, or a path does not exist."""


def copied(value: Any) -> Any:
    """A copy of what JSON can say: ``copy.deepcopy`` would take ten times as long."""
    return msgspec.json.decode(msgspec.json.encode(value))


def merged(before: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def patch_json(item: Json, operations: Iterable[Json]) -> None:
    """Apply a JSON patch (RFC 6902) of ``test``, ``add``, ``replace`` and ``remove``. Raises PatchError."""
    for operation in operations:
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        try:
            place: Any = item
            for name in parents:
                place = place[int(name)] if isinstance(place, list) else place[name]
            _operate(place, last, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise PatchError(f"{operation['op']} of {operation['path']}: there is no such place") from error


def _operate(place: Any, last: str, operation: Json) -> None:
    name = int(last) if isinstance(place, list) and last != "-" else last
    match operation["op"]:
        case "test":
            if place[name] != operation["value"]:
                raise PatchError(f"testing value {operation['path']} failed")
        case "remove":
            del place[name]
        case "add" if isinstance(place, list):
            place.insert(len(place) if last == "-" else int(last), operation["value"])
        case "add":
            place[name] = operation["value"]
        case "replace":
            place[name]
            place[name] = operation["value"]
        case other:
            raise AssertionError(f"no part that is tested sends a JSON patch with {other}")


@dataclass(frozen=True, eq=False)
class Shape:
    """How a value is merged: by the schema of a custom resource, or by the name of a field of Kubernetes' own kinds."""

    keys: tuple[str, ...] = ()  # of the items of a list
    is_set: bool = False
    is_atomic: bool = False
    fields: Mapping[str, Shape] = field(default_factory=dict)
    other: Shape | None = None  # that of other fields; None: this one
    item: Shape | None = None  # that of an item of a list; None: this one

    def of(self, name: str) -> Shape:
        """The shape of a field."""
        return self.fields.get(name) or self.other or self

    def parts(self, value: Any) -> dict[Any, tuple[Any, Shape]] | None:
        """Return the parts with their own owners, by the last element of their paths; None: it is owned as a whole."""
        if isinstance(value, dict):
            return None if self.is_atomic else {name: (each, self.of(name)) for name, each in value.items()}
        if not isinstance(value, list):
            return None
        item = self.item or self
        if self.is_set:
            return {("=", each): (each, item) for each in value}
        return {_key_of(each, self.keys): (each, item) for each in value} if self.keys else None


_OWN_FIELDS: dict[str, Shape] = {}
_OWN = Shape(fields=_OWN_FIELDS)
_OWN_FIELDS |= {name: replace(_OWN, keys=keys, other=_OWN, item=_OWN) for name, keys in _KEYS.items()}
_OWN_FIELDS |= {name: replace(_OWN, is_set=True, other=_OWN, item=_OWN) for name in _SETS}
_OWN_FIELDS |= {name: replace(_OWN, is_atomic=True, other=_OWN, item=_OWN) for name in _ATOMIC}
_UNKNOWN = Shape()


@functools.cache
def shape_of(plural: str) -> Shape:
    """Return the shape of the objects of a kind."""
    schema = schema_of(plural)
    if schema is None:
        return _OWN
    shape = _shape(schema)
    return replace(shape, fields={**shape.fields, "metadata": _OWN})


def _shape(schema: Json) -> Shape:
    others = schema.get("additionalProperties")
    other = _shape(others) if isinstance(others, dict) else _UNKNOWN
    return Shape(
        keys=(*schema.get("x-kubernetes-list-map-keys", ()),),
        is_set=schema.get("x-kubernetes-list-type") == "set",
        is_atomic=schema.get("x-kubernetes-map-type") == "atomic",
        fields={name: _shape(inner) if inner else other for name, inner in schema.get("properties", {}).items()},
        other=other,
        item=_shape(schema["items"]) if "items" in schema else _UNKNOWN,
    )


def _key_of(item: Json, keys: tuple[str, ...]) -> Path:
    return ("k", *(item.get(key, _KEY_DEFAULTS.get(key)) for key in keys))


def _gather(value: Any, shape: Shape, at: Path, found: dict[Path, Any]) -> None:
    """Find everything that has an owner, by path. An item of a list has one beside its fields; its value is None."""
    if isinstance(value, dict):
        if not value or shape.is_atomic:
            found[at] = value
        fields, other = shape.fields, shape.other or shape
        for name, each in () if shape.is_atomic else value.items():
            if isinstance(each, dict | list):
                _gather(each, fields.get(name) or other, (*at, name), found)
            else:
                found[*at, name] = each
    elif isinstance(value, list) and (parts := shape.parts(value)):
        for name, (each, inner) in parts.items():
            if name[0] == "k":
                found[*at, name] = None
            _gather(each, inner, (*at, name), found)
    else:
        found[at] = value


def _owned(item: Json, shape: Shape) -> dict[Path, Any]:
    """Return the same for an object; only a part of its metadata has owners."""
    metadata = {name: item["metadata"][name] for name in _OWNED_METADATA if item["metadata"].get(name)}
    rest = {name: value for name, value in item.items() if name not in ("apiVersion", "kind", "metadata")}
    found: dict[Path, Any] = {}
    if rest or metadata:
        _gather(rest | ({"metadata": metadata} if metadata else {}), shape, (), found)
    return found


def updated(before: Json, after: Json, shape: Shape, owners: Owners) -> Owners:
    """Return the owners after a write that is no apply: the fields that it has changed belong to no applier."""
    old, new = _owned(before, shape), _owned(after, shape)
    changed = frozenset(path for path, value in new.items() if path not in old or old[path] != value)
    kept = {who: frozenset(path for path in paths if path in new) - changed for who, paths in owners.items()}
    return kept | {UPDATE: kept.get(UPDATE, frozenset()) | changed}


def applied(before: Json, body: Json, shape: Shape, owners: Owners | None, who: tuple[str, str]) -> tuple[Json, Owners]:
    """Return the object after a forced apply, its owners, and no fields that only its manager owned and left out."""
    old = _owned(before, shape)
    owners = owners if owners is not None else {UPDATE: frozenset(old)}
    metadata = {name: body["metadata"][name] for name in _OWNED_METADATA if name in body["metadata"]}
    body = {**body, "metadata": metadata}
    after: Json = _merged_by_keys(before, body, shape)
    given = _owned(body, shape)
    others = {each: paths for each, paths in owners.items() if each != who}
    if left := owners.get(who, frozenset()) - given.keys():
        needed = {
            path[:length] for paths in (given, *others.values()) for path in paths for length in range(len(path) + 1)
        }
        for path in sorted(left - needed, key=len):  # an item of a list before its fields
            _remove(after, path, shape)
    new = _owned(after, shape)
    taken = {path for path, value in given.items() if old.get(path) != value}
    kept = {each: frozenset(path for path in paths if path in new and path not in taken)
            for each, paths in others.items()}  # fmt: skip
    return after, {**kept, who: frozenset(given)}


def _merged_by_keys(before: Any, given: Any, shape: Shape) -> Any:
    if not isinstance(given, dict | list):
        return given
    parts, present = shape.parts(given), shape.parts(before)
    if parts is None or present is None or type(before) is not type(given):
        return copied(given)
    result = {name: value for name, (value, _) in present.items()}
    for name, (value, inner) in parts.items():
        result[name] = _merged_by_keys(result.get(name), value, inner)
    return result if isinstance(given, dict) else list(result.values())


def _remove(place: Any, path: Path, shape: Shape) -> bool:
    """Remove the value and the parents that it leaves empty; return whether this place is empty now."""
    found = (shape.parts(place) or {}).get(path[0])
    if found is None:
        return False
    if len(path) == 1 or _remove(found[0], path[1:], found[1]):
        if isinstance(place, dict):
            del place[path[0]]
        else:
            place.remove(found[0])
    return not place
