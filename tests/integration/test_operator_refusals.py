"""The conditions that the operator reports where the schema can't know better: one row each, reason and message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from operatorsite import Site
from operatorworld import SLEEP, World, new_world
from settling import settles, stays

from processhub.api.meta import API_VERSION, find_condition
from processhub.cluster.kinds import HUBS, Kind, untyped

pytest_plugins = ("operatorworld",)
STATEFUL_SETS, DEPLOYMENTS = untyped("apps/v1", "statefulsets"), untyped("apps/v1", "deployments")
ACCOUNTS = untyped("v1", "serviceaccounts")
KINDS = {
    "Hub": untyped(API_VERSION, "hubs"),
    "Child": untyped(API_VERSION, "children"),
    "ChildSet": untyped(API_VERSION, "childsets"),
}
CONTAINERS = [{"name": "main", "image": "none", "command": SLEEP}]
KNOWN = "ConsistentHashing, Guided, ForEach, RoundRobin, LeastLoaded, Modulo, Local, NotLocal"


@dataclass(frozen=True)
class Refused:
    """An object that the API server accepts, and the condition that it gets."""

    name: str
    kind: str
    spec: dict[str, Any]
    reason: str
    sentence: str
    condition: str = "Accepted"
    object_name: str = field(default="")

    @property
    def object(self) -> str:
        """The object's name."""
        return self.object_name or self.name.lower().replace(" ", "-").replace("'", "")


def hub(name: str, reason: str, sentence: str, **spec: Any) -> Refused:
    return Refused(name, "Hub", {"members": {"replicas": 0}} | spec, reason, sentence)


def child(
    name: str, reason: str, sentence: str, *, condition: str = "Accepted", to: str = "plain", **spec: Any
) -> Refused:
    workload = {} if spec.keys() & {"pod", "python"} else {"exec": {"command": SLEEP}}
    return Refused(name, "Child", {"hub": to} | workload | spec, reason, sentence, condition)


def strategy(name: str) -> dict[str, Any]:
    return {"distribution": {"strategy": name}}


