"""The metadata of what hubs own, watched: what somebody deleted or changed is put back at once.

An object is compared with its earlier self by its ``mark``. Status is no part of it: changes of a StatefulSet's status
wake no hub.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from processhub.api.meta import GROUP, ObjectMeta, PartialObject
from processhub.api.naming import LABEL_HUB
from processhub.cluster.client import Client
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import Kind, metadata_of

OWNED_KINDS: dict[str, Kind[PartialObject]] = {
    "ServiceAccount": metadata_of("v1", "serviceaccounts"),
    "RoleBinding": metadata_of("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Service": metadata_of("v1", "services"),
    "PodDisruptionBudget": metadata_of("policy/v1", "poddisruptionbudgets"),
    "StatefulSet": metadata_of("apps/v1", "statefulsets"),
    "DaemonSet": metadata_of("apps/v1", "daemonsets"),
}
Mark = tuple[Any, ...]
ABSENT: Mark = ()


def mark_of(metadata: ObjectMeta) -> Mark:
    """What changes with all of an object but its status and annotations; where the kind has no generation, with all."""
    version = metadata.generation or metadata.resource_version
    return metadata.uid, version, metadata.labels, metadata.owner_references, metadata.deletion_timestamp


class OwnedWatch:
    """Follows the objects that bear a hub's label; ``wake((namespace, hub))`` is called for each change of a mark.

    Planning needs none of it: where the operator may not list a kind, only the prompt repair is missing.
    """

    def __init__(self, client: Client, namespaces: tuple[str, ...], wake: Callable[[tuple[str, str]], None]) -> None:
        self._wake = wake
        self._taking = False  # the answer to an apply of our own
        self._by_kind: dict[str, list[Informer[PartialObject]]] = {
            name: [
                Informer(client, kind, self._changed, namespace=namespace, labels=LABEL_HUB)
                for namespace in namespaces or (None,)
            ]
            for name, kind in OWNED_KINDS.items()
        }

    @property
    def informers(self) -> list[Informer[PartialObject]]:
        """All of them, to be run."""
        return [informer for informers in self._by_kind.values() for informer in informers]

    def look(self, kind: str, namespace: str, name: str) -> Mark | None:
        """The object's mark as it was seen last, ABSENT where there is none, None where nothing is known."""
        informer = self._informer(kind, namespace)
        if informer is None or not informer.synced.is_set():
            return None
        item = informer.items.get((namespace, name))
        return ABSENT if item is None else mark_of(item.metadata)

    def take(self, kind: str, item: PartialObject) -> None:
        """Take in what an apply of our own was answered: that wakes nobody."""
        if informer := self._informer(kind, item.metadata.namespace):
            self._taking = True
            try:
                informer.put(item)
            finally:
                self._taking = False

    def _informer(self, kind: str, namespace: str) -> Informer[PartialObject] | None:
        plural = OWNED_KINDS[kind].plural
        return next((informer for informer in self._by_kind[kind] if informer.covers(plural, namespace)), None)

    def _changed(self, old: PartialObject | None, new: PartialObject | None) -> None:
        if old is None or self._taking:
            return  # one that comes: made by us, or its deletion was seen before
        if new is not None and mark_of(old.metadata) == mark_of(new.metadata):
            return
        for hub in {_hub_of(item) for item in (old, new) if item is not None}:
            if hub is not None:
                self._wake(hub)


def _hub_of(item: PartialObject) -> tuple[str, str] | None:
    """Namespace and name of the Hub that owns the object, whatever its label says by now."""
    for owner in item.metadata.owner_references:
        if owner.kind == "Hub" and owner.api_version.startswith(f"{GROUP}/"):
            return item.metadata.namespace, owner.name
    return None
