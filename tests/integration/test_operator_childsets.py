"""ChildSets at work: applied, scaled, listed, in conflict, rolled out, deleted, and taken over by another leader."""

from __future__ import annotations

import asyncio
from typing import Any

import commandforks
import pytest
from operatorworld import World, members_of, moved, never_two, started_once, untouched
from settling import settles

from localcluster.layout import CHECKOUT
from processhub.api.childset import ChildSet
from processhub.api.meta import API_VERSION, find_condition
from processhub.cluster.kinds import CHILD_SETS, CHILDREN, PODS

pytest_plugins = ("operatorworld",)
TWO = {"members": {"replicas": 2}}
SLEEP = ["sleep", "100000"]
LATE_SECONDS = 20.0  # of an end by ttlSeconds on a machine whose cores are all busy


def ids(name: str, replicas: int) -> list[str]:
    return [f"{name}-{number}" for number in range(replicas)]


async def child_set(world: World, name: str = "set", *, command: list[str] | None = None, **spec: Any) -> ChildSet:
    template = spec.pop("template", {"exec": {"command": command or SLEEP}})
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "ChildSet",
        "metadata": {"name": name},
        "spec": {"hub": "hub", "template": template, **spec},
    }
    return await world.api.create(CHILD_SETS, world.namespace, manifest)


async def told(world: World, name: str, kind: str, status: str, reason: str = "", message: str = "") -> ChildSet:
    """Return the ChildSet once its condition has this status and reason for the current generation."""

    async def check() -> ChildSet:
        item = await world.api.get(CHILD_SETS, world.namespace, name)
        assert item.status.observed_generation == item.metadata.generation, item.status
        found = find_condition(item.status.conditions, kind)
        assert found is not None, item.status
        assert (found.status, found.reason if reason else "") == (status, reason), item.status
        assert message in found.message, item.status
        return item

    return await settles(check)


async def test_a_set_starts_scales_and_ends_without_child_objects(world: World) -> None:
    await world.hub(**TWO)
    await child_set(world, replicas=20)

    item = await told(world, "set", "Ready", "True", "Started", "20 of 20 children running")
    first = await world.running(ids("set", 20))
    assert (item.status.desired, item.status.running, item.status.pending, item.status.failed) == (20, 20, 0, 0)
    assert min(members_of(first).values()) > 0
    assert len({place.uid for place in first.values()}) == 1

    await world.kubectl("scale", "childset/set", "--replicas=30")
    second = await world.running(ids("set", 30))
    untouched(first, second)
    await told(world, "set", "Ready", "True", "Started", "30 of 30")

    await world.kubectl("scale", "childset/set", "--replicas=5")
    third = await world.running(ids("set", 5))
    untouched(second, third, third)
    assert (await told(world, "set", "Ready", "True", "Started")).status.desired == 5

    await world.kubectl("scale", "childset/set", "--replicas=6")
    await world.running(ids("set", 6))
    assert await world.kubectl("get", "children") == ""

    async def counted() -> None:
        hub = await world.get_hub()
        assert hub.status.summary is not None
        assert hub.status.summary.children == "6/6"

    await settles(counted)
    assert len(await world.events("set", "Placed")) < 10
    await world.kubectl("delete", "childset", "set")
    assert await world.running([]) == {}
    never_two(world.watch)


async def test_a_set_follows_its_list_of_ids_and_records_their_attributes(world: World) -> None:
    await world.hub(**TWO)
    template = {"exec": {"command": SLEEP}, "tags": ["eu"], "metadata": {"plan": "gold"}}
    await child_set(world, ids=["tenant/ada", "größe"], template=template)
    before = await world.running(["tenant/ada", "größe"])
    texts = {child_id: text for item in await world.slices() for child_id, text in item.spec.entries.items()}
    assert "tags=eu meta=plan:gold" in texts["tenant/ada"]

    await world.kubectl("patch", "childset", "set", "--type=merge", "-p", '{"spec": {"ids": ["tenant/bob", "größe"]}}')

    after = await world.running(["tenant/bob", "größe"])
    untouched(before, after, ["größe"])
    await world.kubectl("patch", "childset", "set", "--type=merge", "-p", '{"spec": {"template": {"suspend": true}}}')
    for child_id in after:
        await world.no_process(child_id)
    assert (await told(world, "set", "Ready", "False", "Suspended")).status.desired == 0
    await world.kubectl("patch", "childset", "set", "--type=merge", "-p", '{"spec": {"template": {"suspend": null}}}')
    resumed = await world.running(["tenant/bob", "größe"])
    assert {child_id: place.member for child_id, place in resumed.items()} == {
        child_id: place.member for child_id, place in after.items()
    }
    never_two(world.watch)