# The objects that the rows refer to. No hub has members: no row needs a process.
BEFORE = {
    "plain": {},
    "guided": {"distribution": {"strategy": "Guided"}},
    "suspended": {"suspend": True},
    "refused": {"distribution": {"strategy": "Nearest"}},
}
LATER = "is not supported yet; "
ROWS = [
    hub(
        "unknown strategy",
        "UnknownStrategy",
        f"spec.distribution.strategy 'Nearest' is not known; there are {KNOWN}",
        **strategy("Nearest"),
    ),
    hub(
        "a copy for each member of a list",
        "Invalid",
        "spec.redundancy.replicationFactor ClusterSize can't be combined with the distribution strategy Guided, "
        "where each child names its members; give a number, or use the strategy ForEach",
        redundancy={"strategy": "Replication", "replicationFactor": "ClusterSize"},
        **strategy("Guided"),
    ),
    hub(
        "on demand of a guided hub",
        "Invalid",
        "spec.onDemand: a Guided hub places a child where its spec.nodes say, and what a request starts has none;"
        " leave onDemand out, or use another distribution strategy",
        onDemand={"exec": {"command": SLEEP}},
        distribution={"strategy": "Guided"},
    ),
    hub(
        "static child that ends",
        "Invalid",
        "spec.children 'a': ttlSeconds: the hub would start it again at once; leave it out, or create a Child of"
        " its own",
        children=[{"id": "a", "exec": {"command": SLEEP}, "ttlSeconds": 5}],
    ),
    hub(
        "hook with a handler that is not there",
        "Invalid",
        "spec.hooks 'audit': python.handler 'audit:started' is not known; there are enrich (entry points of the group "
        "processhub.hooks in the operator's image)",
        hooks=[{"name": "audit", "event": "ChildStarted", "python": {"handler": "audit:started"}}],
    ),
    child("no such hub", "HubNotFound", "spec.hub: there is no hub 'nowhere' in namespace '{namespace}'", to="nowhere"),
    child(
        "pod without containers",
        "Invalid",
        "spec.pod.template has no spec.containers; give at least one container with an image",
        pod={"template": {}},
    ),
    child(
        "pod with a node of its own",
        "Invalid",
        "spec.pod.template.spec.nodeName: a pod child runs on its member's node; leave nodeName out (spec.nodes of a "
        "Guided hub chooses the member)",
        pod={"template": {"spec": {"containers": CONTAINERS, "nodeName": "node-0"}}},
    ),
    child(
        "pod always restarted of a temporary child",
        "Invalid",
        "spec.pod.template.spec.restartPolicy Always contradicts the child's restartPolicy Temporary; leave it out or "
        "use Never",
        pod={"template": {"spec": {"containers": CONTAINERS, "restartPolicy": "Always"}}},
        restartPolicy="Temporary",
    ),
    child(
        "nodes without guided",
        "InvalidChildMapping",
        "spec.nodes is for hubs with distribution strategy Guided, this hub's is ConsistentHashing; leave nodes out, "
        "or change the hub",
        nodes=["plain-0"],
    ),
    child(
        "guided without nodes",
        "MissingChildMapping",
        "the hub's distribution strategy is Guided; give spec.nodes with the name of a member",
        to="guided",
    ),
    child(
        "guided with two nodes",
        "ChildReplicationMismatch",
        "spec.nodes names 2 members, but the hub keeps 1 copy of a child; name exactly 1",
        to="guided",
        nodes=["guided-0", "guided-1"],
    ),
    child(
        "guided to an unknown member",
        "InvalidChildMapping",
        "spec.nodes: the hub has no member 'guided-7'; its members are none yet",
        to="guided",
        nodes=["guided-7"],
    ),
    child(
        "no members",
        "NoMembers",
        "no member of the hub is ready; placed when one is",
        condition="Placed",
    ),
    child(
        "in a suspended hub",
        "Suspended",
        "spec.suspend of the hub is true",
        condition="Placed",
        to="suspended",
    ),
    child("suspended child", "Suspended", "spec.suspend is true", condition="Placed", suspend=True),
    child(
        "of a refused hub",
        "UnknownStrategy",
        f"the hub is not accepted: spec.distribution.strategy 'Nearest' is not known; there are {KNOWN}",
        to="refused",
    ),
    Refused(
        "child set",
        "ChildSet",
        {"hub": "plain", "replicas": 3, "template": {"exec": {"command": SLEEP}, "nodes": ["plain-0"]}},
        "InvalidChildMapping",
        "spec.template.nodes is for hubs with distribution strategy Guided, this hub's is ConsistentHashing;"
        " leave nodes out, or change the hub",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def answered(site: Site) -> AsyncIterator[World]:
    """A namespace with the objects of all rows, created at once."""
    async with new_world(site) as world:
        for name, spec in BEFORE.items():
            await world.hub(name, members={"replicas": 0}, ready=False, bare=True, **spec)
        await asyncio.gather(*(create(world, row) for row in ROWS))
        yield world


async def create(world: World, row: Refused) -> None:
    manifest = {"apiVersion": API_VERSION, "kind": row.kind, "metadata": {"name": row.object}, "spec": row.spec}
    await world.api.create(KINDS[row.kind], world.namespace, manifest)


async def condition(world: World, kind: Kind[dict[str, Any]], name: str, wanted: str) -> dict[str, Any]:
    """Return the condition for the object's current generation, once it is False."""

    async def check() -> dict[str, Any]:
        item = await world.api.get(kind, world.namespace, name)
        found = {entry["type"]: entry for entry in item.get("status", {}).get("conditions", [])}
        assert wanted in found, found
        assert found[wanted]["observedGeneration"] == item["metadata"]["generation"], found
        assert found[wanted]["status"] == "False", found
        return found[wanted]

    return await settles(check)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_the_condition_of_a_rejected_object_names_the_reason(answered: World, row: Refused) -> None:
    sentence = row.sentence.format(namespace=answered.namespace)

    async def says() -> None:
        # If the operator sees a Child before its Hub, the Child has no hub at first.
        found = await condition(answered, KINDS[row.kind], row.object, row.condition)
        assert (found["reason"], found["message"]) == (row.reason, sentence)

    await settles(says)


async def test_nothing_is_created_for_a_rejected_hub(answered: World) -> None:
    await condition(answered, KINDS["Hub"], "unknown-strategy", "Accepted")

    made, _ = await answered.api.list(STATEFUL_SETS, answered.namespace)
    names = {item["metadata"]["name"] for item in made if isinstance(item, dict)}
    assert names <= {"plain", "guided", "suspended"}


async def test_the_status_of_a_child_set_is_written_once_for_each_generation(answered: World) -> None:
    async def observed() -> tuple[int, str]:
        item = await answered.api.get(KINDS["ChildSet"], answered.namespace, "child-set")
        metadata = item["metadata"]
        assert item["status"]["observedGeneration"] == metadata["generation"]
        return metadata["generation"], metadata["resourceVersion"]

    await condition(answered, KINDS["ChildSet"], "child-set", "Accepted")
    await answered.kubectl("label", "childset", "child-set", "looked=at")
    first = await observed()

    async def nothing_written() -> None:
        assert await observed() == first

    await stays(nothing_written, 1)
    await answered.kubectl("scale", "childset/child-set", "--replicas=4")

    async def answered_again() -> None:
        assert (await observed())[0] == first[0] + 1

    await settles(answered_again)


async def test_a_foreign_workload_with_the_hubs_name_is_left_alone(answered: World) -> None:
    labels = {"app": "other"}
    other = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "taken"},
        "spec": {
            "replicas": 0,
            "serviceName": "other",
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "none", "command": SLEEP}]},
            },
        },
    }
    before = await answered.api.create(STATEFUL_SETS, answered.namespace, other)

    await answered.hub("taken", members={"replicas": 1}, ready=False)

    found = await condition(answered, KINDS["Hub"], "taken", "Accepted")
    assert found["reason"] == "NameConflict"
    assert "StatefulSet taken" in found["message"]
    after = await answered.api.get(STATEFUL_SETS, answered.namespace, "taken")
    assert (after["metadata"]["uid"], after["spec"]["template"]) == (
        before["metadata"]["uid"],
        before["spec"]["template"],
    )

    await answered.api.delete(STATEFUL_SETS, answered.namespace, "taken")
    await answered.hub_ready("taken")


