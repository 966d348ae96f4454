"""Objects that an earlier Hub of the same name has left and that no garbage collection will delete."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import virtualtime
from a_round import a_round
from memoryapi import Json, Key, MemoryApi, MemoryClient, Wire
from onethread import Cluster

from builders import HUB, make_hub, make_lease, make_slice
from processhub.api.meta import ObjectMeta, OwnerReference
from processhub.api.naming import LABEL_CHILD, LABEL_COMPONENT, LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER
from processhub.controller.errors import DeposedError
from processhub.controller.execute.earlierhubs import earlier_uid, remove_leftovers
from processhub.controller.store.informers import Store
from processhub.controller.store.leases import KnownLease
from processhub.registry.grammar import parse_assignment

LEASE_SECONDS = 15
EARLIER = "of-an-earlier-hub"
LABELS = {LABEL_HUB: HUB, LABEL_HUB_UID: EARLIER, LABEL_MEMBER: "hub-0", LABEL_COMPONENT: "agent"}
SLICE, LEASE = Key("registryslices", "ns", "hub.hub-0.0"), Key("leases", "ns", "hub.hub-0")
POD, WORKLOAD = Key("pods", "ns", "hub-0"), Key("statefulsets", "ns", "hub")


def leave(cluster: Cluster, uid: str = EARLIER, term: int = 1) -> None:
    """Create the objects that a Hub with this uid has left: a workload, a pod, and a member's slice and held Lease."""
    labels = LABELS | {LABEL_HUB_UID: uid}
    for key, made in {
        SLICE: make_slice({"ghost": "u:1"}, hub_uid=uid, term=term),
        LEASE: make_lease(holder="a-pod/1", lease_duration_seconds=LEASE_SECONDS),
        POD: {"spec": {"nodeName": "node"}},
        WORKLOAD: {"spec": {"replicas": 0}},
    }.items():
        item: Json = msgspec.json.decode(msgspec.json.encode(made))
        item["metadata"] = {"name": key.name, "labels": labels}
        cluster.api.create(key.plural, item)


def deleted(cluster: Cluster) -> dict[Key, float]:
    """Return when the operator deleted which object."""
    return {key: at for at, method, key, _ in cluster.api.writes if method == "DELETE"}


def conflict(cluster: Cluster) -> str:
    """Return the message of the Hub's condition Accepted while it is NameConflict."""
    conditions = cluster.api.get("hubs", "hub").get("status", {}).get("conditions", ())
    return next((str(item["message"]) for item in conditions if item["reason"] == "NameConflict"), "")


