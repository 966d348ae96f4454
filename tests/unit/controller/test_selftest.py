"""What helm test concludes from the leader's Lease."""

from __future__ import annotations

import pytest
from memoryapi import Key, MemoryApi, MemoryClient, Wire

from processhub.api.kubernetes import Lease, LeaseSpec
from processhub.api.meta import ObjectMeta
from processhub.controller.selftest import PLURALS, Check, NotReadyError, leader_of


def lease(holder: str | None, renewed: str | None) -> Lease:
    spec = LeaseSpec(holder_identity=holder, renew_time=renewed, lease_duration_seconds=15)
    return Lease(metadata=ObjectMeta(name="processhub-operator", namespace="hubs"), spec=spec)


FIRST, SECOND = lease("operator-1", "2026-01-02T03:04:03.000000Z"), lease("operator-1", "2026-01-02T03:04:05.000000Z")


def test_a_lease_that_is_renewed_proves_a_leader() -> None:
    assert leader_of(SECOND, FIRST) == "operator-1"


@pytest.mark.parametrize("holder", [None, ""])
def test_a_released_lease_proves_no_leader(holder: str | None) -> None:
    with pytest.raises(NotReadyError, match="no operator holds the Lease hubs/processhub-operator"):
        leader_of(lease(holder, "2026-01-02T03:04:05.000000Z"), FIRST)


@pytest.mark.parametrize("before", [None, SECOND])
def test_a_lease_that_is_not_renewed_proves_no_leader(before: Lease | None) -> None:
    """A time alone proves nothing: the clocks of nodes may differ."""
    said = "operator-1 does not renew the leader's Lease; it did last at 2026-01-02T03:04:05.000000Z"
    with pytest.raises(NotReadyError, match=said):
        leader_of(SECOND, before)


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
    api = served(*PLURALS)
    check = Check(MemoryClient(api, Wire()), "ns")
    with pytest.raises(NotReadyError, match="operator-1 does not renew the leader's Lease"):
        await check.look()

    renewed = {"renewTime": "2026-01-02T03:04:05.000000Z"}
    api.update(Key("leases", "ns", "processhub-operator"), lambda item: item["spec"].update(renewed))

    assert await check.look() == "operator-1 leads and 4 CRDs are served"


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
            await Check(MemoryClient(api, Wire()), "ns").look()
