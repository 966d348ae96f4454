"""Members that crash, are replaced, stand still or are cut off: the effects on their children, and on no others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime

import aiohttp
import pytest
from hubcalls import Caller
from operatorworld import SHORT, Place, World, members_of, moved, never_two, untouched
from settling import settles

from processhub.api.kubernetes import Lease
from processhub.cluster.kinds import LEASES, PODS, untyped

pytest_plugins = ("operatorworld",)
IDS = [f"c{number}" for number in range(12)]
LEASE_SECONDS = SHORT["leaseSeconds"]
BUDGETS = untyped("policy/v1", "poddisruptionbudgets")
ACCOUNTS = untyped("v1", "serviceaccounts")
ROLE_BINDINGS = untyped("rbac.authorization.k8s.io/v1", "rolebindings")
STAY = {"distribution": {"rebalance": {"onJoin": False}}}


async def started_hub(world: World, **spec: object) -> dict[str, Place]:
    """Create a hub of three members with running children; return where they run."""
    await world.hub(**spec)
    await world.children(IDS)
    return await world.running(IDS)


def on(places: Mapping[str, Place], member: str) -> set[str]:
    """Return the ids on this member."""
    return {child_id for child_id, place in places.items() if place.member == member}


def crowded(places: Mapping[str, Place]) -> str:
    """Return the member with the most children."""
    return members_of(places).most_common(1)[0][0]


async def back_in_place(world: World, before: Mapping[str, Place], member: str) -> None:
    """Wait until all run where they did, with their old epochs; only this member's may have been started again."""
    victims = on(before, member)

    async def check() -> None:
        after = await world.running(IDS)
        assert moved(before, after) == set()
        assert {child_id for child_id in IDS if after[child_id].pid != before[child_id].pid} == victims
        assert {child_id: place.epoch for child_id, place in after.items()} == {
            child_id: place.epoch for child_id, place in before.items()
        }
        untouched(before, after, before.keys() - victims)

    await settles(check, within=60)
    never_two(world.watch)


async def test_with_hold_the_children_of_a_killed_agent_restart_in_place(world: World) -> None:
    before = await started_hub(world)
    member = crowded(before)

    await world.kill_agent(member)

    await back_in_place(world, before, member)
    runs = world.watch.runs()
    assert {child_id: len(runs[child_id]) for child_id in IDS} == {
        child_id: 2 if child_id in on(before, member) else 1 for child_id in IDS
    }


async def test_with_move_the_children_of_a_killed_agent_run_on_survivors_until_it_returns(world: World) -> None:
    before = await started_hub(world, migration={"onRestart": "Move"})
    member = crowded(before)
    victims = on(before, member)

    await world.kill_agent(member)

    async def elsewhere() -> None:
        # Each of them was started on a survivor at some time; it may already be on its way back.
        runs = world.watch.runs()
        assert {child_id for child_id in victims if {run.member for run in runs[child_id]} - {member}} == victims

    await settles(elsewhere)
    await world.hub_ready()

    async def share_taken_back() -> None:
        hub = await world.get_hub()
        assert [c.status for c in hub.status.conditions if c.type == "Balanced"] == ["True"]
        after = await world.running(IDS)
        untouched(before, after, before.keys() - victims)
        assert on(after, member), "it took no share"
        assert on(after, member) <= victims

    await settles(share_taken_back)
    never_two(world.watch)

    async def said() -> None:
        lost = await world.events("hub", "MemberLost")
        assert [message for message in lost if message.startswith(f"member {member} is lost")], lost

    await settles(said)


@pytest.mark.parametrize("how", ["delete", pytest.param("force delete", id="force delete", marks=pytest.mark.nightly)])
async def test_with_hold_the_children_of_a_deleted_pod_restart_in_place(world: World, how: str) -> None:
    before = await started_hub(world)
    member = crowded(before)
    options = ["--grace-period=0", "--force"] if how == "force delete" else []

    await world.kubectl("delete", "pod", member, "--wait=false", *options)

    await back_in_place(world, before, member)