def test_objects_of_an_earlier_hub_are_deleted_only_after_its_members_have_ended(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        leave(cluster)
        cluster.begin({"members": {"replicas": 1}, "timeouts": {"leaseSeconds": LEASE_SECONDS}})
        cluster.start_replica("operator-0")
        await cluster.until(lambda: POD in deleted(cluster), "its workload and pods are deleted")
        awaited = "lease hub.hub-0 of an earlier hub of this name is still held, by a-pod/1; started when it is gone"
        await cluster.until(lambda: conflict(cluster) == awaited, "that is said")
        assert SLICE in cluster.api.objects
        await cluster.until(lambda: bool(cluster.agents), "the hub begins")

        at = deleted(cluster)
        assert max(at[WORKLOAD], at[POD]) + LEASE_SECONDS <= at[SLICE] <= at[LEASE]
        await cluster.until(lambda: not conflict(cluster), "the hub is accepted")
        await cluster.end()

    virtualtime.run(main())


def test_objects_of_a_hub_that_exists_are_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        other = cluster.api.create("hubs", {"metadata": {"name": "other"}, "spec": {"suspend": True}})
        leave(cluster, uid=other["metadata"]["uid"])
        cluster.begin({"members": {"replicas": 1}})
        cluster.start_replica("operator-0")
        await cluster.until(lambda: bool(conflict(cluster)), "the hub waits")
        await asyncio.sleep(30)

        assert not {SLICE, LEASE, POD, WORKLOAD} & deleted(cluster).keys()
        cluster.stops["operator-0"].set()
        await cluster.tasks["operator-0"]

    virtualtime.run(main())


def test_a_leader_whose_term_is_below_that_of_a_restored_slice_ends(tmp_path: Path) -> None:
    """As when the objects of another cluster are restored."""

    async def main() -> None:
        cluster = Cluster(tmp_path)
        cluster.start_replica("operator-0")
        await cluster.until(lambda: Key("leases", "ns", "processhub-operator") in cluster.api.objects, "a leader")
        await asyncio.sleep(1)
        leave(cluster, term=57)
        cluster.begin({"members": {"replicas": 1}})
        with pytest.raises(DeposedError):
            await cluster.tasks["operator-0"]
        cluster.start_replica("operator-0")
        spec = {"hub": "hub", "exec": {"command": ["x"]}}
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": spec})
        await cluster.until(lambda: cluster.reported_running("a"), "the hub has begun")

        entries = cluster.api.objects[SLICE]["spec"]["entries"]
        assert parse_assignment(entries["a"]).epoch > 57 * 10**9
        await cluster.end()

    virtualtime.run(main())


def test_a_lease_of_an_earlier_hub_that_is_not_there_is_not_waited_for() -> None:
    """It was deleted by hand, and known still, as its holder might live. No watch reports its end a second time."""

    async def main() -> None:
        api = MemoryApi()
        client = MemoryClient(api, Wire())
        created = api.create("hubs", {"metadata": {"name": HUB}, "spec": {}})
        hub = make_hub(uid=created["metadata"]["uid"])
        round = a_round(hub, client=client, store=Store(client, (), lambda _: None))
        lease = make_lease(holder="")
        lease = msgspec.structs.replace(lease, metadata=ObjectMeta(name=LEASE.name, namespace="ns", labels=LABELS))
        round.state.leases.older[LEASE.name] = KnownLease(lease, 0.0)

        await remove_leftovers(round)

        assert not round.state.leases.older
        assert not round.steps.trouble()

    virtualtime.run(main())


def test_orphaned_objects_and_static_children_are_adopted(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        labels = {LABEL_HUB: "hub", LABEL_HUB_UID: EARLIER}
        service = cluster.api.create("services", {"metadata": {"name": "hub", "labels": labels}, "spec": {}})
        children = {
            name: cluster.api.create(
                "children",
                {
                    "metadata": {"name": name, "labels": labels | {LABEL_CHILD: name}},
                    "spec": {"hub": "hub", "exec": {"command": ["x"]}},
                },
            )
            for name in ("kept", "dropped")
        }
        own = {"metadata": {"name": "own"}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}}
        cluster.api.create("children", own)
        cluster.begin({"members": {"replicas": 1}, "children": [{"id": "kept", "exec": {"command": ["x"]}}]})
        cluster.start_replica("operator-0")
        await cluster.until(lambda: Key("children", "ns", "kept") in cluster.api.objects, "it is there")
        await cluster.until(lambda: cluster.reported_running("kept", "own"), "the children run")

        uid = cluster.api.get("hubs", "hub")["metadata"]["uid"]
        for plural, name, before in (("services", "hub", service), ("children", "kept", children["kept"])):
            metadata = cluster.api.get(plural, name)["metadata"]
            assert metadata["uid"] == before["metadata"]["uid"]
            assert metadata["labels"][LABEL_HUB_UID] == uid
            assert [owner["uid"] for owner in metadata["ownerReferences"]] == [uid]
        assert Key("children", "ns", "dropped") not in cluster.api.objects
        assert not cluster.api.get("children", "own")["metadata"].get("ownerReferences")
        await cluster.end()

    virtualtime.run(main())


OWNER = {"api_version": "processhub.dev/v1alpha1", "kind": "Hub", "name": HUB, "uid": EARLIER}
CONTROLLER = {"api_version": "apps/v1", "kind": "StatefulSet", "name": HUB, "uid": "s", "controller": True}


@pytest.mark.parametrize(
    ("owners", "labels", "uid"),
    [
        ([OWNER], {}, EARLIER),
        ([], {LABEL_HUB: HUB, LABEL_HUB_UID: EARLIER}, EARLIER),
        ([], {LABEL_HUB_UID: EARLIER}, ""),
        ([], {LABEL_HUB: "other", LABEL_HUB_UID: EARLIER}, ""),
        ([], {LABEL_HUB: HUB, LABEL_HUB_UID: "hub-uid"}, ""),
        ([OWNER | {"name": "other"}], {}, ""),
        ([OWNER | {"api_version": "hub.example/v1"}], {}, ""),
        ([CONTROLLER], {LABEL_HUB: HUB, LABEL_HUB_UID: EARLIER}, ""),
        ([OWNER, OWNER | {"uid": "hub-uid"}], {}, ""),
    ],
)
def test_owner_references_and_labels_identify_the_earlier_hub_of_an_object(
    owners: list[dict[str, Any]], labels: dict[str, str], uid: str
) -> None:
    references = tuple(OwnerReference(**owner) for owner in owners)

    assert earlier_uid(make_hub(), ObjectMeta(labels=labels, owner_references=references)) == uid