async def test_an_id_has_one_owner_which_other_sets_name(world: World) -> None:
    await world.hub(**TWO)
    await world.child("set-1")
    await world.ready("set-1")
    before = await world.running(["set-1"])

    await child_set(world, replicas=3)
    both = await world.running(ids("set", 3))
    untouched(before, both, before)
    message = "1 of 3 ids belongs to another: set-1 (child/set-1); started when that is deleted"

    async def counted() -> None:
        item = await told(world, "set", "Ready", "False", "AlreadyStarted", message)
        assert (item.status.running, item.status.pending) == (2, 1)

    await settles(counted)

    await world.child("late", id="set-2")
    refused = await world.condition("late", "Accepted", "False", "AlreadyStarted")
    assert refused.message == "the id 'set-2' belongs to childset/set; started when that is deleted"

    await world.delete_children("set-1")
    await told(world, "set", "Ready", "True", "Started")
    await world.running(ids("set", 3))
    await world.kubectl("scale", "childset/set", "--replicas=2")
    await world.ready("late")
    await world.running(ids("set", 3))
    never_two(world.watch)


@pytest.mark.nightly
async def test_a_changed_template_rolls_out_within_its_budget_across_a_change_of_leader(world: World) -> None:
    rebalance = {"maxMovesPerSecond": 2}
    await world.hub(**TWO, distribution={"rebalance": rebalance})
    everyone = ids("set", 24)
    await child_set(world, replicas=24)
    before = await world.running(everyone)

    patch = '{"spec": {"template": {"exec": {"command": ["sleep", "99999"]}}}}'
    await world.kubectl("patch", "childset", "set", "--type=merge", "-p", patch)
    await told(world, "set", "Ready", "False", "Updating", "children still run the former template")

    async def under_way() -> None:
        runs = await world.record()
        restarted = [child_id for child_id, places in runs.items() if places[0].epoch != before[child_id].epoch]
        assert 4 <= len(restarted) < 20, len(restarted)

    await settles(under_way)
    holder = await world.operators.kill_leader()
    await world.operators.leader_after(holder)

    async def all_new() -> None:
        after = await world.running(everyone, within=1)
        assert all(after[child_id].epoch > before[child_id].epoch for child_id in everyone)

    await settles(all_new, within=60)
    after = await world.running(everyone)
    assert not moved(before, after)
    await told(world, "set", "Ready", "True", "Started", "24 of 24")
    assert {len(runs) for runs in world.watch.runs().values()} == {2}, "each was restarted once"
    never_two(world.watch)


async def test_a_failing_template_stops_its_rollout_and_the_former_one_keeps_running(world: World) -> None:
    await world.hub(**TWO)
    everyone = ids("set", 20)
    await child_set(world, replicas=20)
    before = await world.running(everyone)

    patch = '{"spec": {"template": {"exec": {"command": ["sh", "-c", "exit 9"]}}}}'
    await world.kubectl("patch", "childset", "set", "--type=merge", "-p", patch)

    await told(world, "set", "Ready", "False", "RolloutStopped", "2 of 20 children fail with the changed template")
    rest = everyone[2:]

    async def rest_runs_on() -> None:
        runs = await world.record()
        untouched(before, {child_id: runs[child_id][0] for child_id in rest}, rest)

    await rest_runs_on()

    async def with_the_cause() -> None:
        item = await told(world, "set", "Ready", "False", "RolloutStopped", "set-0 (Exited, exit code 9)")
        assert "18 run on with the former one" in item.status.conditions[1].message

    await settles(with_the_cause)
    holder = await world.operators.kill_leader()
    await world.operators.leader_after(holder)
    await told(world, "set", "Ready", "False", "RolloutStopped", "18 run on")
    await rest_runs_on()

    patch = '{"spec": {"template": {"exec": {"command": ["sleep", "99999"]}}, "maxFailed": "50%"}}'
    await world.kubectl("patch", "childset", "set", "--type=merge", "-p", patch)
    await told(world, "set", "Ready", "True", "Started", "20 of 20")
    never_two(world.watch)


