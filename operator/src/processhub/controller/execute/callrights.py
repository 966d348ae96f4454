"""The ClusterRoleBinding that lets members check tokens. It has the service accounts of all hubs as subjects.

The chart creates it without subjects. The operator adds and removes only those in the namespaces that it serves. The
binding is watched and kept beside the rounds of the hubs. No round waits for it, and a subject that somebody removes is
put back without any event of a hub.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from processhub.api.meta import PartialObject
from processhub.api.naming import member_account
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import metadata_of, untyped
from processhub.cluster.tokenbucket import TokenBucket
from processhub.cluster.workqueue import WorkQueue
from processhub.controller.store.hubstate import HubKey

BINDING = "processhub-agents"
_BINDINGS = untyped("rbac.authorization.k8s.io/v1", "clusterrolebindings", namespaced=False)
_METADATA = metadata_of(_BINDINGS.api_version, _BINDINGS.plural, namespaced=False)
_TRIES = 5
_AGAIN_SECONDS = 0.5  # After so many conflicts.
_RECHECK_SECONDS = 300.0
# How often it is checked after changes by others: at once, and a second.
_LOOKS, _LOOKS_PER_SECOND = 10.0, 0.1
log = logging.getLogger(__name__)
Subject = dict[str, Any]


class CallRights:
    """Keeps the subjects of the binding equal to the existing hubs. ``namespaces``: those served, () for all.

    ``hubs`` must be a live view of the hubs: it is read at each comparison.
    """

    def __init__(self, client: Client, namespaces: tuple[str, ...], hubs: Collection[HubKey]) -> None:
        self._client, self._namespaces, self._hubs = client, namespaces, hubs
        self._kept: frozenset[HubKey] | None = None
        self._kept_at = 0.0
        self._version = ""  # The resourceVersion that this operator knows.
        self._changed = False  # Whether another writer changed it since it was checked.
        self._looks = TokenBucket(_LOOKS_PER_SECOND, _LOOKS)
        self._queue = WorkQueue(self._work)  # One run at a time: an older view of the hubs must not win.
        self._informer: Informer[PartialObject] = Informer(
            client, _METADATA, self._seen, fields=f"metadata.name={BINDING}"
        )

    async def run(self) -> None:
        """Watch the binding until cancelled, and keep it."""
        self.look()
        await self._informer.run()

    async def close(self) -> None:
        """Write nothing more."""
        await self._queue.close()

    def look(self) -> None:
        """Queue a comparison of the binding with the hubs."""
        self._queue.add(BINDING)

    def _seen(self, old: PartialObject | None, new: PartialObject | None) -> None:
        if new is None or new.metadata.resource_version != self._version:
            self._changed = True
            self.look()

    async def _work(self, _: str) -> float | None:
        """Bring the binding up to date; returns the seconds until it is to be checked again."""
        now = asyncio.get_running_loop().time()
        wanted = frozenset(self._hubs)
        if wanted == self._kept and now < self._kept_at + _RECHECK_SECONDS:
            if not self._changed:
                return self._kept_at + _RECHECK_SECONDS - now
            if not self._looks.take(now):
                return self._looks.wait(now)
        self._changed = False
        try:
            kept = await self._keep(wanted)
        except BaseException:
            self._changed = True
            raise
        if not kept:
            self._changed = True
            return _AGAIN_SECONDS
        self._kept, self._kept_at = wanted, now
        return _RECHECK_SECONDS

    async def _keep(self, wanted: frozenset[HubKey]) -> bool:
        """Write the accounts of these hubs; returns whether it is done. A missing one is logged. Raises ApiError."""
        for _ in range(_TRIES):
            try:
                binding = await self._client.get(_BINDINGS, None, BINDING)
            except NotFoundError:
                log.error(
                    "clusterrolebinding %s is not there: members can't check tokens and refuse all requests; install"
                    " the chart anew",
                    BINDING,
                )
                return True
            self._version = binding["metadata"]["resourceVersion"]
            present: list[Subject] = binding.get("subjects") or []
            subjects = self._subjects(present, wanted)
            if subjects == present:
                return True
            try:
                stored = await self._client.replace(_BINDINGS, None, BINDING, {**binding, "subjects": subjects})
            except ConflictError:
                continue  # Another operator wrote subjects of its namespaces.
            self._version = stored["metadata"]["resourceVersion"]
            return True
        return False

    def _subjects(self, present: list[Subject], wanted: frozenset[HubKey]) -> list[Subject]:
        ours = {(namespace, member_account(hub)) for namespace, hub in wanted}
        kept = [
            subject
            for subject in present
            if (subject.get("namespace", ""), subject.get("name", "")) in ours or not self._serves(subject)
        ]
        there = {(subject.get("namespace", ""), subject.get("name", "")) for subject in kept}
        added = [
            {"kind": "ServiceAccount", "name": name, "namespace": namespace} for namespace, name in sorted(ours - there)
        ]
        return [*kept, *added]

    def _serves(self, subject: Subject) -> bool:
        return not self._namespaces or subject.get("namespace") in self._namespaces
