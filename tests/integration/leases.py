"""Waits for the Leases of members."""

from __future__ import annotations

from datetime import UTC, datetime

from waiting import eventually

from processhub.api.kubernetes import Lease
from processhub.cluster.client import Client
from processhub.cluster.kinds import LEASES


async def past_the_second_of_its_lease(api: Client, namespace: str, member: str) -> None:
    """Wait until the current second is later than the one in which the member took its Lease.

    The times of a kubelet are whole seconds, rounded down. An operator can't see that a container ended in the second
    in which its member took the Lease (docs/operations.md): a member that returns at once does not count as restarted.
    """

    async def earlier() -> bool:
        items, _ = await api.list(LEASES, namespace)
        found = [item for item in items if isinstance(item, Lease) and item.metadata.name.endswith(f".{member}")]
        if not found:
            return True  # the member was scaled away
        acquired = found[0].spec.acquire_time
        return (
            acquired is not None and int(datetime.now(UTC).timestamp()) > datetime.fromisoformat(acquired).timestamp()
        )

    await eventually(earlier, f"{member} has its Lease since an earlier second")