@pytest.mark.nightly
async def test_killing_the_leader_during_the_start_of_many_children_loses_and_duplicates_none(world: World) -> None:
    await world.hub(**TWO)
    await child_set(world, replicas=300)

    async def under_way() -> None:
        assert await world.record()

    await settles(under_way, every=0.01)
    holder = await world.operators.kill_leader()
    await world.operators.leader_after(holder)

    await world.running(ids("set", 300), within=90)
    await told(world, "set", "Ready", "True", "Started", "300 of 300")
    started_once(world.watch.runs())


@pytest.mark.nightly
async def test_children_end_on_time_while_a_thousand_others_start(world: World) -> None:
    await world.hub(**TWO)
    short = [f"short-{number}" for number in range(100)]
    creating = asyncio.create_task(world.children(short, at_once=24, ttlSeconds=1))

    async def first_runs() -> None:
        assert world.watch.live()

    await settles(first_runs, every=0.01)
    await child_set(world, replicas=1000)
    await creating

    async def nothing_stays_behind() -> None:
        items, _ = await world.api.list(CHILDREN, world.namespace)
        assert len(items) == 0
        assert not world.watch.live().keys() & set(short)

    await settles(nothing_stays_behind, within=90, every=0.2)
    await world.running(ids("set", 1000), within=90)
    runs = world.watch.runs()
    lasted = sorted(runs[child_id][0].seen - runs[child_id][0].started for child_id in short)
    first = min(runs[child_id][0].started for child_id in short)
    amid = sum(runs[child_id][0].started > first for child_id in ids("set", 1000))
    assert amid >= 500, "the others did not start meanwhile"
    assert lasted[-1] < 1 + LATE_SECONDS, lasted
    started_once(runs)
    never_two(world.watch)


async def test_the_children_of_a_re_created_set_start_again(world: World) -> None:
    await world.hub(**TWO)
    await child_set(world, replicas=4)
    before = await world.running(ids("set", 4))

    await world.kubectl("delete", "childset", "set")
    await child_set(world, replicas=4)

    async def anew() -> None:
        after = await world.running(ids("set", 4), within=1)
        assert all(after[child_id].uid != place.uid for child_id, place in before.items())

    await settles(anew)
    never_two(world.watch)


async def test_a_set_waits_for_its_hub_and_outlives_it(world: World) -> None:
    await child_set(world, replicas=2)
    item = await told(world, "set", "Accepted", "False", "HubNotFound", "there is no hub 'hub'")
    assert (item.status.desired, item.status.pending) == (2, 2)

    await world.hub(**TWO)
    await told(world, "set", "Ready", "True", "Started")
    await world.running(ids("set", 2))

    await world.kubectl("delete", "hub", "hub")
    item = await told(world, "set", "Accepted", "False", "HubNotFound")
    assert item.status.running == 0


async def test_a_rejected_template_leaves_the_last_accepted_one_running(world: World) -> None:
    await world.hub(**TWO)
    await child_set(world, replicas=3)
    before = await world.running(ids("set", 3))

    patch = '{"spec": {"template": {"nodes": ["hub-0"], "exec": {"command": ["sleep", "5"]}}}}'
    await world.kubectl("patch", "childset", "set", "--type=merge", "-p", patch)

    async def refused() -> None:
        item = await told(world, "set", "Accepted", "False", "InvalidChildMapping", "spec.template.nodes is for hubs")
        assert item.status.running == 3
        await told(world, "set", "Ready", "True", "Started")
        (event,) = await world.events("set", "Rejected")
        assert "spec.template.nodes" in event

    await settles(refused)
    untouched(before, await world.running(ids("set", 3)))


