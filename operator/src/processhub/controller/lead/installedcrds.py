"""The CRDs that are installed in the cluster: whether they have all fields that this operator reads and writes.

The API server drops what a CRD does not have, and says nothing. An operator may be newer than the CRDs: Helm does not
upgrade those of a folder ``crds``, and the chart may be installed without them (``crds.enabled``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from processhub.api.child import ChildSpec, ChildStatus
from processhub.api.childset import ChildSetSpec, ChildSetStatus
from processhub.api.hub import HubSpec, HubStatus
from processhub.api.meta import GROUP, VERSION, PartialObject
from processhub.api.slice import SliceSpec, SliceStatus
from processhub.cluster.client import Client
from processhub.cluster.errors import NotFoundError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import metadata_of, untyped
from processhub.cluster.workqueue import WorkQueue
from processhub.core.listing import listed

_CRDS = untyped("apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False)
_METADATA = metadata_of(_CRDS.api_version, _CRDS.plural, namespaced=False)
_NEEDED: dict[str, dict[str, type[msgspec.Struct]]] = {
    f"hubs.{GROUP}": {"spec": HubSpec, "status": HubStatus},
    f"children.{GROUP}": {"spec": ChildSpec, "status": ChildStatus},
    f"childsets.{GROUP}": {"spec": ChildSetSpec, "status": ChildSetStatus},
    f"registryslices.{GROUP}": {"spec": SliceSpec, "status": SliceStatus},
}
# A static child has its hub from the Hub around it, and the template of a ChildSet its ids from the set.
_FROM_ELSEWHERE = {"spec.children[]": ("hub",), "spec.template": ("hub", "id")}
_NAMED = 5  # Fields in a message.
log = logging.getLogger(__name__)


class InstalledCRDs:
    """Watches the CRDs. ``outdated`` is a sentence about those that lack fields, "" if none does.

    ``on_change()`` is called when it changes.
    """

    def __init__(self, client: Client, on_change: Callable[[], None]) -> None:
        self._client, self._on_change = client, on_change
        self._lacking: dict[str, str] = {}
        self.outdated = ""
        self._queue: WorkQueue[str] = WorkQueue(self._look)
        self._informer: Informer[PartialObject] = Informer(client, _METADATA, self._seen)

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._informer.run()

    async def close(self) -> None:
        """Look at nothing more."""
        await self._queue.close()

    def _seen(self, old: PartialObject | None, new: PartialObject | None) -> None:
        item = new or old
        if item is not None and item.metadata.name in _NEEDED:
            self._queue.add(item.metadata.name)

    async def _look(self, name: str) -> None:
        try:
            crd = await self._client.get(_CRDS, None, name)
        except NotFoundError:
            crd = {}  # Prerequisites says so.
        if fields := lacking(name, crd):
            self._lacking[name] = f"the CRD {name} in this cluster lacks {listed(fields, _NAMED)}"
        else:
            self._lacking.pop(name, None)
        outdated = "; ".join(sentence for _, sentence in sorted(self._lacking.items()))
        if outdated:
            outdated += "; the API server drops these fields; apply the CRDs of this operator's version"
        if outdated == self.outdated:
            return
        self.outdated = outdated
        if outdated:
            log.warning("%s", outdated)
        else:
            log.info("the CRDs in this cluster have all fields that this operator needs")
        self._on_change()


def lacking(name: str, crd: dict[str, Any]) -> list[str]:
    """The paths of the fields that this operator needs of a CRD and that it does not have."""
    versions = crd.get("spec", {}).get("versions", [])
    schema = next((each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == VERSION), None)
    if schema is None:
        return []
    properties: dict[str, Any] = schema.get("properties", {})
    return [
        path
        for part, struct in _NEEDED[name].items()
        for path in _lacking(inspect.type_info(struct), properties.get(part, {}), part)
    ]


def _lacking(kind: inspect.Type, schema: dict[str, Any], path: str) -> Iterator[str]:
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _lacking(each, schema, path)
    elif isinstance(kind, inspect.VarTupleType):
        yield from _lacking(kind.item_type, schema.get("items", {}), f"{path}[]")
    elif isinstance(kind, inspect.StructType) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        properties: dict[str, Any] = schema.get("properties", {})
        for field in kind.fields:
            name, where = field.encode_name, f"{path}.{field.encode_name}"
            if name in properties:
                yield from _lacking(field.type, properties[name], where)
            elif name not in _FROM_ELSEWHERE.get(path, ()):
                yield where
