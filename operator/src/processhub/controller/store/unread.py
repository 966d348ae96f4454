"""Children and ChildSets that can't be read: what is known of them, so that nothing stops that they run.

Their API server has a schema of another version, or accepts what is nested more deeply than a program can read. Such an
edit is treated like any other that is rejected: what runs by the last good one runs on, also under a leader that has
never read that, and the object says why.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from processhub.api.child import Child, ChildSpec, ChildStatus, PodWorkload
from processhub.api.childset import ChildSet, ChildSetSpec, ChildSetStatus
from processhub.api.hub import Hub, HubStatus
from processhub.cluster import deepjson
from processhub.cluster.decoding import Undecodable

T = TypeVar("T")
Read = TypeVar("Read", Hub, Child, ChildSet)
Key = tuple[str, str]


class _Workload(msgspec.Struct):
    pod: msgspec.Raw | None = None
    suspend: object = False

    @property
    def suspended(self) -> bool:
        """Whether the child may be suspended: what is no boolean says neither, and resumes nothing."""
        return self.suspend not in (False, None)

    @property
    def empty(self) -> PodWorkload | None:
        """A Pod with nothing in it, if the child is one: the planner treats those differently."""
        return None if self.pod is None or bytes(self.pod) == b"null" else PodWorkload()


class _ChildSpec(_Workload):
    hub: str = ""
    id: str = ""


class _SetSpec(msgspec.Struct):
    hub: str = ""
    template: _Workload = msgspec.field(default_factory=_Workload)


class _WithChildSpec(msgspec.Struct):
    spec: _ChildSpec


class _WithSetSpec(msgspec.Struct):
    spec: _SetSpec


class _WithStatus(msgspec.Struct, Generic[T]):
    status: T | None = None


def hub_with(known: Hub, item: Undecodable) -> Hub:
    """The Hub as it was read last, with the metadata and the status of a version that can't be read."""
    return _present(known, item, _WithStatus[HubStatus])


class UnreadObjects:
    """The objects whose latest version can't be read, with their present metadata. By namespace and name.

    ``children``, ``sets``: with the spec that was read last, or else with what can be read of the present one.
    """

    def __init__(self) -> None:
        self.children: dict[Key, Child] = {}
        self.sets: dict[Key, ChildSet] = {}

    def child(self, item: Undecodable, known: Child | None) -> Child | None:
        """File a Child; returns it, or None if its hub can't be read. ``known``: as it was read last."""
        if known is None:
            part = _read(item, _WithChildSpec)
            if part is None or not part.spec.hub:
                return None
            spec = ChildSpec(hub=part.spec.hub, id=part.spec.id, pod=part.spec.empty, suspend=part.spec.suspended)
            known = Child(metadata=item.metadata, spec=spec)
        child = self.children[item.metadata.key] = _present(known, item, _WithStatus[ChildStatus])
        return child

    def set(self, item: Undecodable, known: ChildSet | None) -> ChildSet | None:
        """File a ChildSet; returns it, or None if its hub can't be read. ``known``: as it was read last."""
        if known is None:
            part = _read(item, _WithSetSpec)
            if part is None or not part.spec.hub:
                return None
            read = part.spec.template
            spec = ChildSetSpec(hub=part.spec.hub, template=ChildSpec(pod=read.empty, suspend=read.suspended))
            known = ChildSet(metadata=item.metadata, spec=spec)
        found = self.sets[item.metadata.key] = _present(known, item, _WithStatus[ChildSetStatus])
        return found


def _present(known: Read, item: Undecodable, kind: type[_WithStatus[T]]) -> Read:
    """The object as it is known, with its present metadata, and with its present status if that can be read."""
    part = _read(item, kind)
    status = part.status if part is not None else None
    return msgspec.structs.replace(known, metadata=item.metadata, status=status or known.status)


def _read(item: Undecodable, kind: type[T]) -> T | None:
    try:
        return deepjson.decode(item.body, kind)[0]
    except msgspec.MsgspecError:
        return None
