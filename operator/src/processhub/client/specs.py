"""Makes specs from what a caller passes, with the checks that need no cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from processhub.api.child import ChildSpec
from processhub.api.hub import Hub
from processhub.api.nulls import without_nulls
from processhub.api.reasons import Reason
from processhub.api.wording import unknown_field, wrong
from processhub.client.errors import (
    ChildError,
    ChildMappingMismatch,
    InvalidChild,
    MissingChildMapping,
    NoChildren,
    names,
)
from processhub.core.listing import counted

ChildLike = Mapping[str, Any] | ChildSpec

_ID_BYTES = 253
_WORKLOADS = ("exec", "python", "pod")
_FIELDS = {field.encode_name for field in msgspec.structs.fields(ChildSpec)}
_SNAKE = {field.name: field.encode_name for field in msgspec.structs.fields(ChildSpec)}


def prepare(
    children: Iterable[ChildLike],
    hub: Hub,
    *,
    child_mapping: Mapping[str, Sequence[str]] | None = None,
    metadata: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
) -> tuple[dict[str, ChildSpec], dict[str, ChildError]]:
    """The pair ``(specs by id, errors by id)``. ``metadata`` and ``tags`` apply to each child; its own metadata wins.

    Raises NoChildren, InvalidChild, ChildMappingMismatch, MissingChildMapping.
    """
    _refuse_text(tags, "tags")
    mapping = dict(child_mapping or {})
    for child_id, nodes in mapping.items():
        _refuse_text(nodes, f"child_mapping[{child_id!r}]")
    origin = _own_member(hub)
    specs: dict[str, ChildSpec] = {}
    for index, given in enumerate(children):
        spec = parse_child(given, f"children[{index}]")
        if spec.id in specs:
            raise InvalidChild(f"children[{index}]: id {spec.id!r} appears twice; name each id once in a call")
        if spec.hub not in ("", hub.metadata.name):
            raise InvalidChild(
                f"children[{index}].hub is {spec.hub!r}, but the call goes to hub {hub.metadata.name!r}; leave it out"
            )
        specs[spec.id] = msgspec.structs.replace(
            spec,
            hub=hub.metadata.name,
            nodes=tuple(mapping.get(spec.id, spec.nodes)),
            origin=spec.origin or origin,
            tags=tuple(dict.fromkeys((*tags, *spec.tags))),
            metadata={**(metadata or {}), **spec.metadata},
        )
    if not specs:
        raise NoChildren("no children given; name at least one")
    if strangers := tuple(sorted(mapping.keys() - specs.keys())):
        raise ChildMappingMismatch(
            f"child_mapping names ids that are not started: {names(strangers)}; start them too, or leave them out",
            strangers,
        )
    return check_mapping(specs, hub)


def parse_child(given: ChildLike, where: str) -> ChildSpec:
    """The spec of a mapping written as in a manifest; a ChildSpec is returned unchanged.

    ``where`` names the child in messages. Raises InvalidChild.
    """
    if isinstance(given, ChildSpec):
        spec = given
    elif isinstance(given, Mapping):
        for field in given:
            if field not in _FIELDS:
                hint = f"write {_SNAKE[field]}" if field in _SNAKE else f"known are {', '.join(sorted(_FIELDS))}"
                raise InvalidChild(f"{where}: unknown field {field!r}; {hint}")
        try:
            spec = msgspec.convert(without_nulls(given, ChildSpec), ChildSpec)
        except msgspec.ValidationError as error:
            raise InvalidChild(f"{where}: {wrong(error, given, ChildSpec)}") from error
        if unknown := unknown_field(given, ChildSpec):
            raise InvalidChild(f"{where}: {unknown}")
    else:
        raise InvalidChild(f'{where}: expected a mapping such as {{"id": "a", "exec": {{…}}}}, got {given!r}')
    check_id(spec.id, f"{where}.id")
    chosen = [name for name in _WORKLOADS if getattr(spec, name)]
    if len(chosen) != 1:
        found = f"has {' and '.join(chosen)}" if chosen else "has none"
        raise InvalidChild(f"{where} ({spec.id!r}): exactly one of {', '.join(_WORKLOADS)} is needed; it {found}")
    return spec


def check_id(child_id: object, where: str) -> None:
    """Check that this can be a child's id. Raises InvalidChild."""
    if not isinstance(child_id, str) or not child_id:
        raise InvalidChild(f"{where}: an id is needed: any text of 1 to {_ID_BYTES} bytes")
    try:
        size = len(child_id.encode())
    except UnicodeEncodeError:
        raise InvalidChild(f"{where}: {child_id!r} is not valid UTF-8; write it in UTF-8") from None
    if size > _ID_BYTES:
        raise InvalidChild(f"{where}: {size} bytes of UTF-8 are too many; shorten it to {_ID_BYTES}")
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in child_id):
        raise InvalidChild(f"{where}: {child_id!r} contains control characters; write printable text")