async def test_with_move_no_child_of_a_force_deleted_pod_runs_twice(world: World) -> None:
    before = await started_hub(world, migration={"onRestart": "Move"}, **STAY)
    member = crowded(before)
    victims = on(before, member)
    uid = (await world.pod(member)).metadata.uid

    await world.kubectl("delete", "pod", member, "--wait=false", "--grace-period=0", "--force")

    async def moved_away() -> None:
        assert (await world.pod(member)).metadata.uid != uid
        after = await world.running(IDS)
        assert moved(before, after) == victims
        untouched(before, after, before.keys() - victims)

    await settles(moved_away, within=60)
    never_two(world.watch)


@pytest.mark.parametrize(
    "what", [("label", "lease", "processhub.dev/hub-"), ("delete", "lease")], ids=["label off", "deleted"]
)
async def test_a_deleted_lease_is_no_proof_that_its_member_ended_and_is_restored(
    world: World, what: tuple[str, ...]
) -> None:
    before = await started_hub(world, migration={"onRestart": "Move"}, **STAY)
    verb, kind, *more = what
    name = f"hub.{crowded(before)}"
    held = await world.api.get(LEASES, world.namespace, name)

    await world.kubectl(verb, kind, name, *more)

    lease = await came_back(world, held)
    assert (lease.metadata.uid == held.metadata.uid) == (verb == "label")
    after = await world.running(IDS)
    assert moved(before, after) == set()
    untouched(before, after, before.keys())
    never_two(world.watch)


@pytest.mark.parametrize("on_restart", [pytest.param("Hold", id="Hold", marks=pytest.mark.nightly), "Move"])
async def test_a_lease_deleted_while_no_operator_runs_is_no_proof_that_its_member_ended(
    world: World, on_restart: str
) -> None:
    before = await started_hub(world, migration={"onRestart": on_restart}, **STAY)
    member = crowded(before)
    held = await world.api.get(LEASES, world.namespace, f"hub.{member}")
    await world.operators.scale(0)
    await world.kubectl("delete", "lease", held.metadata.name)
    await world.operators.scale(2)

    await came_back(world, held)
    after = await world.running(IDS)
    assert moved(before, after) == set()
    untouched(before, after, before.keys())
    never_two(world.watch)
    assert not await world.events("hub", "MemberLost")


async def came_back(world: World, held: Lease) -> Lease:
    """Wait until the member's Lease is as it was and the same holder renews it."""

    async def renewed() -> Lease:
        lease = await world.api.get(LEASES, world.namespace, held.metadata.name)
        assert lease.metadata.labels == held.metadata.labels
        assert lease.spec.holder_identity == held.spec.holder_identity
        assert lease.spec.renew_time not in (None, held.spec.renew_time)
        return lease

    return await settles(renewed)


async def test_children_of_a_stopped_member_move_when_its_lease_has_expired(world: World) -> None:
    before = await started_hub(world, **STAY)
    member = crowded(before)
    victims = on(before, member)

    await world.pause_agent(member)
    renewed = (await world.api.get(LEASES, world.namespace, f"hub.{member}")).spec.renew_time
    assert renewed is not None
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.time()

    async def given_away() -> None:
        record = await world.record()
        assert {len(places) for places in record.values()} == {1}
        after = {child_id: places[0] for child_id, places in record.items()}
        assert moved(before, after) == victims
        assert {place.state for place in after.values()} == {"Running"}

    await settles(given_away)
    replacements = [run for child_id in victims for run in world.watch.runs()[child_id] if run.member != member]
    ran_out = datetime.fromisoformat(renewed).timestamp() + since_boot + LEASE_SECONDS + 1
    assert min(run.started for run in replacements) >= ran_out - 0.1
    assert len(replacements) == len(victims), "each is started once"

    await world.faults.resume_pod(world.pod_key(member))

    async def one_copy() -> None:
        after = await world.running(IDS)
        assert moved(before, after) == victims
        untouched(before, after, before.keys() - victims)

    await settles(one_copy)
    await world.hub_ready()


