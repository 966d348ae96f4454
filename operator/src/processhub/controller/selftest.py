"""The check that ``helm test`` runs in a pod: an operator leads, and the CRDs are served.

It runs as ``python3 -m processhub.controller.selftest``. It asks the API server alone, with the pod's own account, so
it works where Service addresses do not. It proves more than an open port, because only an operator that works renews
the leader's Lease.
"""

from __future__ import annotations

import asyncio
import os
import sys

from processhub.api.kubernetes import Lease
from processhub.api.meta import GROUP
from processhub.cluster.client import Client
from processhub.cluster.config import ConfigError
from processhub.cluster.errors import ApiError, NotFoundError
from processhub.cluster.kinds import LEASES, untyped
from processhub.controller.lead.election import LEASE_NAME
from processhub.controller.lead.prerequisites import PLURALS

TIMEOUT_SECONDS = 60.0  # an operator that was just installed must start and take the Lease first
_INTERVAL_SECONDS = 1.0
_CRDS = untyped("apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False)


class NotReadyError(Exception):
    """Something is missing. The message is a sentence that names it."""


def leader_of(lease: Lease, before: Lease | None) -> str:
    """The Lease's live holder: one that has renewed the Lease since ``before``, when it was seen last.

    The clock that wrote the Lease need not agree with this one. Raises NotReadyError if the Lease has no holder, or was
    not renewed.
    """
    holder, renewed = lease.spec.holder_identity, lease.spec.renew_time
    if not holder or not renewed:
        raise NotReadyError(f"no operator holds the Lease {lease.metadata.namespace}/{lease.metadata.name}")
    if before is None or (before.spec.holder_identity, before.spec.renew_time) == (holder, renewed):
        raise NotReadyError(f"{holder} does not renew the leader's Lease; it did last at {renewed}")
    return holder


class Check:
    """The check of one namespace, which is repeated until it succeeds."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._namespace = client, namespace
        self._before: Lease | None = None

    async def look(self) -> str:
        """Check once; returns a sentence. Raises NotReadyError, or ApiError if the API server rejects a request."""
        for plural in PLURALS:
            try:
                crd = await self._client.get(_CRDS, None, f"{plural}.{GROUP}")
            except NotFoundError as error:
                raise NotReadyError(f"the CRD {plural}.{GROUP} is not installed") from error
            conditions = crd.get("status", {}).get("conditions", [])
            if not any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions):
                raise NotReadyError(f"the CRD {plural}.{GROUP} is not served yet")
        try:
            lease = await self._client.get(LEASES, self._namespace, LEASE_NAME)
        except NotFoundError as error:
            where = f"{self._namespace}/{LEASE_NAME}"
            raise NotReadyError(f"there is no Lease {where}: no operator has started yet") from error
        before, self._before = self._before, lease
        return f"{leader_of(lease, before)} leads and {len(PLURALS)} CRDs are served"


async def run(namespace: str | None, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
    """Check until it succeeds. ``namespace`` is the release's; None: the pod's own. Raises the errors of ``Check``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    async with await Client.connect_in_pod() as client:
        check = Check(client, namespace or client.namespace)
        while True:
            try:
                return await check.look()
            except (NotReadyError, ApiError):
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(_INTERVAL_SECONDS)


def main() -> int:
    """Run the check; returns 0 and prints a line on standard output, or 1 and a line on standard error."""
    try:
        news = asyncio.run(run(os.environ.get("POD_NAMESPACE")))
    except (NotReadyError, ApiError, ConfigError) as error:
        sys.stderr.write(f"processhub is not ready: {error}\n")
        return 1
    sys.stdout.write(f"processhub is ready: {news}\n")
    return 0