def checked_ids(ids: Iterable[str]) -> tuple[str, ...]:
    """The ids without repetitions. Raises NoChildren, InvalidChild."""
    _refuse_text(ids, "ids")
    wanted = tuple(dict.fromkeys(ids))
    for index, child_id in enumerate(wanted):
        check_id(child_id, f"ids[{index}]")
    if not wanted:
        raise NoChildren("no children given; name at least one")
    return wanted


def replication_factor(hub: Hub) -> int:
    """How many copies a child of this hub has, and so how many nodes its mapping must name."""
    redundancy = hub.spec.redundancy
    if redundancy.strategy == "Singularity":
        return 1
    if redundancy.replication_factor == "ClusterSize":
        return max(1, len(hub.status.members))
    return redundancy.replication_factor


def check_mapping(specs: Mapping[str, ChildSpec], hub: Hub) -> tuple[dict[str, ChildSpec], dict[str, ChildError]]:
    """Check the mappings against the hub's strategy; returns ``(valid specs, errors by id)``.

    Raises MissingChildMapping.
    """
    strategy, factor = hub.spec.distribution.strategy, replication_factor(hub)
    if strategy == "Guided" and (missing := tuple(child_id for child_id, spec in specs.items() if not spec.nodes)):
        raise MissingChildMapping(
            f"hub {hub.metadata.name} is Guided, and these children have no nodes: {names(missing)}; "
            f"name {counted(factor, 'member', 'members')} for each, in child_mapping or nodes",
            missing,
        )
    good: dict[str, ChildSpec] = {}
    errors: dict[str, ChildError] = {}
    for child_id, spec in specs.items():
        if spec.nodes and strategy != "Guided":
            errors[child_id] = ChildError(
                Reason.INVALID_CHILD_MAPPING,
                f"nodes are given, but hub {hub.metadata.name} places by {strategy}; leave them out or use Guided",
            )
        elif spec.nodes and len(spec.nodes) != factor:
            errors[child_id] = ChildError(
                Reason.CHILD_REPLICATION_MISMATCH,
                f"{counted(len(spec.nodes), 'node is', 'nodes are')} given, but hub {hub.metadata.name} keeps "
                f"{counted(factor, 'copy', 'copies')}; name {factor}",
            )
        else:
            good[child_id] = spec
    return good, errors


def _refuse_text(value: object, where: str) -> None:
    """Refuse a text where a list is expected. It can be iterated, so its letters would be taken for the items."""
    if isinstance(value, str):
        raise InvalidChild(f"{where} is the text {value!r}; write a list, [{value!r}]")


def _own_member(hub: Hub) -> str:
    """The member of this hub in which this process runs, or ""."""
    name, namespace = hub.metadata.name, hub.metadata.namespace
    here = os.environ.get("HUB_NAME", name) == name and os.environ.get("HUB_NAMESPACE", namespace) == namespace
    return os.environ.get("HUB_MEMBER", "") if here else ""