async def test_children_on_a_cut_off_node_keep_running_and_have_one_copy_when_it_returns(world: World) -> None:
    before = await started_hub(world, **STAY)
    member, node = await world.member_without_operator()
    victims = on(before, member)
    assert victims

    await world.cut_node(node)

    async def second_copies() -> None:
        live = world.watch.live()
        for child_id in victims:
            assert sorted({run.member == member for run in live[child_id]}) == [False, True], live[child_id]

    await settles(second_copies)
    originals = {child_id: before[child_id].pid for child_id in victims}
    live = world.watch.live()
    assert {child_id: live[child_id][0].pid for child_id in victims} == originals, "Divergence: they run on"

    await world.faults.heal_node(node)

    async def one_copy() -> None:
        after = await world.running(IDS)
        assert moved(before, after) == victims
        untouched(before, after, before.keys() - victims)

    await settles(one_copy)
    await world.hub_ready()


async def test_children_of_a_member_that_does_not_return_within_hold_seconds_move(world: World) -> None:
    before = await started_hub(world, migration={"onRestart": "Hold", "holdSeconds": 4}, **STAY)
    victims = on(before, "hub-2")
    assert victims

    changed = time.clock_gettime(time.CLOCK_BOOTTIME)
    # A rollout starts with the last member, whose new pod fits on no node.
    await world.edit_hub(members={"template": {"spec": {"nodeSelector": {"nowhere": "true"}}}})

    async def lost() -> None:
        after = await world.running(IDS)
        assert moved(before, after) == victims
        untouched(before, after, before.keys() - victims)

    await settles(lost)
    runs = world.watch.runs()
    assert min(run.started for child_id in victims for run in runs[child_id][1:]) - changed >= 4
    never_two(world.watch)


async def test_children_of_an_evicted_member_are_handed_over_without_waiting(world: World) -> None:
    before = await started_hub(world, migration={"onRestart": "Hold", "holdSeconds": 600}, **STAY)
    member = crowded(before)
    victims = on(before, member)
    await world.cordon((await world.pod(member)).spec.node_name)

    async def evicted() -> None:
        """Evict it as soon as its budget allows that; until the budget is up to date, the answer is 429."""
        (budget,), _ = await world.api.list(BUDGETS, world.namespace)
        assert budget["status"]["disruptionsAllowed"] > 0  # type: ignore[index]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": member}}
        await world.api.raw("POST", PODS.path(world.namespace, member, "eviction"), body=eviction)

    await settles(evicted)

    async def handed_over() -> None:
        after = await world.running(IDS)
        assert moved(before, after) == victims
        untouched(before, after, before.keys() - victims)

    await settles(handed_over)
    never_two(world.watch)


async def test_a_rollout_waits_for_the_children_of_each_member_and_none_moves(world: World) -> None:
    before = await started_hub(world)
    uids = {member: (await world.pod(member)).metadata.uid for member in members_of(before)}
    assert len(uids) == 3

    await world.edit_hub(members={"template": {"metadata": {"annotations": {"release": "2"}}}})

    async def rolled() -> None:
        live = world.watch.live()
        down = {before[child_id].member for child_id in IDS if child_id not in live}
        # Not an AssertionError, which would be retried until the deadline.
        if len(down) > 1:
            raise RuntimeError(f"children of {down} are down at the same time")
        for member, uid in uids.items():
            assert (await world.pod(member)).metadata.uid != uid

    await settles(rolled, within=90, every=0.05)
    await world.hub_ready()
    after = await world.running(IDS)
    assert moved(before, after) == set()
    assert {child_id: place.epoch for child_id, place in after.items()} == {
        child_id: place.epoch for child_id, place in before.items()
    }
    assert {len(runs) for runs in world.watch.runs().values()} == {2}
    never_two(world.watch)


async def test_all_children_run_again_after_all_members_were_killed_at_once(world: World) -> None:
    before = await started_hub(world)

    async with asyncio.TaskGroup() as group:
        for member in members_of(before):
            group.create_task(world.kill_agent(member))

    async def again() -> None:
        after = await world.running(IDS)
        assert all(after[child_id].pid != before[child_id].pid for child_id in IDS)
        assert moved(before, after) == set()

    await settles(again, within=60)
    never_two(world.watch)


