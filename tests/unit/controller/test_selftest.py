"""What helm test concludes from the leader's Lease."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from memoryapi import Key, MemoryApi, MemoryClient, Wire

from processhub.api.kubernetes import Lease, LeaseSpec
from processhub.api.meta import ObjectMeta
from processhub.controller.selftest import PLURALS, NotReadyError, check, leader_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def lease(holder: str | None, age_seconds: float | None, duration: int | None = 15) -> Lease:
    renewed = None if age_seconds is None else (NOW - timedelta(seconds=age_seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = LeaseSpec(holder_identity=holder, renew_time=renewed, lease_duration_seconds=duration)
    return Lease(metadata=ObjectMeta(name="processhub-operator", namespace="hubs"), spec=spec)


def test_a_renewed_lease_proves_a_leader() -> None:
    assert leader_of(lease("operator-1", 3), NOW) == "operator-1"


@pytest.mark.parametrize("holder", [None, ""])
def test_a_released_lease_proves_no_leader(holder: str | None) -> None:
    with pytest.raises(NotReadyError, match="no operator holds the Lease hubs/processhub-operator"):
        leader_of(lease(holder, 1), NOW)


@pytest.mark.parametrize("duration", [15, None])
def test_an_expired_lease_proves_no_leader(duration: int | None) -> None:
    with pytest.raises(NotReadyError, match="has not renewed the leader's Lease for 40 s, more than its 15 s"):
        leader_of(lease("operator-1", 40, duration), NOW)


def test_a_clock_that_is_behind_does_not_matter() -> None:
    assert leader_of(lease("operator-1", -2), NOW) == "operator-1"


def served(*plurals: str) -> MemoryApi:
    """An API server that has the leader's Lease and serves these of ProcessHub's kinds."""
    api = MemoryApi()
    spec = {"holderIdentity": "operator-1", "renewTime": "2026-01-02T03:04:03.000000Z", "leaseDurationSeconds": 15}
    api.create("leases", {"metadata": {"name": "processhub-operator"}, "spec": spec})
    established = {"conditions": [{"type": "Established", "status": "True"}]}
    for plural in plurals:
        crd = {"metadata": {"name": f"{plural}.processhub.dev"}, "status": dict(established)}
        api.create("customresourcedefinitions", crd, namespace="")
    return api


async def test_an_installation_with_a_leader_and_all_kinds_is_ready() -> None:
    client = MemoryClient(served(*PLURALS), Wire())

    assert await check(client, "ns", NOW) == "operator-1 leads and 4 CRDs are served"


async def test_a_missing_part_of_an_installation_is_named() -> None:
    without = served("hubs", "children", "childsets")
    coming = served(*PLURALS)
    coming.update(Key("customresourcedefinitions", "", "hubs.processhub.dev"), lambda item: item.update(status={}))
    leaderless = served(*PLURALS)
    leaderless.delete("leases", "processhub-operator")

    for api, why in (
        (without, "the CRD registryslices.processhub.dev is not installed"),
        (coming, "the CRD hubs.processhub.dev is not served yet"),
        (leaderless, "there is no Lease ns/processhub-operator: no operator has started yet"),
    ):
        with pytest.raises(NotReadyError, match=why):
            await check(MemoryClient(api, Wire()), "ns", NOW)
