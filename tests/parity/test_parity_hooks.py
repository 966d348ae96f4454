"""The counterparts of ProcessHub's hooks: events that a webhook receives."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from aiohttp import web
from hookreceiver import Json, Receiver
from livehub import COUNTER, WAIT, Live, places, sleepers, started
from sharedhubs import at_rest, edited, kill_member, without_quorum
from waiting import until

from localcluster.faults import Faults
from processhub import Hub


def kinds(ears: Receiver, **data: str) -> list[str]:
    """Return the kinds of the events with these data that hub ``hot`` sent, in order."""
    return [event["type"].rpartition(".")[2] for event in ears.received("hot", **data)]


def others(hub: Hub, members: dict[str, str]) -> dict[str, str]:
    """Return, for each child, a member other than its own."""
    return {child_id: next(name for name in hub.nodes() if name != member) for child_id, member in members.items()}


@pytest_asyncio.fixture(scope="module")
async def scaled(product: Live, hot: Hub, ears: Receiver) -> list[str]:
    """The events about a third member that joined and left."""
    async with edited(product, hot, members={"replicas": 3}):
        await ears.once("MemberJoined", "hot", member="hot-2")
        await at_rest(product, hot, 3)
    await ears.once("MemberLeft", "hot", member="hot-2")
    return kinds(ears, member="hot-2")


async def clear_events(hot: Hub, ears: Receiver, child_id: str) -> None:
    """Forget all events so far. Events arrive in order, so all earlier events of this child have arrived."""
    await started(hot, sleepers(child_id))
    await ears.once("ChildStarted", "hot", child=child_id)
    ears.forget()


async def on_hot_1(hot: Hub, prefix: str) -> list[str]:
    """Return the new children that the hash places on this member."""
    members = await started(hot, sleepers(*(f"{prefix}-{number}" for number in range(6))))
    there = [child_id for child_id, member in members.items() if member == "hot-1"]
    assert there
    return there


async def back_on_hot_1(product: Live, hot: Hub, ids: list[str]) -> None:
    await until(lambda: {places(hot).get(child_id) for child_id in ids} == {"hot-1"}, f"{ids} back")
    await at_rest(product, hot)


@pytest_asyncio.fixture(scope="module")
async def lost(product: Live, hot: Hub, ears: Receiver, faults: Faults) -> list[str]:
    """The children of a member that was killed, which ran elsewhere until it returned."""
    ids = await on_hot_1(hot, "lost")
    await clear_events(hot, ears, "before-the-loss")

    await kill_member(product, faults, "hot-1")

    await ears.once("RecoveryDone", "hot", member="hot-1")
    await back_on_hot_1(product, hot, ids)
    return ids


@asynccontextmanager
async def drained(product: Live, hot: Hub, ears: Receiver, prefix: str) -> AsyncIterator[int]:
    """Member hot-1 was drained and filled again, from a cleared receiver; the number of its children."""
    ids = await on_hot_1(hot, prefix)
    await clear_events(hot, ears, f"before-{prefix}")
    count = list(places(hot).values()).count("hot-1")
    await hot.drain("hot-1", wait=True, timeout=WAIT)
    try:
        yield count
    finally:
        await hot.undrain("hot-1")
        await back_on_hot_1(product, hot, ids)


@pytest.mark.row("Hooks: pre_cluster_join, post_cluster_join")
async def test_a_member_that_joins_is_an_event(scaled: list[str]) -> None:
    assert [kind for kind in scaled if kind in ("MemberJoining", "MemberJoined")] == ["MemberJoining", "MemberJoined"]


@pytest.mark.row("Hooks: pre_cluster_leave, post_cluster_leave")
async def test_a_member_that_leaves_is_an_event(scaled: list[str]) -> None:
    assert [kind for kind in scaled if kind in ("MemberLeaving", "MemberLeft")] == ["MemberLeaving", "MemberLeft"]


@pytest.mark.row("Hooks: coordinator_shutdown")
async def test_a_new_leader_is_an_event(product: Live, hot: Hub, ears: Receiver) -> None:
    await product.operator.stop()
    await product.operator.start()

    changed = await ears.once("LeadershipChanged", "hot")
    assert changed["data"]["leader"] == "operator"
    await at_rest(product, hot)


@pytest.mark.row("Hooks: registry_pid_inserted")
async def test_a_child_that_is_recorded_is_an_event(hot: Hub, ears: Receiver) -> None:
    member = (await started(hot, sleepers("recorded", tags=["eu"])))["recorded"]

    registered = await ears.once("ChildRegistered", "hot", child="recorded")
    assert (registered["data"]["member"], registered["data"]["tags"]) == (member, ["eu"])


@pytest.mark.row("Hooks: registry_pid_removed")
async def test_a_child_that_is_removed_also_with_its_member_is_an_event(
    hot: Hub, ears: Receiver, lost: list[str]
) -> None:
    await started(hot, sleepers("removed"))
    await ears.once("ChildRegistered", "hot", child="removed")
    await hot.stop_children(["removed"], wait=True)

    await ears.once("ChildUnregistered", "hot", child="removed")
    for child_id in lost:
        await ears.once("ChildUnregistered", "hot", child=child_id, member="hot-1", reason="MemberLost")


@pytest.mark.row("Hooks: child_process_pid_update")
async def test_a_new_process_of_a_child_is_an_event(hot: Hub, ears: Receiver) -> None:
    await started(hot, sleepers("crashes"))
    pid = hot.get_pid("crashes") or pytest.fail("no process")
    await ears.once("ChildStarted", "hot", child="crashes", pid=pid)

    os.kill(pid, signal.SIGKILL)

    updated = await ears.once("ChildPidUpdated", "hot", child="crashes")
    assert updated["data"]["previousPid"] == pid
    assert updated["data"]["pid"] != pid


@pytest.mark.row("Hooks: pre_nodes_redistribution, post_nodes_redistribution")
async def test_redistributed_children_are_events(product: Live, hot: Hub, ears: Receiver) -> None:
    async with drained(product, hot, ears, "given") as count:
        done = await ears.once("RedistributionDone", "hot")

        assert done["data"]["moves"] == count
        told = kinds(ears)
        assert told.index("PreRedistribution") < told.index("ChildMoved") < told.index("RedistributionDone")


@pytest.mark.row("Hooks: children_migrated, forwarded_migration")
async def test_a_moved_child_is_an_event(hot: Hub, ears: Receiver) -> None:
    first = await started(hot, sleepers("moved"))
    target = others(hot, first)["moved"]

    await hot.migrate_child("moved", target, wait=True, timeout=WAIT)

    await ears.once("ChildMoved", "hot", child="moved", to=target, **{"from": first["moved"]})


@pytest.mark.row("Hooks: pre_children_start, post_children_start")
async def test_a_child_that_starts_is_an_event(hot: Hub, ears: Receiver) -> None:
    await started(hot, sleepers("starts"))

    await ears.once("ChildStarted", "hot", child="starts", pid=hot.get_pid("starts"))
    assert kinds(ears, child="starts") == ["PreChildStart", "ChildRegistered", "ChildStarted"]


@pytest.mark.row("Hooks: child_data_alter")
async def test_a_verdict_changes_or_denies_a_child(hot: Hub, ears: Receiver) -> None:
    def judge(event: Json) -> web.Response:
        answer = {"tags": ["altered"]} if event["subject"] == "good" else {"allow": False, "reason": "not this one"}
        return web.json_response(answer)

    ears.answers["judge"] = judge
    await hot.register_hook_handlers([ears.hook("judge", "PreChildStart", priority=1)])
    try:
        result = await hot.start_children(sleepers("good", "bad"), wait=True, timeout=WAIT)
    finally:
        await hot.cancel_hook_handlers(["judge"])

    assert set(hot.tag_query("altered")) == result.started.keys() == {"good"}
    assert result.errors["bad"].reason == "HookDenied"
    await hot.stop_children(["bad"])


@pytest.mark.row("Hooks: handover delivered")
async def test_a_handover_is_an_event(hot: Hub, ears: Receiver) -> None:
    target = others(hot, await started(hot, [{"id": "carried", "python": COUNTER}]))["carried"]

    await hot.migrate_child("carried", target, wait=True, timeout=WAIT)

    delivered = await ears.once("HandoverDelivered", "hot", child="carried")
    assert delivered["data"]["member"] == target


@pytest.mark.row("Hooks: migration deferred")
async def test_a_deferred_move_is_an_event(hot: Hub, ears: Receiver) -> None:
    homebody = {"id": "homebody", "python": {"target": "sample_actors:Mover", "args": {"ready": [False]}}}
    target = others(hot, await started(hot, [homebody]))["homebody"]

    await hot.migrate_child("homebody", target)

    await ears.once("MigrationDeferred", "hot", child="homebody", reason="Kept")
    await hot.stop_children(["homebody"], wait=True)


@pytest.mark.row("Hooks: drain completed")
async def test_a_drained_member_is_an_event(product: Live, hot: Hub, ears: Receiver) -> None:
    async with drained(product, hot, ears, "emptied") as count:
        completed = await ears.once("DrainCompleted", "hot", member="hot-1")

        assert completed["data"]["children"] == count


@pytest.mark.row("Hooks: (none)")
async def test_events_without_a_counterpart_in_processhub_are_sent(
    product: Live, hot: Hub, ears: Receiver, lost: list[str]
) -> None:
    """RecoveryDone was sent before the fixture ``lost`` was set up."""
    await started(hot, sleepers("leaves"))
    await ears.once("ChildStarted", "hot", child="leaves")
    await hot.stop_children(["leaves"], wait=True)
    await ears.once("ChildStopped", "hot", child="leaves")
    assert kinds(ears, child="leaves")[-3:] == ["PreChildStop", "ChildUnregistered", "ChildStopped"]

    async with without_quorum(product, hot):
        await ears.once("PartitionEntered", "hot")
        await ears.once("ChildStopped", "hot", child=lost[0], reason="Partitioned")
    await ears.once("PartitionHealed", "hot")
    await until(lambda: all(map(hot.is_alive, lost)), "all back")
