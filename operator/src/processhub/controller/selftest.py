"""The check that ``helm test`` runs in a pod: an operator leads, and the CRDs are served.

It runs as ``python3 -m processhub.controller.selftest``. It asks the API server alone, with the pod's own account, so
it works where Service addresses do not. It proves more than an open port, because only an operator that works renews
the leader's Lease.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime

from processhub.api.kubernetes import Lease
from processhub.api.meta import GROUP
from processhub.cluster.client import Client
from processhub.cluster.config import ConfigError
from processhub.cluster.errors import ApiError, NotFoundError
from processhub.cluster.kinds import LEASES, untyped
from processhub.cluster.timestamps import utc_now
from processhub.controller.lead.prerequisites import PLURALS

LEADER_LEASE = "processhub-operator"
TIMEOUT_SECONDS = 60.0  # an operator that was just installed must start and take the Lease first
_INTERVAL_SECONDS = 1.0
_DEFAULT_LEASE_SECONDS = 15
_CRDS = untyped("apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False)


class NotReadyError(Exception):
    """Something is missing. The message is a sentence that names it."""


def leader_of(lease: Lease, now: datetime) -> str:
    """The Lease's live holder. Raises NotReadyError if it has no holder or has expired."""
    holder, renewed = lease.spec.holder_identity, lease.spec.renew_time
    if not holder or not renewed:
        raise NotReadyError(f"no operator holds the Lease {lease.metadata.namespace}/{lease.metadata.name}")
    age = (now - datetime.fromisoformat(renewed)).total_seconds()
    limit = lease.spec.lease_duration_seconds or _DEFAULT_LEASE_SECONDS
    if age > limit:
        raise NotReadyError(f"{holder} has not renewed the leader's Lease for {age:.0f} s, more than its {limit} s")
    return holder


async def check(client: Client, namespace: str, now: datetime) -> str:
    """Check once; returns a sentence. Raises NotReadyError, or ApiError if the API server rejects a request."""
    for plural in PLURALS:
        try:
            crd = await client.get(_CRDS, None, f"{plural}.{GROUP}")
        except NotFoundError as error:
            raise NotReadyError(f"the CRD {plural}.{GROUP} is not installed") from error
        conditions = crd.get("status", {}).get("conditions", [])
        if not any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions):
            raise NotReadyError(f"the CRD {plural}.{GROUP} is not served yet")
    try:
        lease = await client.get(LEASES, namespace, LEADER_LEASE)
    except NotFoundError as error:
        raise NotReadyError(f"there is no Lease {namespace}/{LEADER_LEASE}: no operator has started yet") from error
    return f"{leader_of(lease, now)} leads and {len(PLURALS)} CRDs are served"


async def run(namespace: str | None, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
    """Repeat ``check`` until it succeeds. ``namespace`` is the release's; None: the pod's own. Raises its errors."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    async with await Client.connect() as client:
        while True:
            try:
                return await check(client, namespace or client.namespace, utc_now())
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
