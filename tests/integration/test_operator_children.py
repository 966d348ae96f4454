"""Children re-created, duplicated, edited, suspended, pinned; Hubs with static children, re-created, paused."""

from __future__ import annotations

import asyncio
import os
import signal

from operatorworld import World, never_two, started_once, untouched
from processwatch import Run
from settling import settles, stays

from processhub.api.meta import find_condition
from processhub.cluster.kinds import HUBS, PODS

pytest_plugins = ("operatorworld",)
TWO = {"members": {"replicas": 2}}
GUIDED = {**TWO, "distribution": {"strategy": "Guided"}}


async def test_a_re_created_child_waits_until_the_first_has_ended(world: World) -> None:
    await world.hub(**TWO, timeouts={"stopSeconds": 60})
    await world.child("a")
    first = (await world.ready("a"))["a"]

    with world.stopped([first.status.nodes[0].pid]):  # it ends only when the test allows it
        await world.delete_children("a")
        await world.child("a")
        waiting = await world.condition("a", "Placed", "False", "AlreadyStarted")
    second = (await world.ready("a"))["a"]

    assert "still stopping" in waiting.message or "not yet been seen to stop" in waiting.message
    assert second.metadata.uid != first.metadata.uid
    assert second.status.nodes[0].epoch > first.status.nodes[0].epoch
    old, new = world.watch.runs()["a"]
    assert old.ended
    assert new.started >= old.seen, "the second started before the first had ended"
    never_two(world.watch)


async def test_of_two_children_with_one_id_the_second_takes_over_when_the_first_is_deleted(world: World) -> None:
    await world.hub(**TWO)
    await world.child("first", id="one id")
    await world.ready("first")
    await world.child("second", id="one id")

    refused = await world.condition("second", "Accepted", "False", "AlreadyStarted")
    await world.delete_children("first")
    second = (await world.ready("second"))["second"]

    assert refused.message == "the id 'one id' belongs to child/first; started when that is deleted"
    assert second.status.id == "one id"
    runs = world.watch.runs()["one id"]
    assert len(runs) == 2
    never_two(world.watch)


async def test_a_changed_command_restarts_in_place_and_other_fields_restart_nothing(world: World) -> None:
    await world.hub(**TWO)
    await world.child("edited")
    await world.child("other")
    before = await world.running(["edited", "other"])

    await world.edit_child("edited", tags=["eu"], metadata={"k": "v"}, pinned=True)
    await world.condition("edited", "Ready", "True")

    async def attributes_on_record() -> None:
        texts = [item.spec.entries.get("edited", "") for item in await world.slices()]
        assert any("tags=eu" in text and "meta=k:v" in text for text in texts), texts

    await settles(attributes_on_record)
    untouched(before, await world.running(["edited", "other"]))

    await world.edit_child("edited", exec={"command": ["sleep", "99999"]})

    async def restarted() -> Run:
        (run,) = world.watch.live()["edited"]
        assert run.pid != before["edited"].pid
        return run

    run = await settles(restarted)
    after = await world.running(["edited", "other"])
    assert after["edited"].member == before["edited"].member
    assert after["edited"].epoch == run.epoch > before["edited"].epoch
    untouched(before, after, ["other"])
    never_two(world.watch)


async def test_a_rejected_edit_leaves_the_last_accepted_spec_running_and_says_why(world: World) -> None:
    await world.hub(**TWO)
    await world.child("a")
    before = await world.running(["a"])

    await world.edit_child("a", nodes=["hub-1"], exec={"command": ["sleep", "5"]})

    refused = await world.condition("a", "Accepted", "False", "InvalidChildMapping")
    assert refused.message == (
        "spec.nodes is for hubs with distribution strategy Guided, this hub's is ConsistentHashing;"
        " leave nodes out, or change the hub"
    )
    await world.condition("a", "Ready", "True")
    untouched(before, await world.running(["a"]))

    await world.edit_child("a", nodes=None)

    async def taken() -> None:
        after = await world.running(["a"])
        assert after["a"].epoch > before["a"].epoch

    await world.condition("a", "Accepted", "True")
    await settles(taken)
    never_two(world.watch)