async def test_a_set_of_a_guided_hub_runs_on_the_members_that_it_names(world: World) -> None:
    await world.hub(**TWO, distribution={"strategy": "Guided"})
    await child_set(world, replicas=5, template={"exec": {"command": SLEEP}, "nodes": ["hub-1"]})

    places = await world.running(ids("set", 5))

    assert members_of(places) == {"hub-1": 5}
    await world.kubectl(
        "patch", "childset", "set", "--type=merge", "-p", '{"spec": {"template": {"nodes": ["hub-0"]}}}'
    )

    async def there() -> None:
        assert members_of(await world.running(ids("set", 5), within=1)) == {"hub-0": 5}

    await settles(there)
    never_two(world.watch)


async def test_pods_of_a_set_are_owned_by_it_and_deleted_with_it(world: World) -> None:
    await world.hub(**TWO)
    container = {"name": "main", "image": "debian:bookworm-slim", "command": SLEEP}
    item = await child_set(world, replicas=2, template={"pod": {"template": {"spec": {"containers": [container]}}}})
    await told(world, "set", "Ready", "True", "Started", "2 of 2")

    async def pods() -> list[Any]:
        found, _ = await world.api.list(PODS, world.namespace, labels="app.kubernetes.io/component=child")
        return found

    assert {pod.metadata.owned_by(item.metadata.uid) for pod in await pods()} == {True}
    await world.kubectl("scale", "childset/set", "--replicas=1")

    async def one_left() -> None:
        assert len(await pods()) == 1

    await settles(one_left)
    await world.kubectl("delete", "childset", "set")

    async def none_left() -> None:
        assert await pods() == []

    await settles(none_left)


async def test_the_command_line_handles_the_children_of_a_set(world: World) -> None:
    await world.hub(**TWO)
    await child_set(world, replicas=3)
    await world.running(ids("set", 3))

    async def hub(*words: str) -> tuple[str, str, int]:
        line = [words[0], "-n", world.namespace, *words[1:]]
        return await commandforks.run(line, world.cluster.environment(), "")

    assert (await hub("list", "-o", "name"))[0] == "childset/set\n"
    assert "set-1" in (await hub("list"))[0]
    assert (await hub("where", "set-1", "-o", "name"))[0] == "childset/set\n"
    assert "childSet: set" in (await hub("lookup", "set-1"))[0]
    explained, _, code = await hub("explain", "set-1")
    assert code == 0, explained
    assert "ChildSet:  set" in explained
    assert (await hub("await", "set-0", "set-2"))[2] == 0

    _, refused, code = await hub("stop", "set-1")
    assert code == 1
    assert (
        "belongs to childset/set; scale it down (kubectl scale childset/set --replicas=N), or delete the ChildSet"
        in refused
    )
    _, taken, code = await hub("start", "set-1", "--exec", "--wait", "--timeout", "20", "--", "sleep", "5")
    assert code == 1
    assert "AlreadyStarted: the id belongs to childset/set; take another id" in taken
    assert await world.kubectl("get", "children") == ""
    await world.running(ids("set", 3))

    await child_set(world, "bad", replicas=2, template={"exec": {"command": SLEEP}, "nodes": ["hub-0"]})
    _, failed, code = await hub("await", "bad-0", "--timeout", "30")
    assert code == 1
    assert "InvalidChildMapping: childset/bad: spec.template.nodes is for hubs" in failed
    _, missing, code = await hub("where", "bad-1")
    assert code == 1
    assert "child 'bad-1' of childset/bad of hub hub is not placed: InvalidChildMapping" in missing
    planned, _, code = await hub("plan", "--add", "1", "-o", "json")
    assert code == 0, planned


async def test_the_example_runs_as_it_describes(world: World) -> None:
    example = (CHECKOUT / "manifests" / "examples" / "13-childset.yaml").read_text()
    await world.kubectl("apply", "-f", "-", stdin=example)
    await world.hub_ready("fleet")

    tenants = ["tenant/ada", "tenant/bob", "tenant/eve"]
    before = await world.running([*ids("poller", 10), *tenants], hub="fleet")
    await world.kubectl("scale", "childset/poller", "--replicas=4")
    remaining = [*ids("poller", 4), *tenants]
    untouched(before, await world.running(remaining, hub="fleet"), remaining)
    await world.kubectl("wait", "childset", "--all", "--for=condition=Ready", "--timeout=60s")
    untouched(before, await world.running(remaining, hub="fleet"), remaining)
