"""Pod children: created on their member's node, replaced only when the old Pod is gone, otherwise left alone."""

from __future__ import annotations

from signal import SIGTERM
from typing import Any

import pytest
from operatorworld import Json, World, never_two, started_once
from processwatch import Run
from settling import settles, stays
from waiting import catches, until

from processhub.api.kubernetes import Pod
from processhub.api.meta import find_condition
from processhub.api.naming import LABEL_CHILD, child_pod_name
from processhub.cluster.kinds import PODS

pytest_plugins = ("operatorworld",)
TWO = {"members": {"replicas": 2}}
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
# Outlives its order to stop by some seconds.
SLOW = ["python3", "-c", "import signal, time; signal.signal(15, lambda *_: time.sleep(6) or exit()); time.sleep(9999)"]


def pod(command: list[str] | None = None, grace: int = 2, **spec: Any) -> Json:
    """A pod child's workload."""
    container: Json = {"name": "main", "image": "none", "command": command or ["sleep", "100000"]}
    container["securityContext"] = RESTRICTED
    return {"template": {"spec": {"terminationGracePeriodSeconds": grace, "containers": [container], **spec}}}


class Pods:
    """The Pods of a hub's pod children."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def name(self, child_id: str) -> str:
        return child_pod_name("hub", (await self.world.get_hub()).metadata.uid, child_id)

    async def of(self, child_id: str) -> Pod:
        return await self.world.pod(await self.name(child_id))

    async def all(self) -> list[Pod]:
        items, _ = await self.world.api.list(PODS, self.world.namespace, labels=LABEL_CHILD)
        return [item for item in items if isinstance(item, Pod)]

    async def running(self, *ids: str, within: float = 60) -> dict[str, Run]:
        """Return the one process of each id, once each is recorded once as Running and its Child is Ready."""

        async def check() -> dict[str, Run]:
            record, live, runs = await self.world.record(), self.world.watch.live(), {}
            for child_id in ids:
                assert (len(record[child_id]), len(live[child_id])) == (1, 1), (record[child_id], live[child_id])
                place, run = record[child_id][0], live[child_id][0]
                assert (place.state, place.epoch, place.member) == ("Running", run.epoch, run.member), (place, run)
                ready = find_condition((await self.world.get_child(child_id)).status.conditions, "Ready")
                assert ready, child_id
                assert ready.status == "True", ready
                runs[child_id] = run
            return runs

        return await settles(check, within)

    async def none(self) -> None:
        async def check() -> None:
            assert [item.metadata.name for item in await self.all()] == []

        await settles(check, 120)  # the garbage collector may have to discover our kinds first


async def test_a_pod_child_runs_on_its_members_node_and_is_deleted_with_its_child(world: World) -> None:
    await world.hub(**TWO)
    pods = Pods(world)
    await world.child("a", pod=pod())
    run = (await pods.running("a"))["a"]

    made, child = await pods.of("a"), await world.get_child("a")
    (node,) = child.status.nodes
    assert made.spec.node_name == (await world.pod(node.name)).spec.node_name
    assert (node.state, node.pid, node.epoch, node.name) == ("Running", 0, run.epoch, run.member)
    assert made.metadata.owned_by(child.metadata.uid)

    async def registered() -> None:
        status = (await world.get_hub()).status
        found = {entry.id: [(place.name, place.state, place.pid) for place in entry.nodes] for entry in status.registry}
        assert found == {"a": [(node.name, "Running", 0)]}
        assert {member.name for member in status.members} == {"hub-0", "hub-1"}, "its Pod is no member"
        assert status.replicas == 2

    await settles(registered)

    await world.delete_children("a")
    await world.no_process("a")
    await pods.none()

    async def off_the_record() -> None:
        assert await world.record() == {}
        assert all("a" not in item.status.reports for item in await world.slices())

    await settles(off_the_record)


async def test_a_pod_deleted_by_hand_is_replaced_once_it_is_gone(world: World) -> None:
    await world.hub(**TWO)
    pods = Pods(world)
    await world.child("a", pod=pod(SLOW, grace=20))
    first = (await pods.running("a"))["a"]
    old = await pods.of("a")

    await world.kubectl("delete", "pod", old.metadata.name, "--wait=false")

    async def replaced() -> None:
        second = (await pods.running("a"))["a"]
        assert second.pid != first.pid
        assert second.epoch == first.epoch, "a restart in place keeps the epoch"
        assert (await world.get_child("a")).status.nodes[0].restarts == 1

    await settles(replaced)
    assert (await pods.of("a")).metadata.uid != old.metadata.uid
    never_two(world.watch)


async def test_an_edited_template_creates_a_pod_with_a_new_epoch_after_the_old_pod_is_gone(world: World) -> None:
    await world.hub(**TWO)
    pods = Pods(world)
    await world.child("a", pod=pod(SLOW, grace=20))
    await world.child("b", pod=pod())
    first = await pods.running("a", "b")
    await until(lambda: catches(first["a"].pid, SIGTERM), "it would take its time")

    await world.edit_child("a", pod=pod(["sleep", "99999"]))

    waiting = await world.condition("a", "Placed", "False", "AlreadyStarted")
    assert "has not yet been seen to stop: its pod hub-" in waiting.message

    async def edited() -> None:
        second = await pods.running("a", "b")
        assert second["a"].epoch > first["a"].epoch
        assert second["a"].member == first["a"].member
        assert second["b"].pid == first["b"].pid

    await settles(edited)
    never_two(world.watch)


async def test_changed_nodes_move_a_pod_child_to_the_new_members_node(world: World) -> None:
    await world.hub(**TWO, distribution={"strategy": "Guided"})
    pods = Pods(world)
    await world.child("a", nodes=["hub-0"], pod=pod(SLOW, grace=20))
    first = (await pods.running("a"))["a"]
    assert first.member == "hub-0"

    await world.edit_child("a", nodes=["hub-1"])

    async def moved() -> None:
        second = (await pods.running("a"))["a"]
        assert second.member == "hub-1"
        assert second.epoch > first.epoch

    await settles(moved)
    assert (await pods.of("a")).spec.node_name == (await world.pod("hub-1")).spec.node_name
    never_two(world.watch)


async def test_a_pod_child_that_becomes_a_process_starts_when_its_pod_is_gone(world: World) -> None:
    await world.hub(**TWO)
    pods = Pods(world)
    await world.child("a", pod=pod(SLOW, grace=20))
    first = (await pods.running("a"))["a"]

    await world.edit_child("a", pod=None, exec={"command": ["sleep", "99999"]})

    async def changed() -> None:
        (place,) = (await world.running(["a"])).values()
        assert place.epoch > first.epoch
        assert place.pid != first.pid

    await settles(changed)
    await pods.none()
    never_two(world.watch)


async def test_a_suspended_pod_child_and_one_of_a_deleted_hub_have_no_pod(world: World) -> None:
    await world.hub(**TWO)
    pods = Pods(world)
    await world.child("a", pod=pod())
    await world.child("b", pod=pod())
    await pods.running("a", "b")

    await world.edit_child("a", suspend=True)
    await world.no_process("a")
    await pods.running("b")

    await world.kubectl("delete", "hub", "hub", "--wait=false")
    await pods.none()
    await world.condition("b", "Accepted", "False", "HubNotFound")


async def test_a_member_that_restarts_leaves_its_pods_running(world: World) -> None:
    await world.hub(**TWO)
    pods = Pods(world)
    ids = ["a", "b", "c", "d"]
    for child_id in ids:
        await world.child(child_id, pod=pod())
    before = await pods.running(*ids)

    await world.kill_agent(before["a"].member)
    await world.kubectl("rollout", "restart", "statefulset/hub")
    await world.kubectl("rollout", "status", "statefulset/hub", "--timeout=120s", timeout=150)
    await world.hub_ready()

    after = await pods.running(*ids)
    assert {child_id: run.pid for child_id, run in after.items()} == {
        child_id: run.pid for child_id, run in before.items()
    }
    started_once(world.watch.runs())


@pytest.mark.nightly
async def test_on_a_dead_node_a_pod_child_waits_for_its_old_pod(world: World) -> None:
    await world.hub()
    pods = Pods(world)
    ids = [f"c{number}" for number in range(9)]
    for child_id in ids:
        await world.child(child_id, pod=pod())
    before = await pods.running(*ids)
    member, node = await world.member_without_operator()
    lost = sorted(child_id for child_id, run in before.items() if run.member == member)
    assert lost

    await world.kill_node(node)

    for child_id in lost:
        waiting = await world.condition(child_id, "Placed", "False", "AlreadyStarted")
        name = await pods.name(child_id)
        assert waiting.message == (
            f"an earlier {child_id!r} has not yet been seen to stop: its pod {name} on {node} is still there"
        )

    async def nothing_is_started() -> None:
        runs = world.watch.runs()
        assert [len(runs[child_id]) for child_id in ids] == [1] * len(ids)

    await stays(nothing_is_started, 5)
    await world.faults.heal_node(node)
    await pods.running(*ids, within=90)
    never_two(world.watch)


async def test_the_reason_why_a_pod_does_not_start_is_reported(world: World) -> None:
    await world.hub(**TWO)
    await world.child("crash", pod=pod(["sh", "-c", "exit 3"]))
    await world.child("no-program", pod=pod(["no-such-program"]))
    await world.child("refused", pod=pod(priorityClassName="no-such-class"))
    await world.child("nonsense", pod=pod(affinity={"nodeAffinity": "here"}))

    crash = await world.condition("crash", "Ready", "False", "Exited")
    refused = await world.condition("refused", "Placed", "False", "Invalid")
    await world.condition("refused", "Stalled", "True", "Invalid")
    nonsense = await world.condition("nonsense", "Accepted", "False", "Invalid")

    async def reported() -> None:
        child = await world.get_child("no-program")
        ready = find_condition(child.status.conditions, "Ready")
        assert ready, "no condition Ready"
        assert "no-such-program" in ready.message or "exit code 12" in ready.message, ready

    await settles(reported)
    assert "container main: exit code 3" in crash.message
    assert "no-such-class" in refused.message
    assert nonsense.message == 'spec.pod.template.spec.affinity.nodeAffinity is "here"; it must be an object'


async def test_a_finished_pod_child_is_not_started_again(world: World) -> None:
    await world.hub(**TWO)
    await world.child("done", pod=pod(["true"]), restartPolicy="Temporary")
    await world.child("failed", pod=pod(["false"]), restartPolicy="Temporary")

    await world.condition("done", "Ready", "False", "Completed")
    failed = await world.condition("failed", "Ready", "False", "Exited")

    assert "container main: exit code 1" in failed.message
    assert (await world.get_child("done")).status.state == "Stopped"
    runs = world.watch.runs()
    assert all(len(runs.get(child_id, [])) <= 1 for child_id in ("done", "failed"))


@pytest.mark.nightly
async def test_fifty_pod_children_are_started_once_although_the_operator_is_killed(world: World) -> None:
    await world.hub(**TWO)
    pods = Pods(world)
    ids = await world.children([f"c{number}" for number in range(50)], pod=pod())

    async def some_made() -> None:
        assert len(await pods.all()) >= 5

    await settles(some_made, every=0.02)
    holder = await world.operators.kill_leader()
    await world.operators.leader_after(holder)

    await pods.running(*ids, within=150)
    assert len(await pods.all()) == len(ids)
    started_once(world.watch.runs())
    never_two(world.watch)


async def test_a_pod_without_its_labels_or_annotations_gets_them_back(world: World) -> None:
    await world.hub(**TWO)
    pods = Pods(world)
    await world.child("a", pod=pod())
    first, before = (await pods.running("a"))["a"], await pods.of("a")
    name = before.metadata.name

    async def whole() -> None:
        now = await pods.of("a")
        assert now.metadata.uid == before.metadata.uid
        assert (now.metadata.labels, now.metadata.annotations) == (before.metadata.labels, before.metadata.annotations)

    for kind, mark in (("annotate", "child-id"), ("label", "hub"), ("label", "child"), ("annotate", "run")):
        await world.kubectl(kind, "pod", name, f"processhub.dev/{mark}-")
        await settles(whole)

        async def reported(mark: str = mark) -> None:
            texts = await world.events("a", "PodChanged")
            assert [text for text in texts if f"processhub.dev/{mark} of pod {name}" in text], texts

        await settles(reported)

    assert (await pods.running("a"))["a"].pid == first.pid
    never_two(world.watch)

    await world.operators.scale(0)
    await world.kubectl("annotate", "pod", name, "processhub.dev/child-id-", "processhub.dev/run-")
    await world.kubectl("label", "pod", name, "processhub.dev/hub-")
    await world.operators.scale(2)
    await settles(whole)
    assert (await pods.running("a"))["a"].pid == first.pid

    await world.kubectl("label", "pod", name, "processhub.dev/hub-")
    await world.delete_children("a")
    await world.no_process("a")
    await pods.none()
    await world.child("a", pod=pod())
    await pods.running("a")
    never_two(world.watch)