async def test_changed_nodes_move_a_guided_child(world: World) -> None:
    await world.hub(**GUIDED)
    await world.child("a", nodes=["hub-0"])
    await world.child("b", nodes=["hub-0"])
    before = await world.running(["a", "b"])
    assert {place.member for place in before.values()} == {"hub-0"}

    await world.edit_child("a", nodes=["hub-1"])

    async def moved_over() -> None:
        after = await world.running(["a", "b"])
        assert after["a"].member == "hub-1"
        untouched(before, after, ["b"])

    await settles(moved_over)

    async def reported() -> None:
        assert "from hub-0 to hub-1: its nodes were changed" in await world.events("a", "Moved")

    await settles(reported)

    await world.edit_child("a", nodes=["hub-7"])

    refused = await world.condition("a", "Accepted", "False", "InvalidChildMapping")
    assert refused.message == "spec.nodes: the hub has no member 'hub-7'; its members are hub-0, hub-1"
    assert (await world.running(["a", "b"]))["a"].member == "hub-1"
    never_two(world.watch)


async def test_a_suspended_child_is_stopped_and_kept_on_record_until_it_is_resumed(world: World) -> None:
    await world.hub(**TWO)
    await world.children(["a", "b"])
    before = await world.running(["a", "b"])

    await world.edit_child("a", suspend=True)

    await world.condition("a", "Ready", "False", "Suspended")
    await world.no_process("a")
    assert (await world.condition("a", "Accepted", "True")).status == "True"

    async def said() -> None:
        assert (await world.get_child("a")).status.state == "Stopped"

    await settles(said)

    await world.edit_child("a", suspend=False)
    after = await world.running(["a", "b"])
    untouched(before, after, ["b"])
    assert after["a"].epoch > before["a"].epoch


async def test_a_suspended_hub_stops_all_its_children_and_keeps_its_members(world: World) -> None:
    await world.hub(**TWO)
    ids = await world.children(f"c{number}" for number in range(6))
    await world.running(ids)

    await world.edit_hub(suspend=True)

    await world.hub_condition("Ready", "False", "Suspended")

    async def all_stopped() -> None:
        assert world.watch.live() == {}
        hub = await world.get_hub()
        assert [member.ready for member in hub.status.members] == [True, True]

    await settles(all_stopped)
    await world.edit_hub(suspend=False)
    await world.running(ids)
    await world.hub_condition("Ready", "True")
    never_two(world.watch)


async def test_suspended_children_resume_where_they_were_although_a_member_joined(world: World) -> None:
    await world.hub(**TWO)
    pinned = await world.children((f"pin{number}" for number in range(16)), pinned=True)
    asleep = await world.children(["c0", "c1"], suspend=True)
    await world.running(pinned)
    await world.edit_hub(members={"replicas": 3})

    async def joined() -> None:
        hub = await world.get_hub()
        assert hub.status.ready_replicas == 3
        assert not any("joining" in key for item in await world.slices() for key in item.metadata.annotations)

    await settles(joined, 60)
    before = await world.running(pinned)
    assert {place.member for place in before.values()} == {"hub-0", "hub-1"}

    await world.edit_child("pin0", suspend=True)

    async def stopped() -> None:
        status = (await world.get_child("pin0")).status
        assert (status.state, status.member, status.nodes[0].pid) == ("Stopped", before["pin0"].member, 0)

    await settles(stopped)
    await world.no_process("pin0")
    await world.edit_hub(suspend=True)

    async def all_stopped() -> None:
        assert world.watch.live() == {}
        hub = await world.get_hub()
        assert hub.status.children.desired == hub.status.children.running == 0
        assert hub.status.registry_size == len(pinned)
        states = {name: (await world.get_child(name)).status.state for name in [*pinned, *asleep]}
        assert set(states.values()) == {"Stopped"}, states

    await settles(all_stopped)
    await world.edit_hub(suspend=False)
    await world.edit_child("pin0", suspend=False)
    after = await world.running(pinned)
    assert {child_id: place.member for child_id, place in after.items()} == {
        child_id: place.member for child_id, place in before.items()
    }
    assert all(after[child_id].epoch > before[child_id].epoch for child_id in pinned)
    never_two(world.watch)


