"""Pod children as their member's agent sees them; the test takes the roles of the operator and the kubelet."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from agentharness import PODS, SLEEP, Member, new_member, until

from builders import make_child, make_hub
from localcluster.cluster import Cluster
from processhub.api.child import PodWorkload, Workload
from processhub.api.naming import child_pod_name
from processhub.api.reasons import State
from processhub.controller.objects.childpod import PodPlace, child_pod
from processhub.registry.grammar import Report, parse_assignment

TEMPLATE = {"spec": {"schedulerName": "none", "containers": [{"name": "main", "image": "none"}]}}
POD = Workload(pod=PodWorkload(template=TEMPLATE))
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


class Pods:
    """Creates, changes and deletes the Pods of one member's children."""

    def __init__(self, member: Member) -> None:
        self.member = member

    def name(self, child_id: str) -> str:
        return child_pod_name(self.member.hub, self.member.hub_uid, child_id)

    async def make(self, child_id: str, **status: Any) -> None:
        member = self.member
        entry = parse_assignment((await member.slice()).spec.entries[child_id])
        hub = make_hub(member.hub, namespace=member.namespace, uid=member.hub_uid)
        owner = make_child("owner", hub=member.hub, uid=entry.uid)
        place = PodPlace(child_id=child_id, member=member.name, node="none", entry=entry)
        manifest = child_pod(hub, owner, place, PodWorkload(template=TEMPLATE))
        del manifest["metadata"]["ownerReferences"]  # without its Child it would be garbage collected
        await member.client.create(PODS, member.namespace, manifest)
        await self.say(child_id, **status)

    async def say(self, child_id: str, **status: Any) -> None:
        path = (PODS, self.member.namespace, self.name(child_id))
        await self.member.client.patch(*path, {"status": status}, subresource="status")

    async def delete(self, child_id: str) -> None:
        path = (PODS, self.member.namespace, self.name(child_id))
        await self.member.client.delete(*path, grace_period_seconds=0)


@pytest.fixture
async def member(cluster: Cluster, namespace: str, tmp_path: Path):
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, stop_seconds=2, lease_seconds=6) as member:
        yield member


def is_in(state: State, restarts: int = 0) -> Any:
    def check(report: Report) -> bool:
        return (report.state, report.restarts) == (state, restarts)

    return check


async def test_a_removed_entry_is_acknowledged_when_the_pod_is_deleted(member: Member) -> None:
    member.start_agent()
    pods = Pods(member)
    await member.write({"a": POD})
    await member.report("a", is_in(State.STARTING))
    await pods.make("a", **READY)
    assert await member.running("a") == 0

    item = await member.write({"a": None})
    await member.acknowledged(item)
    stopping = (await member.reports())["a"]
    assert stopping.state == "Stopping"

    await pods.delete("a")

    async def gone() -> bool:
        return "a" not in await member.reports()

    await until(gone)
    await member.write({"b": SLEEP})
    await member.running("b")
    assert "a" not in await member.reports()


async def test_a_new_agent_takes_over_the_running_pod(member: Member) -> None:
    first = member.start_agent()
    pods = Pods(member)
    await member.write({"a": POD}, restart_policy="Temporary")
    await member.report("a", is_in(State.STARTING))
    await pods.make("a", **READY)
    await member.running("a")

    first.kill()
    second = member.start_agent()
    await member.write({"b": SLEEP})
    await member.running("b")
    await member.report("a", is_in(State.RUNNING))

    second.signal(signal.SIGTERM)
    assert await second.exit_code() == 0
    assert (await member.slice()).status.reports == {}, "it lets go of the Pod without waiting for its end"
    member.start_agent()
    await member.report("a", is_in(State.RUNNING))


async def test_a_pod_that_ends_is_requested_again_as_its_restart_policy_says(member: Member) -> None:
    member.start_agent()
    pods = Pods(member)
    await member.write({"again": POD})
    await member.write({"once": POD}, restart_policy="Temporary")
    for child_id in ("again", "once"):
        await member.report(child_id, is_in(State.STARTING))
        await pods.make(child_id, **READY)
        await member.running(child_id)

    ended = {"name": "main", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    ended["state"] = {"terminated": {"exitCode": 3, "reason": "Error"}}
    for child_id in ("again", "once"):
        await pods.say(child_id, phase="Failed", conditions=[], containerStatuses=[ended])

    again = await member.report("again", is_in(State.STARTING, restarts=1))
    once = await member.report("once", is_in(State.STOPPED))
    assert again.last_exit == once.last_exit == "container main: exit code 3"
    await pods.delete("again")
    await pods.make("again", **READY)
    await member.report("again", is_in(State.RUNNING, restarts=1))
