"""The operator's store: when the silence of a member's Lease means anything."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from builders import make_client, make_lease
from processhub.api.kubernetes import Pod, PodCondition, PodStatus
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_CHILD_ID, LABEL_HUB, LABEL_HUB_UID, child_pod_name
from processhub.cluster.decoding import WatchEvent
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

HUB: HubKey = ("ns", "hub")
LEASE = make_lease("hub-0", "pod/1", renew_time="2026-01-01T00:00:00.000000Z")
RENEWED = make_lease("hub-0", "pod/1", renew_time="later")


async def watching(woken: list[HubKey]) -> Store:
    """A store whose watches of Leases are connected and have shown one Lease 100 s ago."""
    store = Store(make_client(), (), woken.append)
    for informer in store.leases:
        informer.connected = True
    store.state(HUB).put_lease(LEASE, asyncio.get_running_loop().time() - 100)
    return store


def renewed_at(store: Store) -> float:
    known = store.state(HUB).leases.of_member("hub-0")
    assert known is not None
    return known.renewed_at


async def test_leases_count_only_while_the_api_server_accepts_our_own_writes() -> None:
    store = await watching([])
    now = asyncio.get_running_loop().time()
    assert not store.leases_observed("ns", now), "nothing was answered yet"

    store.answered(now)
    assert store.leases_observed("ns", now + 2.5)
    assert not store.leases_observed("ns", now + 4)


async def test_leases_count_only_while_their_watch_is_connected() -> None:
    store = await watching([])
    now = asyncio.get_running_loop().time()
    store.answered(now)

    store.leases[0].connected = False

    assert not store.leases_observed("ns", now)


async def test_the_watch_of_one_namespace_says_nothing_about_the_leases_of_another() -> None:
    """The other one may be gone: the members of this one must be found lost all the same."""
    store = Store(make_client(), ("ns", "gone"), lambda _: None)
    now = asyncio.get_running_loop().time()
    store.answered(now)
    store.leases[0].connected = True

    assert store.leases_observed("ns", now)
    assert not store.leases_observed("gone", now)


@pytest.mark.parametrize(("silence", "afresh"), [(2.5, False), (4.0, True)])
async def test_the_clocks_of_leases_restart_after_a_silence_of_the_api_server(silence: float, afresh: bool) -> None:
    """A stalled API server kept the members from renewing; when it resumes, none of them may count as lost."""
    woken: list[HubKey] = []
    store = await watching(woken)
    now = asyncio.get_running_loop().time()
    store.answered(now - silence)
    store.state(HUB).put_lease(RENEWED, now - silence)
    woken.clear()

    store.answered(now)

    assert (renewed_at(store) >= now) is afresh
    assert woken == ([HUB] if afresh else [])
    assert store.leases_observed("ns", now)


@pytest.mark.parametrize(("told_late", "sent_apart", "afresh"), [(3.0, 2.0, False), (3.0, 4.0, True), (4.0, 2.0, True)])
async def test_a_busy_loop_neither_counts_as_silence_of_the_api_server_nor_hides_one(
    told_late: float, sent_apart: float, afresh: bool
) -> None:
    """Silence is judged by when writes were sent. Late deliveries count as not seen."""
    store = await watching([])
    now = asyncio.get_running_loop().time()
    store.answered(now - told_late - sent_apart)
    store.state(HUB).put_lease(RENEWED, now - 5)

    store.answered(now - told_late)

    assert (renewed_at(store) >= now) is afresh


def pod(name: str, **labels: str) -> Pod:
    own = {LABEL_HUB: "hub", LABEL_HUB_UID: "u"} | {f"processhub.dev/{key}": value for key, value in labels.items()}
    annotations = {ANNOTATION_CHILD_ID: "a"}
    metadata = ObjectMeta(name=name, namespace="ns", uid=name, labels=own, annotations=annotations)
    return Pod(metadata=msgspec.structs.replace(metadata, resource_version="1"))


async def test_pods_of_children_are_distinguished_from_those_of_members_and_from_copies() -> None:
    store = await watching([])
    name = child_pod_name("hub", "u", "a")

    for item in (pod("hub-0"), pod(name, child="0123"), pod("copy", child="0123")):
        store.put("pods", item)

    state = store.state(HUB)
    assert (set(state.pods), set(state.child_pods)) == ({"hub-0"}, {name})


async def test_the_container_statuses_of_a_childs_pod_start_no_round() -> None:
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


def marked(version: int, *without: str, **changed: str) -> Pod:
    """The Pod of child ``a`` in this version, without some labels and annotations or with others (short names)."""
    name = child_pod_name("hub", "u", "a", "hub-0")
    marks = {"child-id": "a", "child-uid": "c", "run": "5", "role": "Active", "workload": "w"}
    labels = {"hub": "hub", "hub-uid": "u", "member": "hub-0", "child": "0123"}

    def left(given: dict[str, str]) -> dict[str, str]:
        names = [name for name in given if name not in without]
        return {f"processhub.dev/{name}": changed.get(name.replace("-", "_"), given[name]) for name in names}

    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace="ns",
            uid="pod",
            resource_version=str(version),
            labels=left(labels),
            annotations=left(marks),
        )
    )


@pytest.mark.parametrize("mark", ["child-id", "child-uid", "run", "role", "workload", "hub-uid", "member", "child"])
async def test_a_childs_pod_is_identified_by_its_creation_even_if_labels_are_removed(mark: str) -> None:
    store = await watching([])
    store.put("pods", marked(1))

    store.put("pods", marked(2, mark))

    state = store.state(HUB)
    (known,) = state.child_pods.values()
    assert (known.metadata.labels, known.metadata.annotations) == (
        marked(1).metadata.labels,
        marked(1).metadata.annotations,
    )
    assert known.metadata.resource_version == "2"
    assert state.child_pods.changed == {known.metadata.name: (f"processhub.dev/{mark}",)}
    assert (state.pods, state.child_pods.unidentified) == ({}, {}), "it is counted once"

    store.put("pods", marked(3))
    assert state.child_pods.changed == {}


async def test_a_childs_pod_stays_with_its_hub_whatever_hub_its_label_names() -> None:
    woken: list[HubKey] = []
    store = await watching(woken)
    store.put("pods", marked(1))

    store.put("pods", marked(2, hub="other"))

    assert len(store.state(HUB).child_pods) == 1
    assert woken[-1] == HUB
    assert store.state(("ns", "other")).empty


async def test_a_passive_pod_may_be_marked_active_and_nothing_reverts_that() -> None:
    store = await watching([])
    store.put("pods", marked(1, role="Passive"))
    state = store.state(HUB)

    store.put("pods", marked(2))
    assert state.child_pods.changed == {}
    store.put("pods", marked(3, role="Passive"))

    (known,) = state.child_pods.values()
    assert known.metadata.annotations["processhub.dev/role"] == "Active", "it may act as active yet"
    assert list(state.child_pods.changed.values()) == [("processhub.dev/role",)]


async def test_a_childs_pod_that_leaves_the_watch_is_not_taken_for_gone() -> None:
    woken: list[HubKey] = []
    store = await watching(woken)
    store.put("pods", marked(1))
    woken.clear()

    (informer,) = store.informer_of("pods", "ns")
    informer._event(WatchEvent("DELETED", marked(2)))

    state = store.state(HUB)
    assert state.child_pods.unwatched == set(state.child_pods) != set()
    assert woken == [HUB]
    store.child_pod_gone(HUB, *state.child_pods.unwatched)
    assert (state.child_pods, state.child_pods.unwatched) == ({}, set())


async def test_a_members_pod_belongs_to_one_hub_only() -> None:
    store = await watching([])
    store.put("pods", pod("hub-0"))
    moved = pod("hub-0")
    labels = moved.metadata.labels | {LABEL_HUB: "other"}
    metadata = msgspec.structs.replace(moved.metadata, labels=labels, resource_version="2")

    store.put("pods", Pod(metadata=metadata))

    assert store.state(HUB).pods == {}
    assert set(store.state(("ns", "other")).pods) == {"hub-0"}
