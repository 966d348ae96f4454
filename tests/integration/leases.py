"""The members' Leases, as tests need to know them."""

from __future__ import annotations

from datetime import UTC, datetime

from waiting import eventually

from processhub.api.kubernetes import Lease
from processhub.cluster.client import Client
from processhub.cluster.kinds import LEASES


async def past_the_second_of_its_lease(api: Client, namespace: str, member: str) -> None:
    """Until the member has had its Lease since an earlier second.

    A kubelet's times are whole seconds, rounded down: a container that ends in the second in which it took the Lease is
    not seen to have ended (docs/operations.md), and a member that is back at once not to have been away.
    """

    async def earlier() -> bool:
        items, _ = await api.list(LEASES, namespace)
        (lease,) = [item for item in items if isinstance(item, Lease) and item.metadata.name.endswith(f".{member}")]
        acquired = lease.spec.acquire_time
        return (
            acquired is not None and int(datetime.now(UTC).timestamp()) > datetime.fromisoformat(acquired).timestamp()
        )

    await eventually(earlier, f"{member} has its Lease since an earlier second")
