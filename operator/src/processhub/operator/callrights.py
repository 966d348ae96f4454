"""The one ClusterRoleBinding by which members may have tokens checked: it holds the account of every hub.

The chart makes it without subjects; only those of namespaces that this operator serves are its to add and to take away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from processhub.api.naming import member_account
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import untyped
from processhub.operator.hubstate import HubKey

BINDING = "processhub-agents"
_BINDINGS = untyped("rbac.authorization.k8s.io/v1", "clusterrolebindings", namespaced=False)
_TRIES = 5
_RECHECK_SECONDS = 300.0
log = logging.getLogger(__name__)
Subject = dict[str, Any]


class CallRights:
    """Keeps the binding equal to the hubs there are. ``namespaces``: those served, () for all."""

    def __init__(self, client: Client, namespaces: tuple[str, ...]) -> None:
        self._client, self._namespaces = client, namespaces
        self._kept: frozenset[HubKey] | None = None
        self._kept_at = 0.0
        self._keeping = asyncio.Lock()  # what one hub's round knew before must not win

    async def keep(self, hubs: Iterable[HubKey], now: float) -> None:
        """Have the accounts of exactly these hubs in it; looks again after some minutes. Raises ApiError.

        ``hubs`` is read when it is this call's turn: give what is kept up to date.
        """
        async with self._keeping:
            await self._keep(frozenset(hubs), now)

    async def _keep(self, wanted: frozenset[HubKey], now: float) -> None:
        if wanted == self._kept and now - self._kept_at < _RECHECK_SECONDS:
            return
        for _ in range(_TRIES):
            try:
                binding = await self._client.get(_BINDINGS, None, BINDING)
            except NotFoundError:
                log.error(
                    "clusterrolebinding %s is not there: members can't check tokens and refuse all requests; install"
                    " the chart anew",
                    BINDING,
                )
                break
            present: list[Subject] = binding.get("subjects") or []
            subjects = self._subjects(present, wanted)
            if subjects == present:
                break
            try:
                await self._client.replace(_BINDINGS, None, BINDING, {**binding, "subjects": subjects})
                break
            except ConflictError:
                continue  # another operator's namespaces
        else:
            return  # the next round tries again
        self._kept, self._kept_at = wanted, now

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
