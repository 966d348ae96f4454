"""The operator's store: when the silence of a member's Lease means anything."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from processhub.api.kubernetes import Lease, LeaseSpec, Pod, PodCondition, PodStatus
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_CHILD_ID, LABEL_HUB, LABEL_HUB_UID, child_pod_name
from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.operator.hubstate import HubKey
from processhub.operator.store import Store

HUB: HubKey = ("default", "hub")
LEASE = Lease(
    metadata=ObjectMeta(name="hub.hub-0", namespace="default", uid="u", labels={LABEL_HUB: "hub"}),
    spec=LeaseSpec(holder_identity="pod/1", renew_time="2026-01-01T00:00:00.000000Z"),
)


async def no_token() -> None:
    return None


async def watching(woken: list[HubKey]) -> Store:
    """A store whose watches of Leases are connected and told of one Lease 100 s ago."""
    client = Client(Config(host="http://127.0.0.1:1", namespace="default", ssl=False, token=no_token))
    store = Store(client, (), woken.append)
    for informer in store.leases:
        informer.connected = True
    store.state(HUB).put_lease(LEASE, asyncio.get_running_loop().time() - 100)
    return store


def renewed_at(store: Store) -> float:
    known = store.state(HUB).member_lease("hub-0")
    assert known is not None
    return known.renewed_at


async def test_leases_count_only_while_the_api_server_takes_our_own_writes() -> None:
    store = await watching([])
    now = asyncio.get_running_loop().time()
    assert not store.leases_observed(now), "nothing was answered yet"

    store.answered(now)
    assert store.leases_observed(now + 2.5)
    assert not store.leases_observed(now + 4)


async def test_leases_count_only_while_their_watch_is_connected() -> None:
    store = await watching([])
    now = asyncio.get_running_loop().time()
    store.answered(now)

    store.leases[0].connected = False

    assert not store.leases_observed(now)


@pytest.mark.parametrize(("silence", "afresh"), [(2.5, False), (4.0, True)])
async def test_after_a_silence_of_the_api_server_the_clocks_of_leases_start_afresh(
    silence: float, afresh: bool
) -> None:
    """A stalled API server kept the members from renewing; when it wakes, none of them may count as lost."""
    woken: list[HubKey] = []
    store = await watching(woken)
    now = asyncio.get_running_loop().time()
    store.answered(now - silence)
    store.state(HUB).put_lease(
        Lease(metadata=LEASE.metadata, spec=LeaseSpec(holder_identity="pod/1", renew_time="later")), now - silence
    )
    woken.clear()

    store.answered(now)

    assert (renewed_at(store) >= now) is afresh
    assert woken == ([HUB] if afresh else [])
    assert store.leases_observed(now)


def pod(name: str, **labels: str) -> Pod:
    own = {LABEL_HUB: "hub", LABEL_HUB_UID: "u"} | {f"processhub.dev/{key}": value for key, value in labels.items()}
    annotations = {ANNOTATION_CHILD_ID: "a"}
    metadata = ObjectMeta(name=name, namespace="default", uid=name, labels=own, annotations=annotations)
    return Pod(metadata=msgspec.structs.replace(metadata, resource_version="1"))


async def test_pods_of_children_are_told_apart_from_those_of_members_and_from_copies() -> None:
    store = await watching([])
    name = child_pod_name("hub", "u", "a")

    for item in (pod("hub-0"), pod(name, child="0123"), pod("copy", child="0123")):
        store.put("pods", item)

    state = store.state(HUB)
    assert (set(state.pods), set(state.child_pods)) == ({"hub-0"}, {name})


async def test_how_the_containers_of_a_childs_pod_fare_wakes_nobody() -> None:
    woken: list[HubKey] = []
    store = await watching(woken)
    first = pod(child_pod_name("hub", "u", "a"), child="0123")

    def seen(version: str, phase: str, ready: str) -> None:
        status = PodStatus(phase=phase, conditions=(PodCondition(type="Ready", status=ready),))
        metadata = msgspec.structs.replace(first.metadata, resource_version=version)
        store.put("pods", Pod(metadata=metadata, status=status))

    seen("1", "Pending", "False")
    seen("2", "Running", "False")
    assert woken == [HUB, HUB]
    seen("3", "Running", "True")
    assert woken == [HUB, HUB]
    seen("4", "Failed", "False")
    assert woken == [HUB] * 3
