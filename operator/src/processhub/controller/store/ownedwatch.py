"""The watch of the objects that hubs own. An object that somebody deletes or changes is put back at once.

Two versions of an object are compared by their ``mark``. Status is not part of it, so that changes of a StatefulSet's
status wake no hub.
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
    "NetworkPolicy": metadata_of("networking.k8s.io/v1", "networkpolicies"),
    "ConfigMap": metadata_of("v1", "configmaps"),
    "StatefulSet": metadata_of("apps/v1", "statefulsets"),
    "DaemonSet": metadata_of("apps/v1", "daemonsets"),
}
_WITH_TLS = ("ConfigMap",)  # Kinds that hubs own only where the chart's tls.enabled gives the right to them.
Mark = tuple[Any, ...]
ABSENT: Mark = ()


def mark_of(metadata: ObjectMeta) -> Mark:
    """A value that changes with the object, except for status and annotations. Without a generation it always does."""
    version = metadata.generation or metadata.resource_version
    return metadata.uid, version, metadata.labels, metadata.owner_references, metadata.deletion_timestamp


class OwnedWatch:
    """Watches the objects with a hub's label. ``wake((namespace, hub))`` is called for each change of a mark.

    Planning does not need it. If the operator may not list a kind, its objects are only put back later.
    """

    def __init__(
        self, client: Client, namespaces: tuple[str, ...], wake: Callable[[tuple[str, str]], None], *, tls: bool = False
    ) -> None:
        self._wake = wake
        self._taking = False  # The answer to an apply of this operator.
        self._by_kind: dict[str, list[Informer[PartialObject]]] = {
            name: [
                Informer(client, kind, self._changed, namespace=namespace, labels=LABEL_HUB)
                for namespace in namespaces or (None,)
            ]
            for name, kind in OWNED_KINDS.items()
            if tls or name not in _WITH_TLS
        }

    @property
    def informers(self) -> list[Informer[PartialObject]]:
        """All informers of the watch, to be run."""
        return [informer for informers in self._by_kind.values() for informer in informers]

    def look(self, kind: str, namespace: str, name: str) -> Mark | None:
        """The latest mark of an object, ABSENT if it does not exist, or None if nothing is known."""
        informer = self._informer(kind, namespace)
        if informer is None or not informer.synced.is_set():
            return None
        item = informer.items.get((namespace, name))
        return ABSENT if item is None else mark_of(item.metadata)

    def uid(self, kind: str, namespace: str, name: str) -> str:
        """The uid of an object, "" if it is not known to exist."""
        metadata = self._metadata(kind, namespace, name)
        return metadata.uid if metadata is not None else ""

    def uid_of_owned(self, kind: str, namespace: str, name: str, owner: str) -> str:
        """The uid of an existing object that the ``owner`` with this uid owns; empty if there is none."""
        metadata = self._metadata(kind, namespace, name)
        if metadata is None or metadata.deletion_timestamp is not None or not metadata.owned_by(owner):
            return ""
        return metadata.uid

    def take(self, kind: str, item: PartialObject) -> None:
        """Take the answer to an apply of this operator, which wakes no hub."""
        if informer := self._informer(kind, item.metadata.namespace):
            self._taking = True
            try:
                informer.put(item)
            finally:
                self._taking = False

    def _metadata(self, kind: str, namespace: str, name: str) -> ObjectMeta | None:
        informer = self._informer(kind, namespace)
        item = informer.items.get((namespace, name)) if informer is not None else None
        return item.metadata if item is not None else None

    def _informer(self, kind: str, namespace: str) -> Informer[PartialObject] | None:
        plural = OWNED_KINDS[kind].plural
        return next((informer for informer in self._by_kind.get(kind, ()) if informer.covers(plural, namespace)), None)

    def _changed(self, old: PartialObject | None, new: PartialObject | None) -> None:
        if old is None or self._taking:
            return  # A new object: this operator created it, or its deletion was seen before.
        if new is not None and mark_of(old.metadata) == mark_of(new.metadata):
            return
        for hub in {_hub_of(item) for item in (old, new) if item is not None}:
            if hub is not None:
                self._wake(hub)


def _hub_of(item: PartialObject) -> tuple[str, str] | None:
    """Namespace and name of the Hub that owns the object, even if its label has changed."""
    for owner in item.metadata.owner_references:
        if owner.kind == "Hub" and owner.api_version.startswith(f"{GROUP}/"):
            return item.metadata.namespace, owner.name
    return None