async def test_members_that_crash_because_of_their_template_are_replaced_when_it_is_corrected(world: World) -> None:
    crashing = {"name": "migrate", "image": "any", "command": ["false"]}
    members = {"replicas": 2, "template": {"spec": {"initContainers": [crashing]}}}
    await world.hub(ready=False, members=members)
    await world.child("waits")

    async def crashes() -> None:
        for member in ("hub-0", "hub-1"):
            statuses = (await world.pod(member)).status.init_container_statuses
            assert any(status.restart_count for status in statuses)

    await settles(crashes)
    await world.edit_hub(members={"template": None})

    await world.hub_ready(members=2)
    await world.ready("waits")


@pytest.mark.nightly
async def test_the_children_of_a_dead_node_run_elsewhere_while_its_pod_cannot_go(world: World) -> None:
    before = await started_hub(world, **STAY)
    member, node = await world.member_without_operator()
    victims = on(before, member)
    assert victims
    uid = (await world.pod(member)).metadata.uid

    await world.kill_node(node)
    await world.kubectl("delete", "pod", member, "--wait=false")

    async def elsewhere() -> None:
        after = await world.running(IDS)
        assert moved(before, after) == victims
        untouched(before, after, before.keys() - victims)

    await settles(elsewhere)
    pod = await world.pod(member)
    assert pod.metadata.uid == uid, "a StatefulSet's pod goes only when its kubelet says so"
    assert pod.metadata.deletion_timestamp is not None

    await world.faults.heal_node(node)

    async def replaced() -> None:
        assert (await world.pod(member)).metadata.uid != uid

    await settles(replaced, within=60)
    await world.hub_ready()
    untouched(before, await world.running(IDS), before.keys() - victims)
    never_two(world.watch)


async def test_members_are_rolled_out_from_one_account_and_port_to_others(world: World) -> None:
    """Each is replaced once: members that wait for their turn keep the rights of their old account."""
    for name in ("before", "after"):
        account = {"metadata": {"name": name}, "automountServiceAccountToken": False}
        await world.api.create(ACCOUNTS, world.namespace, account)
    await world.hub(members={"replicas": 2, "serviceAccount": {"name": "before"}, "port": 8081})
    await world.children(IDS)
    await world.child("counter", python={"target": "processhub.examples:Counter"})
    before = await world.ready(*IDS, "counter")
    assert await subjects(world) == ["processhub-hub", "before"]
    await all_answer(world, 8081)

    await world.edit_hub(members={"serviceAccount": {"name": "after"}, "port": 9090})

    async def rolled() -> None:
        pods = [await world.pod(f"hub-{ordinal}") for ordinal in range(2)]
        assert {pod.spec.service_account_name for pod in pods} == {"after"}
        assert await subjects(world) == ["processhub-hub", "after"]

    await settles(rolled, within=90)
    await world.hub_ready()
    await all_answer(world, 9090)
    after = await world.ready(*IDS, "counter")
    assert {name: child.status.member for name, child in after.items()} == {
        name: child.status.member for name, child in before.items()
    }
    runs = world.watch.runs()
    assert {child_id: len(runs[child_id]) for child_id in IDS} == dict.fromkeys(IDS, 2)
    never_two(world.watch)


async def subjects(world: World) -> list[str]:
    """Return the accounts with the rights of the hub's members."""
    binding = await world.api.get(ROLE_BINDINGS, world.namespace, "processhub-hub")
    return [each["name"] for each in binding["subjects"]]


async def all_answer(world: World, port: int) -> None:
    """Wait until every member answers a call to the one child, on this port."""
    token = (await world.kubectl("create", "token", "default", "--audience=processhub")).strip()

    async def check() -> None:
        members = (await world.get_hub()).status.members
        assert [member.port for member in members] == [port, port]
        async with Caller(token) as caller:
            for member in members:
                url = f"http://{member.pod_ip}:{port}/v1/children/counter/call"
                try:
                    reply = await caller.send("POST", url, json={"op": "get"})
                except aiohttp.ClientError as error:  # the Hub's status may still name a pod that has ended
                    raise AssertionError(f"{member.name}: {error}") from error
                assert reply.status == 200, reply

    await settles(check)
