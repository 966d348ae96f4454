"""What replicas and agents keep in memory of objects and children that are gone."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from .world import World

_NAME = re.compile(r"\b(?:[cd]\d|[st]-\d|uid-\d+|hub-(?:\d+|[0-9a-f]{16}))\b")
# What is bounded in another way, by its class and attribute.
_BOUNDED = {
    ("Buckets", "_buckets"): "full ones are dropped when there are many",
    ("EventRecorder", "_last"): "emptied when there are many",
    ("Settling", "confirmed"): "a member that comes back has still confirmed its slices; the name of one a member",
    ("Settling", "ended"): "the same",
    ("Activations", "_view"): "the latest view, which is of no use where requests start no children any more",
}
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)


def leftovers(world: World) -> Counter[str]:
    """Return where the living processes keep what is gone: the way to the container, and how many names it has."""
    found: Counter[str] = Counter()
    known = _known(world)
    for operator in world.operators:
        if operator.process.runs:
            found += _kept(operator.replica, "Replica", known)
    for pod in world.running_pods:
        if pod.container.process.runs:
            found += _kept(pod.container.agent, "Agent", known)
    return found


def _known(world: World) -> set[str]:
    """Return the names and uids of all objects, and the ids on record."""
    known: set[str] = set()
    for key, item in world.server.objects.items():
        known |= {key.name, item["metadata"]["uid"]}
        known.update(_NAME.findall(key.name))
        if key.plural == "registryslices":
            known |= item["spec"]["entries"].keys()
        if key.plural == "childsets":
            known |= {f"{key.name}-{number}" for number in range(item["spec"]["replicas"])}
    return known


def _kept(root: object, name: str, known: set[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    seen, waiting = {id(root)}, [(root, name)]
    while waiting:
        value, way = waiting.pop()
        if isinstance(value, _CONTAINERS):
            keys = [key for key in value if isinstance(key, str | tuple)]
            found[way] += sum(any(token not in known for token in _names(key)) for key in keys)
        for step, inner in _parts(value):
            if id(inner) not in seen:
                seen.add(id(inner))
                waiting.append((inner, f"{way}{step}"))
    return +found


def _names(key: object) -> Iterator[str]:
    """Yield what may be an id of a child, or the uid of an object."""
    if isinstance(key, str):
        yield from _NAME.findall(key)
    elif isinstance(key, tuple):
        for each in key:
            yield from _names(each)


def _parts(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from (("{}", each) for each in value.values())
    elif isinstance(value, _CONTAINERS):
        yield from (("[]", each) for each in value)
    module = type(value).__module__
    if hasattr(value, "__self__") and not isinstance(value, type):
        yield "()", value.__self__
    if not module.startswith("processhub."):
        return
    for name in _fields(value):
        if hasattr(value, name) and (type(value).__name__, name) not in _BOUNDED:
            yield f".{name}", getattr(value, name)


def _fields(value: object) -> set[str]:
    """Return the names of all attributes of an object."""
    slots = [getattr(each, "__slots__", ()) for each in type(value).__mro__]
    names = {name for each in slots for name in ((each,) if isinstance(each, str) else each)}
    structs = value.__struct_fields__ if isinstance(value, msgspec.Struct) else ()
    return {*names, *structs, *getattr(value, "__dict__", {})}
