"""The leader's Lease against the real API server."""

from __future__ import annotations

import asyncio

import pytest

from processhub.cluster.client import Client
from processhub.cluster.kinds import LEASES
from processhub.controller.lead import election
from processhub.controller.lead.election import LEASE_NAME, Election


async def test_a_release_during_renewals_frees_the_lease(
    api: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewals follow each other at once, so that the release nearly always meets one that is under way."""
    monkeypatch.setattr(election, "RETRY_SECONDS", 0.0)
    for number in range(1, 11):
        candidate = Election(api, namespace, f"candidate-{number}", (namespace,))
        assert await candidate.acquire() == number
        renewed = asyncio.Event()
        holding = asyncio.create_task(candidate.hold(lambda _, renewed=renewed: renewed.set()))
        await renewed.wait()
        await asyncio.sleep(0.0005 * number)  # each time at another moment of the next renewal

        await candidate.release()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)

        lease = await api.get(LEASES, namespace, LEASE_NAME)
        assert lease.spec.holder_identity == ""