async def test_a_pinned_child_waits_for_its_member_while_others_move(world: World) -> None:
    await world.hub(**TWO, migration={"onRestart": "Move"}, distribution={"rebalance": {"onJoin": False}})
    ids = [f"c{number}" for number in range(6)]
    await world.children(ids)
    await world.children(["pin0", "pin1", "pin2", "pin3"], pinned=True)
    everything = [*ids, "pin0", "pin1", "pin2", "pin3"]
    before = await world.running(everything)
    member = before["pin0"].member
    agent = await world.pod(member)

    await world.faults.pause_pod(world.pod_key(member))
    try:
        waiting = await world.condition("pin0", "Placed", "False", "MemberUnavailable")
        assert waiting.message.startswith(f"member {member} is not ready; started when it is")
    finally:
        await world.faults.resume_pod(world.pod_key(member))

    async def back() -> None:
        after = await world.running(everything)
        for child_id, place in before.items():
            pinned_or_other = child_id.startswith("pin") or place.member != member
            assert (after[child_id].member == place.member) is pinned_or_other, (child_id, place, after[child_id])

    await settles(back)
    assert (await world.pod(member)).metadata.uid == agent.metadata.uid
    await world.condition("pin0", "Placed", "True")


async def test_static_children_follow_the_hubs_spec(world: World) -> None:
    def entry(child_id: str, seconds: str = "100000") -> dict[str, object]:
        return {"id": child_id, "exec": {"command": ["sleep", seconds]}}

    await world.hub(**TWO, children=[entry("kept"), entry("changed"), entry("tenant/42")])
    before = await world.running(["kept", "changed", "tenant/42"])

    await world.edit_hub(children=[entry("kept"), entry("changed", "99999"), entry("added")])

    after = await world.running(["kept", "changed", "added"])

    async def changed() -> None:
        now = await world.running(["kept", "changed", "added"])
        assert now["changed"].epoch > before["changed"].epoch
        untouched(before, now, ["kept"])

    await settles(changed)
    assert after["kept"] == before["kept"]
    kept = await world.get_child("kept")
    assert [(owner.kind, owner.name) for owner in kept.metadata.owner_references] == [("Hub", "hub")]

    await world.delete_children("kept")

    async def made_again() -> None:
        again = await world.get_child("kept")
        assert again.metadata.uid != kept.metadata.uid

    await settles(made_again)
    await world.running(["kept", "changed", "added"])
    never_two(world.watch)


async def test_a_re_created_hub_runs_its_children_again(world: World) -> None:
    await world.hub(**TWO)
    ids = await world.children(["a", "b", "c"])
    before = await world.running(ids)
    first = await world.get_hub()
    # What this leader found of the first hub when it took over must not apply to the second.
    holder = await world.operators.holder()
    await world.api.delete(PODS, world.operators.namespace, holder.rpartition("_")[0])
    await world.operators.leader_after(holder)

    await world.api.delete(HUBS, world.namespace, "hub")
    await world.hub(**TWO)
    after = await world.running(ids)

    second = await world.get_hub()
    assert second.metadata.uid != first.metadata.uid
    assert min(place.epoch for place in after.values()) > max(place.epoch for place in before.values())
    for item in await world.slices():
        assert item.spec.hub_uid == second.metadata.uid
    never_two(world.watch)


