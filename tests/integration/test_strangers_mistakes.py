"""Mistakes of a new user that the API server accepts: what runs stays, and the object says what is wrong."""

from __future__ import annotations

from typing import Any

from operatorworld import EVENTS, Json, World
from settling import settles, stays

from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod
from processhub.api.meta import API_VERSION, find_condition
from processhub.api.naming import LABEL_CHILD
from processhub.cluster.kinds import CHILD_SETS, HUBS, PODS

pytest_plugins = ("operatorworld",)
TWO = {"members": {"replicas": 2}}


def pod(**spec: Any) -> Json:
    container: Json = {"name": "main", "image": "none", "command": ["sleep", "100000"]}
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {"template": {"spec": {"terminationGracePeriodSeconds": 2, "containers": [container], **spec}}}


def message_of(item: Hub | ChildSet, kind: str, status: str) -> str:
    found = find_condition(item.status.conditions, kind)
    assert found is not None, item.status.conditions
    assert found.status == status, found
    return found.message


async def events(world: World, reason: str) -> list[str]:
    found, _ = await world.api.list(EVENTS, world.namespace)
    return [item["message"] for item in found if isinstance(item, dict) and item["reason"] == reason]


async def test_a_child_set_runs_on_when_the_api_server_refuses_its_edited_template(world: World) -> None:
    await world.hub(**TWO)
    spec = {"hub": "hub", "replicas": 3, "minReadySeconds": 0, "maxFailed": 3, "template": {"pod": pod()}}
    body = {"apiVersion": API_VERSION, "kind": "ChildSet", "metadata": {"name": "set"}, "spec": spec}
    await world.api.create(CHILD_SETS, world.namespace, body)

    async def all_run() -> dict[str, str]:
        pods, _ = await world.api.list(PODS, world.namespace, labels=LABEL_CHILD)
        found = {
            it.metadata.name: it.metadata.uid for it in pods if isinstance(it, Pod) and it.status.phase == "Running"
        }
        assert len(found) == 3, found
        return found

    before = await settles(all_run)

    edit = {"spec": {"template": {"pod": pod(priorityClassName="no-such-class")}}}
    await world.api.patch(CHILD_SETS, world.namespace, "set", edit)

    async def refused() -> None:
        item = await world.api.get(CHILD_SETS, world.namespace, "set")
        assert "no PriorityClass with name no-such-class was found" in message_of(item, "Accepted", "False")

    async def runs_on() -> None:
        assert await all_run() == before

    await settles(refused)
    await stays(runs_on, 5)


async def test_a_misspelt_member_is_named_and_refuses_nothing(world: World) -> None:
    await world.hub(members={"replicas": 1, "weights": {"hub-O": 2}}, annotations={"processhub.dev/pausd": "true"})

    async def named() -> None:
        hub = await world.api.get(HUBS, world.namespace, "hub")
        said = "spec.members.weights names 'hub-O', and the hub has no such member now (it has hub-0)"
        assert message_of(hub, "Accepted", "True").startswith(said)
        (event,) = await events(world, "UnknownMember")
        assert event.startswith(said)
        assert await events(world, "AnnotationIgnored") == [
            "the annotation processhub.dev/pausd means nothing on a Hub: write processhub.dev/paused"
        ]

    await settles(named)


async def test_a_misspelt_field_of_a_pod_template_is_named(world: World) -> None:
    await world.hub(members={"replicas": 1})
    await world.child("a", pod=pod(prioritiClassName="no-such-class"))

    async def named() -> None:
        assert await events(world, "FieldsIgnored") == [
            "the pod template has fields that the API server does not know, and that have no effect:"
            ' unknown field "spec.prioritiClassName"'
        ]

    await settles(named)
    await world.condition("a", "Ready", "True", "Started")
