"""The ClusterRoleBinding that lets members check tokens. It has the service accounts of all hubs as subjects.

The chart creates it without subjects. The operator adds and removes only those in the namespaces that it serves. The
binding is watched and kept beside the rounds of the hubs. No round waits for it. A subject that somebody removes is put
back without any event of a hub, and a binding that somebody deletes is made again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from processhub.api.meta import PartialObject
from processhub.api.naming import member_account
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import metadata_of, untyped
from processhub.cluster.tokenbucket import TokenBucket
from processhub.cluster.workqueue import WorkQueue
from processhub.controller.objects.access import accounts
from processhub.controller.store.informers import Store

BINDING = "processhub-agents"
_GROUP = "rbac.authorization.k8s.io"
_BINDINGS = untyped(f"{_GROUP}/v1", "clusterrolebindings", namespaced=False)
_ROLES = untyped(f"{_GROUP}/v1", "clusterroles", namespaced=False)
_METADATA = metadata_of(_BINDINGS.api_version, _BINDINGS.plural, namespaced=False)
_TRIES = 5
_AGAIN_SECONDS = 0.5  # After so many conflicts.
_NO_ROLE_SECONDS = 10.0  # Until the next look while neither the binding nor its ClusterRole is there.
_RECHECK_SECONDS = 300.0
# What makes an object a part of the release, and no upgrade changes.
_LABELS = tuple(f"app.kubernetes.io/{name}" for name in ("name", "component", "instance", "managed-by"))
_ANNOTATIONS = ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace", "helm.sh/resource-policy")
# How often it is checked after changes by others: at once, and a second.
_LOOKS, _LOOKS_PER_SECOND = 10.0, 0.1
log = logging.getLogger(__name__)
Subject = dict[str, Any]
Account = tuple[str, str]  # Namespace and name.


class CallRights:
    """Keeps the subjects of the binding equal to the accounts of the existing hubs. ``namespaces``: () for all.

    ``wanted()`` returns these accounts. ``used()`` returns those that members' pods use: a subject that is there stays
    as long as some pod uses it, because its hub may be rolled to another account.
    """

    def __init__(
        self,
        client: Client,
        namespaces: tuple[str, ...],
        wanted: Callable[[], frozenset[Account]],
        used: Callable[[], frozenset[Account]] = frozenset,
    ) -> None:
        self._client, self._namespaces, self._wanted, self._used = client, namespaces, wanted, used
        self._kept: frozenset[Account] | None = None
        self._due = 0.0  # When it is to be checked again, though nothing has changed.
        self._version = ""  # The resourceVersion that this operator knows.
        self._absent = False  # Whether it was reported that binding and ClusterRole are not there.
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
        wanted = self._wanted()
        if wanted == self._kept and now < self._due:
            if not self._changed:
                return self._due - now
            if not self._looks.take(now):
                return self._looks.wait(now)
        self._changed = False
        try:
            again = await self._keep(wanted)
        except BaseException:
            self._changed = True
            raise
        self._kept, self._due = wanted, now + again
        return again

    async def _keep(self, wanted: frozenset[Account]) -> float:
        """Write these accounts; returns the seconds until the binding is to be checked again. Raises ApiError."""
        for _ in range(_TRIES):
            try:
                binding = await self._client.get(_BINDINGS, None, BINDING)
            except NotFoundError:
                if not await self._make():
                    return _NO_ROLE_SECONDS
                continue
            self._absent = False
            self._version = binding["metadata"]["resourceVersion"]
            present: list[Subject] = binding.get("subjects") or []
            subjects = self._subjects(present, wanted)
            if subjects == present:
                return _RECHECK_SECONDS
            try:
                stored = await self._client.replace(_BINDINGS, None, BINDING, {**binding, "subjects": subjects})
            except ConflictError:
                continue  # Another operator wrote subjects of its namespaces.
            self._version = stored["metadata"]["resourceVersion"]
            return _RECHECK_SECONDS
        return _AGAIN_SECONDS

    async def _make(self) -> bool:
        """Make the binding that is gone; returns whether that is done. Raises ApiError.

        It is owned by its ClusterRole, and not made while that goes: nothing must be left of a chart that is
        uninstalled. It is applied, because a right to create can be one for a single name only for an apply.
        """
        try:
            role = await self._client.get(_ROLES, None, BINDING)
        except NotFoundError:
            role = None
        if role is None or role["metadata"].get("deletionTimestamp"):
            if not self._absent:
                log.error(
                    "clusterrolebinding and clusterrole %s are not there: members can't check tokens and refuse all"
                    " requests; install the chart anew",
                    BINDING,
                )
            self._absent = True
            return False
        await self._client.apply(_BINDINGS, None, BINDING, _binding_of(role["metadata"]))
        log.warning("clusterrolebinding %s was deleted, and is made again", BINDING)
        return True

    def _subjects(self, present: list[Subject], ours: frozenset[Account]) -> list[Subject]:
        staying = ours | self._used()
        kept = [
            subject
            for subject in present
            if (subject.get("namespace", ""), subject.get("name", "")) in staying or not self._serves(subject)
        ]
        there = {(subject.get("namespace", ""), subject.get("name", "")) for subject in kept}
        added = [
            {"kind": "ServiceAccount", "name": name, "namespace": namespace} for namespace, name in sorted(ours - there)
        ]
        return [*kept, *added]

    def _serves(self, subject: Subject) -> bool:
        return not self._namespaces or subject.get("namespace") in self._namespaces


def _binding_of(role: dict[str, Any]) -> dict[str, Any]:
    """The binding of the ClusterRole with this metadata, without subjects, as a part of the same release."""
    labels, annotations = role.get("labels") or {}, role.get("annotations") or {}
    owner = {"apiVersion": f"{_GROUP}/v1", "kind": "ClusterRole", "name": BINDING, "uid": role["uid"]}
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {
            "name": BINDING,
            "labels": {name: labels[name] for name in _LABELS if name in labels},
            "annotations": {name: annotations[name] for name in _ANNOTATIONS if name in annotations},
            "ownerReferences": [owner],
        },
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": BINDING},
    }


def wanted_accounts(store: Store) -> frozenset[Account]:
    """The accounts that the members of all hubs are to have."""
    own = {(namespace, member_account(hub)) for namespace, hub in store.hub_keys()}
    named = {(key[0], name) for key, hub in store.hubs.items() for name in accounts(hub)}
    return frozenset(own | named)


def used_accounts(store: Store) -> frozenset[Account]:
    """The accounts that the members' pods of all hubs use."""
    pods = (pod for state in store.states.values() for pod in state.pods.values())
    return frozenset((pod.metadata.namespace, pod.spec.service_account_name) for pod in pods)