async def test_epochs_rise_when_a_hub_is_re_created(world: World) -> None:
    await world.hub(members={"replicas": 1})
    ids = await world.children(["a", "b", "c"])
    before = await world.running(ids)

    await world.api.delete(HUBS, world.namespace, "hub")
    await world.hub(members={"replicas": 1})
    after = await world.running(ids)

    assert min(place.epoch for place in after.values()) > max(place.epoch for place in before.values())


async def test_the_operator_changes_nothing_of_a_paused_hub_while_its_members_restart_children(world: World) -> None:
    await world.hub(**TWO)
    await world.children(["a", "b"])
    before = await world.running(["a", "b"])
    await world.edit_hub(annotations={"processhub.dev/paused": "true"})
    (said,) = await world.told("hub", "Paused")
    assert "the annotation processhub.dev/paused is true: until it is removed, nothing is placed or moved" in said

    await world.child("late")
    await world.delete_children("b")
    os.kill(before["a"].pid, signal.SIGKILL)

    async def restarted() -> None:
        (run,) = world.watch.live()["a"]
        assert run.pid != before["a"].pid

    await settles(restarted)

    async def left_alone() -> None:
        live = world.watch.live()
        assert set(live) == {"a", "b"}
        assert find_condition((await world.get_child("late")).status.conditions, "Ready") is None

    await stays(left_alone, 2)
    await world.edit_hub(annotations={"processhub.dev/paused": None})
    after = await world.running(["a", "late"])
    assert (after["a"].member, after["a"].epoch) == (before["a"].member, before["a"].epoch)
    assert await world.told("hub", "Resumed") == ["it is reconciled again"]


async def test_hubs_of_one_namespace_are_independent(world: World) -> None:
    static = {"children": [{"id": "static", "exec": {"command": ["sleep", "99999"]}}]}
    await world.hub("one", **TWO, **static, ready=False)
    await world.hub("two", **TWO, **static, ready=False)
    await world.children(["a", "b", "c"], "one")
    await world.child("a-of-two", "two", id="a", command=["sleep", "99999"])
    one = await world.running(["a", "b", "c", "static"], "one")
    two = await world.running(["a", "static"], "two")

    assert {place.member.rpartition("-")[0] for place in one.values()} == {"one"}
    assert {place.member.rpartition("-")[0] for place in two.values()} == {"two"}

    await world.api.delete(HUBS, world.namespace, "one")

    await world.condition("a", "Accepted", "False", "HubNotFound")
    await world.no_process("a", "one", within=120)  # garbage collection discovers new CRDs every 30 s
    untouched(two, await world.running(["a", "static"], "two"))
    started_once(world.watch.runs("two"))


async def test_children_rejected_during_many_starts_are_reported(world: World) -> None:
    """A child that arrives during a round is not in that round's observation."""
    await world.hub()
    good = [f"good-{number}" for number in range(150)]
    bad = [f"bad-{number}" for number in range(50)]

    await asyncio.gather(world.children(good), world.children(bad, nodes=["hub-0"]))

    for name in bad:
        refused = await world.condition(name, "Accepted", "False", "InvalidChildMapping")
        assert "spec.nodes" in refused.message
    await world.running(good, within=90)


async def test_children_that_a_hubs_edit_makes_unacceptable_are_reported(world: World) -> None:
    await world.hub(distribution={"strategy": "Guided"})
    await world.child("a", nodes=["hub-0"])
    before = await world.ready("a")

    await world.edit_hub(distribution={"strategy": "ConsistentHashing"})

    await world.condition("a", "Accepted", "False", "InvalidChildMapping")
    assert (await world.get_child("a")).status.nodes == before["a"].status.nodes, "the last good one runs on"
    await world.hub_condition("Balanced", "True")
    assert (await world.get_child("a")).status.nodes == before["a"].status.nodes, "and stays where it is"