async def test_a_hub_named_like_the_operator_overwrites_none_of_its_objects(answered: World) -> None:
    """Otherwise the account of its members would be the operator's own."""
    namespace, api = answered.operators.namespace, answered.api
    before = [await api.get(kind, namespace, "processhub-operator") for kind in (ACCOUNTS, DEPLOYMENTS)]
    hub = {"apiVersion": API_VERSION, "kind": "Hub", "metadata": {"name": "operator"}, "spec": {}}
    await api.create(HUBS, namespace, hub)
    try:

        async def refused() -> None:
            accepted = find_condition((await api.get(HUBS, namespace, "operator")).status.conditions, "Accepted")
            assert accepted
            assert accepted.reason == "NameConflict"
            assert "ServiceAccount processhub-operator exists and is not this hub's" in accepted.message

        await settles(refused)
        after = [await api.get(kind, namespace, "processhub-operator") for kind in (ACCOUNTS, DEPLOYMENTS)]
        assert [item["metadata"]["uid"] for item in after] == [item["metadata"]["uid"] for item in before]
        assert after[0]["metadata"]["resourceVersion"] == before[0]["metadata"]["resourceVersion"]
    finally:
        await api.delete(HUBS, namespace, "operator")


async def test_a_hub_that_is_corrected_is_accepted(answered: World) -> None:
    await condition(answered, KINDS["Hub"], "refused", "Accepted")

    await answered.edit_hub("refused", distribution={"strategy": "ConsistentHashing"})

    await answered.hub_condition("Accepted", "True", hub="refused")
    await answered.condition("of-a-refused-hub", "Accepted", "True")
