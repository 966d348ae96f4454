"""Hooks of running hubs: a receiver gets each event once, and no receiver delays anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
import pytest_asyncio
from hookreceiver import Json, Receiver, failing, receiver
from hookworld import SHORT, TOLD, delete_child, edit, ready, warnings
from leases import past_the_second_of_its_lease
from livehub import Live, live
from waiting import eventually

from localcluster.cluster import Cluster
from localcluster.faults import Faults
from processhub.cluster.client import Client


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ears() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


async def test_the_life_of_a_child_is_sent_once_and_in_order_as_cloud_events(product: Live, ears: Receiver) -> None:
    hub = await product.hub(replicas=1, hooks=ears.hooks(*TOLD))

    await product.child("told", hub, tags=["eu"], metadata={"plan": "gold"})
    nodes = await ready(product, "told")
    await ears.once("ChildStarted", child="told")
    await delete_child(product, "told")
    await ears.once("ChildStopped", child="told")

    node = nodes["told"]
    assert ears.summary() == [
        f"MemberJoining {hub}-0",
        f"MemberJoined {hub}-0",
        *(f"{kind} told" for kind in ("ChildRegistered", "ChildStarted", "ChildUnregistered", "ChildStopped")),
    ]
    started = await ears.once("ChildStarted")
    assert datetime.fromisoformat(started["time"]).tzinfo is not None
    uid = started["data"]["uid"]
    assert {
        name: started[name] for name in ("specversion", "type", "source", "subject", "datacontenttype", "data")
    } == {
        "specversion": "1.0",
        "type": "dev.processhub.ChildStarted",
        "source": f"/namespaces/{product.namespace}/hubs/{hub}",
        "subject": "told",
        "datacontenttype": "application/json",
        "data": {
            "namespace": product.namespace,
            "hub": hub,
            "child": "told",
            "uid": uid,
            "member": node.name,
            "epoch": node.epoch,
            "pid": node.pid,
            "role": "Active",
        },
    }
    registered = await ears.once("ChildRegistered")
    assert (registered["data"]["tags"], registered["data"]["metadata"]) == (["eu"], {"plan": "gold"})
    assert {headers["Content-Type"] for headers in ears.headers} == {"application/cloudevents+json"}
    ids = [event["id"] for event in ears.received()]
    assert len(set(ids)) == len(ids)


async def test_a_crash_is_sent_as_a_new_pid(product: Live, ears: Receiver) -> None:
    hub = await product.hub(replicas=1, hooks=ears.hooks("ChildPidUpdated", "ChildStopped", "ChildStarted"))
    await product.child("crash", hub)
    pid = (await ready(product, "crash"))["crash"].pid
    await ears.once("ChildStarted")

    await asyncio.create_subprocess_exec("kill", "-9", str(pid))

    event = await ears.once("ChildPidUpdated")
    assert event["data"]["previousPid"] == pid
    assert event["data"]["pid"] not in (0, pid)
    assert ears.received(event="ChildStopped") == []


async def test_a_restart_of_a_member_is_sent_as_a_recovery_and_not_as_a_loss(
    product: Live, ears: Receiver, faults: Faults
) -> None:
    hub = await product.hub(replicas=1, hooks=ears.hooks(*TOLD), timeouts=SHORT)
    await product.child("stays", hub)
    pid = (await ready(product, "stays"))["stays"].pid
    await ears.once("ChildStarted")
    ears.forget()

    await past_the_second_of_its_lease(product.api, product.namespace, f"{hub}-0")
    await faults.kill_pod(f"{product.namespace}/{hub}-0")

    await ears.once("RecoveryDone", member=f"{hub}-0", children=1)
    assert ears.summary() == ["ChildPidUpdated stays", f"RecoveryDone {hub}-0"]
    assert (await ears.once("ChildPidUpdated"))["data"]["previousPid"] == pid


async def test_a_child_that_its_member_starts_while_no_operator_runs_is_sent_once(
    product: Live, ears: Receiver
) -> None:
    told = ears.hooks("ChildRegistered", "ChildStarted", "ChildUnregistered", "ChildStopped")
    hub = await product.hub(replicas=1, hooks=told, onDemand={"python": {"target": "processhub.examples:Counter"}})
    async with product.connect(hub) as client:
        await client.call("early", {"op": "get"})
        await ears.once("ChildRegistered", child="early")
        await product.operator.stop()
        await client.call("late", {"op": "get"})
        await product.operator.start()
        await ears.once("ChildRegistered", child="late")
        await client.stop_children(["early"], wait=True, timeout=40)
        await ears.once("ChildStopped", child="early")

    assert sorted(ears.summary()) == sorted(
        [*(f"{kind} {child}" for kind in ("ChildRegistered", "ChildStarted") for child in ("early", "late")),
         "ChildUnregistered early", "ChildStopped early"]
    )  # fmt: skip
    registered = await ears.once("ChildRegistered", child="late")
    assert registered["data"]["member"] == f"{hub}-0"


async def test_a_completed_child_is_sent_with_its_reason(product: Live, ears: Receiver) -> None:
    hub = await product.hub(replicas=1, hooks=ears.hooks("ChildStopped", "ChildUnregistered"))

    await product.child("short", hub, exec={"command": ["sleep", "0.3"]}, restartPolicy="Temporary")

    assert (await ears.once("ChildStopped"))["data"]["reason"] == "Completed"
    assert ears.received(event="ChildUnregistered") == []


async def test_the_loss_of_a_member_is_sent_for_all_of_its_children(
    product: Live, ears: Receiver, faults: Faults
) -> None:
    # Without the load cap: it would keep a child that overflowed onto the member from returning there.
    hub = await product.hub(
        replicas=2,
        hooks=ears.hooks(*TOLD),
        distribution={"loadCapPercent": 1000},
        migration={"onRestart": "Move"},
        timeouts=SHORT,
    )
    names = [f"lost-{number}" for number in range(8)]
    await asyncio.gather(*(product.child(name, hub) for name in names))
    before = await ready(product, *names)
    for name in names:
        await ears.once("ChildStarted", child=name)
    there = [name for name in names if before[name].name == f"{hub}-1"]
    assert there
    ears.forget()

    await past_the_second_of_its_lease(product.api, product.namespace, f"{hub}-1")
    await faults.kill_pod(f"{product.namespace}/{hub}-1")

    left = await ears.once("MemberLeft")
    assert (left["subject"], left["data"]["children"]) == (f"{hub}-1", len(there))
    for name in there:
        moved = {"from": f"{hub}-1", "to": f"{hub}-0"}
        await ears.once("ChildMoved", child=name, why=f"{hub}-1 was lost", **moved)
        await ears.once("ChildUnregistered", child=name, member=f"{hub}-1", reason="MemberLost")
        await ears.once("ChildStopped", child=name, member=f"{hub}-1", reason="MemberLost", pid=before[name].pid)
        await ears.once("ChildRegistered", child=name, member=f"{hub}-0")
        await ears.once("ChildStarted", child=name, member=f"{hub}-0")
    recovered = await ears.once("RecoveryDone")
    assert recovered["data"]["children"] == len(there)
    # The member returns and takes its share: planned moves, reported as such.
    await ears.once("MemberJoining", member=f"{hub}-1")
    await ears.once("MemberJoined", member=f"{hub}-1")
    for name in there:
        await ears.once("ChildMoved", child=name, why=f"{hub}-1 joined", **{"from": f"{hub}-0", "to": f"{hub}-1"})
    assert {event["subject"] for event in ears.received() if event["subject"].startswith("lost-")} == set(there)


async def test_a_drain_is_sent_from_leaving_to_left(product: Live, ears: Receiver) -> None:
    hub = await product.hub(replicas=2, hooks=ears.hooks(*TOLD))
    names = [f"drain-{number}" for number in range(6)]
    await asyncio.gather(*(product.child(name, hub) for name in names))
    before = await ready(product, *names)
    for name in names:
        await ears.once("ChildStarted", child=name)
    there = [name for name in names if before[name].name == f"{hub}-1"]
    ears.forget()

    await edit(product, hub, members={"replicas": 1})

    assert (await ears.once("DrainCompleted"))["data"]["children"] == len(there)
    await ears.once("MemberLeft", member=f"{hub}-1")
    await ears.once("RedistributionDone", moves=len(there))
    order = [event["type"].rpartition(".")[2] for event in ears.received() if event["subject"] == f"{hub}-1"]
    assert order == ["MemberLeaving", "DrainCompleted", "MemberLeft"]
    assert {event["data"]["child"] for event in ears.received(event="ChildMoved")} == set(there)
    assert ears.received(event="RecoveryDone") == []


async def test_a_move_with_a_handover_is_sent_as_delivered(product: Live, ears: Receiver) -> None:
    hub = await product.hub(replicas=1, hooks=ears.hooks(*TOLD), migration={"strategy": "HotSwap"})
    names = [f"hot-{number}" for number in range(6)]
    await asyncio.gather(
        *(
            product.child(name, hub, exec=None, python={"target": "processhub.examples:Counter", "args": {"start": 7}})
            for name in names
        )
    )
    await ready(product, *names)
    ears.forget()

    await edit(product, hub, members={"replicas": 2})
    await ears.once("RedistributionDone", within=60)

    moved = {event["subject"] for event in ears.received(event="ChildMoved")}
    assert moved
    for name in moved:
        delivered = await ears.once("HandoverDelivered", child=name)
        assert delivered["data"]["member"] == f"{hub}-1"
        assert delivered["data"]["checksum"]
        await ears.once("ChildStarted", child=name, member=f"{hub}-1")
        await ears.once("ChildStopped", child=name, member=f"{hub}-0")


async def test_the_move_of_a_child_bound_to_a_leaving_member_is_sent_as_deferred(product: Live, ears: Receiver) -> None:
    hub = await product.hub(replicas=2, hooks=ears.hooks("MigrationDeferred"), distribution={"strategy": "Guided"})
    await product.child("bound", hub, nodes=[f"{hub}-1"])
    await ready(product, "bound")

    await edit(product, hub, members={"replicas": 1})

    deferred = await ears.once("MigrationDeferred")
    assert deferred["data"] | {"reason": "Bound", "children": ["bound"], "count": 1} == deferred["data"]
    assert deferred["subject"] == f"{hub}-1"


async def test_the_loss_and_the_return_of_a_quorum_are_sent(product: Live, ears: Receiver, faults: Faults) -> None:
    hub = await product.hub(
        replicas=2, hooks=ears.hooks(*TOLD), partitionTolerance={"strategy": "MajorityQuorum"}, timeouts=SHORT
    )
    await product.child("halted", hub)
    member = (await ready(product, "halted"))["halted"].name
    await ears.once("ChildStarted", child="halted")
    other = f"{product.namespace}/{hub}-{1 - int(member[-1])}"
    ears.forget()

    await faults.pause_pod(other)
    try:
        entered = await ears.once("PartitionEntered")
        assert (await ears.once("ChildStopped", child="halted"))["data"]["reason"] == "Partitioned"
    finally:
        await faults.resume_pod(other)
    await ears.once("PartitionHealed", within=60)
    await ears.once("ChildStarted", child="halted", within=60)

    assert (entered["subject"], entered["data"]["required"], entered["data"]["live"]) == (hub, 2, 1)


async def test_hooks_of_one_event_are_called_by_priority_then_name(product: Live, ears: Receiver) -> None:
    order = [("late", -5), ("b", 0), ("a", 0), ("first", 10)]
    hub = await product.hub(
        replicas=1, hooks=[ears.hook(name, "ChildStarted", priority=priority) for name, priority in order]
    )

    await product.child("ranked", hub)
    await ears.once("ChildStarted", "late")

    assert [path for path, _ in ears.came] == ["first", "a", "b", "late"]
    assert len({event["id"] for _, event in ears.came}) == 1


async def test_a_failed_delivery_is_retried_with_the_same_id(product: Live, ears: Receiver) -> None:
    ears.answers["flaky"] = failing([500, 429, 503])
    hub = await product.hub(replicas=1, hooks=[ears.hook("flaky", "ChildStarted")])

    await product.child("again", hub)

    async def four() -> list[Json] | None:
        return came if len(came := ears.received("flaky")) >= 4 else None

    came = await eventually(four, "four attempts")
    assert [event["id"] for event in came] == [came[0]["id"]] * 4
    assert [event["time"] for event in came] == [came[0]["time"]] * 4
    assert await warnings(product, hub) == []


async def test_a_failed_delivery_is_reported_on_the_hub_and_delays_no_other_hook(product: Live, ears: Receiver) -> None:
    ears.answers["refuses"] = failing([404] * 100)
    nobody = {"name": "nobody", "event": "ChildStarted", "priority": 3, "webhook": {"url": "http://127.0.0.1:9/x"}}
    refuses, well = ears.hook("refuses", "ChildStarted", priority=5), ears.hook("well", "ChildStarted")
    hub = await product.hub(replicas=1, hooks=[refuses, nobody, well])

    await product.child("lost-letter", hub)
    await ears.once("ChildStarted", "well")

    async def both() -> list[str] | None:
        said = await warnings(product, hub)
        return sorted(said) if len(said) == 2 else None

    first, second = await eventually(both, "two Events")
    assert first.startswith("hook nobody missed 1 ChildStarted event: can't be reached: ")
    assert second == "hook refuses missed 1 ChildStarted event: answered 404 Not Found"
    assert len(ears.received("refuses")) == 1  # 404 is an answer too


async def test_a_hanging_receiver_delays_neither_its_hubs_children_nor_another_hub(
    product: Live, ears: Receiver
) -> None:
    ears.hanging.add("hangs")
    slow = await product.hub(replicas=1, hooks=[ears.hook("hangs", "ChildRegistered", timeoutSeconds=30)])
    other = await product.hub(replicas=1, hooks=[ears.hook("quick", "ChildStarted")])
    await product.child("hung", slow)
    await ears.once("ChildRegistered", "hangs")

    await product.child("beside", slow)
    await product.child("elsewhere", other)

    await ready(product, "hung", "beside", "elsewhere")
    await ears.once("ChildStarted", "quick")
    assert len(ears.received("hangs")) == 1


async def test_hooks_are_registered_and_cancelled_while_children_run(product: Live, ears: Receiver) -> None:
    hub = await product.hub(replicas=1)
    await product.child("before", hub)
    await ready(product, "before")

    await edit(product, hub, hooks=ears.hooks("ChildStarted", "ChildRegistered"))

    await product.child("during", hub)
    await ears.once("ChildStarted", child="during")
    assert ears.received(child="before") == []  # the events before the registration are not sent
    await edit(product, hub, hooks=ears.hooks("ChildRegistered"))
    await product.child("after", hub)
    await ears.once("ChildRegistered", child="after")
    await ready(product, "after")
    assert ears.received(event="ChildStarted", child="after") == []


@pytest.mark.nightly
async def test_a_new_leader_is_sent_and_repeats_no_event(cluster: Cluster, api: Client, tmp_path: Path) -> None:
    async with live(cluster, api, tmp_path) as product, receiver() as ears:
        hub = await product.hub(replicas=1, hooks=ears.hooks(*TOLD))
        await product.child("kept", hub)
        await ears.once("ChildStarted", child="kept")
        ears.forget()

        await product.operator.stop()
        await product.operator.start()
        changed = await ears.once("LeadershipChanged")
        await product.child("new", hub)
        await ears.once("ChildStarted", child="new")

        assert changed["data"]["leader"] == "operator"
        assert ears.summary() == [f"LeadershipChanged {hub}", "ChildRegistered new", "ChildStarted new"]
