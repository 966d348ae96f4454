"""One step for a hub fails: it is reported and retried, and all other steps continue."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from namespaces import pods_may_be_created
from operatorworld import CONFIG_MAPS, SLEEP, World, untouched
from settling import settles

from localcluster.layout import ClusterError
from processhub.api.meta import find_condition
from processhub.api.naming import LABEL_HUB, LABEL_HUB_UID
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import CHILDREN, HUBS, LEASES, PODS, SLICES, Kind, untyped

pytest_plugins = ("operatorworld",)
QUOTAS = untyped("v1", "resourcequotas")
STATEFUL_SETS = untyped("apps/v1", "statefulsets")
POLICIES = untyped("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", namespaced=False)
BINDINGS = untyped("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", namespaced=False)


def static(*ids: str) -> list[dict[str, Any]]:
    return [{"id": each, "exec": {"command": SLEEP}} for each in ids]


async def quota(world: World, plural: str, *, hard: int, used: int = 0) -> None:
    """Set a quota of this many objects of a kind; ``used`` is its initial count if no controller counts the kind."""
    resource, name = f"count/{plural}.processhub.dev", plural
    spec = {"hard": {resource: str(hard)}}
    await world.api.create(QUOTAS, world.namespace, {"metadata": {"name": name}, "spec": spec})
    status = {"status": spec | {"used": {resource: str(used)}}}
    await world.api.patch(QUOTAS, world.namespace, name, status, subresource="status")


async def has_no(world: World, kind: str) -> None:
    """Wait until the Hub has no such condition."""

    async def check() -> None:
        assert find_condition((await world.get_hub()).status.conditions, kind) is None

    await settles(check)


async def goes_on(world: World, name: str) -> None:
    """Wait until a new Child of the hub is placed and started, and its status shows that."""
    await world.child(name)
    await world.ready(name)


async def test_a_quota_on_static_children_stops_no_other_step_of_the_hub(world: World) -> None:
    await quota(world, "children", hard=2)
    await world.hub(members={"replicas": 2}, children=static("a", "b", "c"))

    stalled = await world.hub_condition("Stalled", "True", "Refused")
    assert "static child '" in stalled.message
    assert "exceeded quota: children" in stalled.message
    first = await world.running(await children(world))
    assert len(first) == 2
    (event,) = set(await world.told("hub", "Refused"))
    assert "exceeded quota: children" in event
    # The loss of a member is noticed, and its children run elsewhere.
    lost = next(iter(first.values())).member
    await world.edit_hub(members={"replicas": 3})
    await world.hub_ready()
    await world.kill_agent(lost)
    await world.running(first)

    await world.api.delete(QUOTAS, world.namespace, "children")
    await world.edit_hub(members={"replicas": 2})  # an edit retries the failed step at once
    await world.running(["a", "b", "c"])
    await has_no(world, "Stalled")


async def children(world: World) -> list[str]:
    items, _ = await world.api.list(CHILDREN, world.namespace)
    return [item.id for item in items]


@contextlib.asynccontextmanager
async def policy_against(
    world: World, operation: str, plural: str, group: str = "processhub.dev", unless: str = "false"
) -> AsyncIterator[None]:
    """Reject this operation on objects of this kind in the world's namespace during the block, by a policy.

    ``unless``: what is admitted all the same, in CEL.
    """
    rule = {"apiGroups": [group], "apiVersions": ["*"], "resources": [plural], "operations": [operation]}
    name, only = f"keep-{world.namespace}", {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": unless, "message": f"{plural} are kept here"}],
    }
    await world.api.create(POLICIES, None, {"metadata": {"name": name}, "spec": spec})
    bound = {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": only}}
    await world.api.create(BINDINGS, None, {"metadata": {"name": name}, "spec": bound})
    try:
        yield
    finally:
        await world.api.delete(BINDINGS, None, name)
        await world.api.delete(POLICIES, None, name)


async def test_a_static_child_whose_deletion_a_policy_rejects_delays_nothing(world: World) -> None:
    await world.hub(members={"replicas": 1}, children=static("a", "b"))
    await world.running(["a", "b"])
    async with policy_against(world, "DELETE", "children"):
        probes = (f"probe-{number}" for number in itertools.count())
        await settles(lambda: refuses_deletion(world, next(probes)))

        await world.edit_hub(children=static("a"))

        stalled = await world.hub_condition("Stalled", "True", "Invalid")
        assert "child 'b', which spec.children no longer has, can't be deleted" in stalled.message
        assert "children are kept here" in stalled.message
        await goes_on(world, "another")
        (child,) = [item for item in (await world.api.list(CHILDREN, world.namespace))[0] if item.id == "b"]
        assert any("children are kept here" in text for text in await world.told(child.metadata.name, "Refused"))
    await has_no(world, "Stalled")
    assert "b" not in await children(world)


@pytest.mark.nightly
async def test_a_new_leader_that_cannot_take_over_one_hub_leads_all_others(world: World, elsewhere: World) -> None:
    await world.hub(members={"replicas": 1})
    await goes_on(world, "before")
    await elsewhere.hub(members={"replicas": 1})
    async with policy_against(world, "UPDATE", "registryslices"):
        await settles(lambda: refuses_writes(world))

        await world.operators.kill_leader()

        await goes_on(elsewhere, "led")
        stalled = await world.hub_condition("Stalled", "True", "Invalid")
        assert "what an earlier leader has left of the hub can't be taken over: " in stalled.message
        assert "registryslices are kept here" in stalled.message
        before = await world.running(["before"])
        await world.child("after")
    await world.ready("after")
    await has_no(world, "Stalled")
    untouched(before, await world.running(["after", "before"]), ["before"])


async def refuses_writes(world: World) -> None:
    """The policy is in force some seconds after it was created."""
    name = (await world.slices())[0].metadata.name
    refusal = None
    try:
        await world.api.patch(SLICES, world.namespace, name, {"metadata": {"annotations": {"probe": "a"}}})
    except ApiError as error:
        refusal = error.message
    assert "registryslices are kept here" in (refusal or "")


async def refuses_deletion(world: World, name: str) -> None:
    """The policy is in force some seconds after it was created."""
    await world.child(name, suspend=True)
    refusal = None
    try:
        await world.api.delete(CHILDREN, world.namespace, name)
    except ApiError as error:
        refusal = error.message
    assert "children are kept here" in (refusal or "")


WRONG = [
    ({"spec": {"nodeSelector": 5}}, "spec.members.template.spec.nodeSelector is 5; it must be an object"),
    ({"spec": {"containers": ["agent"]}}, 'spec.members.template.spec.containers[0] is "agent"; it must be an object'),
    ({"spec": {"nodeSelectr": {"zone": "a"}}}, "nodeSelectr"),
    (
        {"spec": {"containers": [{"name": "agent", "resources": {"limits": {"memory": "1GB x"}}}]}},
        "quantities must match",
    ),
    (
        {"spec": {"containers": [{"name": "agent", "resources": {"requests": {"memory": "2Gi"}}}]}},
        "must be less than or equal to memory limit of 1Gi",
    ),
    ({"spec": {"containers": [{"name": "other"}]}}, "spec.template.spec.containers[1].image: Required value"),
]


async def test_a_wrong_template_is_reported_and_the_last_accepted_one_keeps_running(world: World) -> None:
    await world.hub(members={"replicas": 1, "template": {"metadata": {"annotations": {"mine": "a"}}}})
    await goes_on(world, "before")

    for number, (template, sentence) in enumerate(WRONG):
        await world.edit_hub(members={"template": None})
        await world.edit_hub(members={"template": template, "replicas": 2 - number % 2})

        await settles(partial(says, world, sentence))
        await goes_on(world, f"child-{number}")
        await world.hub_ready()

    await world.edit_hub(members={"template": None})
    await world.edit_hub(members={"template": {"metadata": {"annotations": {"mine": "b"}}}})
    await world.hub_condition("Accepted", "True")
    await has_no(world, "Stalled")

    async def rolled_out() -> None:
        stateful_set = await world.api.get(STATEFUL_SETS, world.namespace, "hub")
        assert stateful_set["spec"]["template"]["metadata"]["annotations"]["mine"] == "b"

    await settles(rolled_out)


async def test_a_hub_with_a_rejected_edit_keeps_working_by_its_last_accepted_spec(world: World) -> None:
    """Lost members are replaced too, and a corrected spec is followed."""
    await world.hub(members={"replicas": 2}, migration={"onRestart": "Move"})
    await goes_on(world, "before")

    await world.edit_hub(distribution={"strategy": "Nearest"}, members={"replicas": 3})

    accepted = await world.hub_condition("Accepted", "False", "UnknownStrategy")
    assert "spec.distribution.strategy 'Nearest' is not known" in accepted.message
    await world.hub_condition("Stalled", "True", "UnknownStrategy")
    await goes_on(world, "while")
    lost = (await world.ready("while"))["while"].status.member
    await world.kubectl("delete", "pod", lost, "--force", "--grace-period=0")
    await world.ready("before")
    await world.ready("while")
    told = await world.get_hub()
    assert [member.name for member in told.status.members] == ["hub-0", "hub-1"]

    await world.edit_hub(distribution={"strategy": "Modulo"})
    await world.hub_condition("Accepted", "True")
    await has_no(world, "Stalled")
    await world.hub_ready()
    assert len((await world.get_hub()).status.members) == 3


async def says(world: World, sentence: str) -> None:
    """Assert that the Hub is not accepted for this reason."""
    condition = find_condition((await world.get_hub()).status.conditions, "Accepted")
    assert condition
    assert (condition.status, condition.reason) == ("False", "Invalid")
    assert sentence in condition.message


async def test_a_new_hub_with_a_wrong_template_gets_members_once_it_is_corrected(world: World) -> None:
    await world.hub(ready=False, members={"replicas": 1, "template": {"spec": {"volumes": [{"emptyDir": {}}]}}})
    await world.child("waits")

    accepted = await world.hub_condition("Accepted", "False", "Invalid")
    assert "spec.members.template.spec.volumes[0].name is missing or null; it must be a text" in accepted.message
    ready = await world.hub_condition("Ready", "False", "MembersNotReady")
    assert "volumes[0].name" in ready.message

    async def its_child_says_where_to_look() -> None:
        placed = find_condition((await world.get_child("waits")).status.conditions, "Placed")
        assert placed
        assert placed.message.endswith("(Invalid; the Hub's condition Stalled has the cause)")

    await settles(its_child_says_where_to_look)

    await world.edit_hub(members={"template": None})
    await world.ready("waits")


@pytest.mark.parametrize("uid", ["", "another", "its own"])
async def test_a_foreign_object_with_a_hubs_label_is_not_the_hubs(world: World, uid: str) -> None:
    hub = await world.hub(members={"replicas": 1})
    await goes_on(world, "before")
    labels = {LABEL_HUB: "hub"}
    if uid:
        labels[LABEL_HUB_UID] = hub.metadata.uid if uid == "its own" else uid
    containers = [{"name": "web", "image": "none", "command": SLEEP}]
    metadata = {"name": "web", "labels": labels}
    await world.api.create(PODS, world.namespace, {"metadata": metadata, "spec": {"containers": containers}})
    await world.api.create(LEASES, world.namespace, {"metadata": metadata, "spec": {"holderIdentity": "web"}})

    await goes_on(world, "after")

    told = await world.get_hub()
    assert [member.name for member in told.status.members] == ["hub-0"]
    assert told.status.replicas == 1
    accepted = find_condition(told.status.conditions, "Accepted")
    assert accepted
    assert accepted.status == "True"


async def test_a_new_hub_does_not_wait_for_foreign_objects_with_its_label(world: World) -> None:
    await pods_may_be_created(world.api, world.namespace)
    metadata = {"name": "web", "labels": {LABEL_HUB: "hub"}}
    spec = {"containers": [{"name": "web", "image": "none", "command": SLEEP}]}
    await world.api.create(PODS, world.namespace, {"metadata": metadata, "spec": spec})
    await world.api.create(LEASES, world.namespace, {"metadata": metadata, "spec": {"holderIdentity": "web"}})

    await world.hub(members={"replicas": 1})

    await goes_on(world, "a")


async def test_a_hub_keeps_working_without_a_slice_that_a_quota_rejects(world: World) -> None:
    """The first slice of a second member can't be created: the first member gets all children."""
    await world.hub(members={"replicas": 1})
    await quota(world, "registryslices", hard=1, used=1)

    await world.edit_hub(members={"replicas": 2})

    stalled = await world.hub_condition("Stalled", "True", "Refused")
    assert "the slices of member hub-1 can't be written: " in stalled.message
    assert "exceeded quota: registryslices" in stalled.message
    await goes_on(world, "a")
    await world.api.delete(QUOTAS, world.namespace, "registryslices")
    await has_no(world, "Stalled")
    await world.hub_ready()


async def test_a_hub_and_its_children_report_why_members_do_not_run(world: World) -> None:
    spec = {"hard": {"pods": "1"}}
    await world.api.create(QUOTAS, world.namespace, {"metadata": {"name": "pods"}, "spec": spec})
    await world.hub(members={"replicas": 2, "python": {"configMap": "code"}}, ready=False)
    await world.child("a")

    async def both_are_named() -> None:
        hub = await world.get_hub()
        ready = find_condition(hub.status.conditions, "Ready")
        assert ready
        assert 'configmap "code" not found' in ready.message, ready
        assert "exceeded quota: pods" in ready.message, ready
        assert all(member.message for member in hub.status.members), hub.status.members

    await settles(both_are_named)

    async def the_child_waits_for_them() -> None:
        placed = find_condition((await world.get_child("a")).status.conditions, "Placed")
        assert placed
        assert "FailedMount" in placed.message or "FailedCreate" in placed.message, placed

    await settles(the_child_waits_for_them)

    await world.api.create(CONFIG_MAPS, world.namespace, {"metadata": {"name": "code"}, "data": {}})
    await world.api.delete(QUOTAS, world.namespace, "pods")
    hub = await world.hub_ready()
    assert [member.message for member in hub.status.members] == ["", ""]
    await world.ready("a")


async def in_force(world: World, kind: Kind[Any], name: str) -> None:
    """Wait until a policy rejects updates of an object's status, which is some seconds after the policy was created."""

    async def check() -> None:
        refusal = ""
        try:
            await world.api.patch(kind, world.namespace, name, {}, subresource="status", dry_run=True)
        except ApiError as error:
            refusal = error.message
        assert "are kept here" in refusal

    await settles(check)


async def in_force_for_members(world: World) -> None:
    """Wait until the policy on Leases rejects an update by a user who is named like the hub's members."""
    await world.api.create(LEASES, world.namespace, {"metadata": {"name": "probe"}})
    like_members = ("--as", "probe:processhub-hub", "--as-group", "system:masters")

    async def check() -> None:
        said = ""
        try:
            await world.kubectl("label", "lease", "probe", "a=b", "--overwrite", "--dry-run=server", *like_members)
        except ClusterError as error:
            said = str(error)
        assert "leases are kept here" in said

    await settles(check)


async def test_a_member_whose_reports_a_policy_rejects_says_so(world: World) -> None:
    await world.hub(members={"replicas": 1})
    await goes_on(world, "before")
    async with policy_against(world, "UPDATE", "registryslices/status"):
        names = (f"a-{number}" for number in itertools.count())

        async def it_is_said() -> str:
            """The policy is in force some seconds after it was created, and has the members' own words from then on."""
            await world.child(name := next(names))
            stalled = find_condition((await world.get_hub()).status.conditions, "Stalled")
            assert stalled
            assert stalled.reason == "Refused"
            assert "what member hub-0 runs can't be reported: " in stalled.message
            assert "registryslices/status are kept here" in stalled.message
            return name

        last = await settles(it_is_said)
        ready = await world.condition(last, "Ready", "False", "Pending")
        assert "what the member reports is refused; the Hub's condition Stalled has the cause" in ready.message
        (member,) = (await world.get_hub()).status.members
        assert "registryslices/status are kept here" in member.message
        assert any("registryslices/status are kept here" in text for text in await world.told("hub", "Refused"))

    await world.ready("before", last)
    await has_no(world, "Stalled")
    assert [member.message for member in (await world.get_hub()).status.members] == [""]


async def test_statuses_that_a_policy_rejects_are_named_on_the_hub(world: World) -> None:
    await world.hub(members={"replicas": 1})
    await goes_on(world, "before")
    async with policy_against(world, "UPDATE", "children/status"):
        await in_force(world, CHILDREN, "before")

        await world.child("a")

        stalled = await world.hub_condition("Stalled", "True", "Invalid")
        assert "the status of child a can't be written: " in stalled.message
        assert "children/status are kept here" in stalled.message
        await world.running(["before", "a"])
    await world.ready("a")
    await has_no(world, "Stalled")


async def test_an_event_names_the_policy_that_rejects_the_status_of_a_hub(world: World) -> None:
    await world.hub(members={"replicas": 1})
    async with policy_against(world, "UPDATE", "hubs/status"):
        await in_force(world, HUBS, "hub")

        await world.edit_hub(members={"replicas": 1, "maxChildren": 100})

        async def it_is_told() -> None:
            told = await world.told("hub", "Refused")
            assert any("the status of hub hub can't be written: " in text for text in told), told
            assert any("hubs/status are kept here" in text for text in told), told

        await settles(it_is_told)
        await world.child("a")
        await world.running(["a"])
    await world.hub_observed()


@pytest.mark.parametrize("when", ["while it runs", "before it starts"])
async def test_a_member_whose_lease_a_policy_rejects_says_so(world: World, when: str) -> None:
    if when == "while it runs":
        await world.hub(members={"replicas": 1})
        await goes_on(world, "a")
    others = "!request.userInfo.username.endsWith(':processhub-hub')"
    async with policy_against(world, "UPDATE", "leases", "coordination.k8s.io", unless=others):
        if when == "before it starts":
            await in_force_for_members(world)
            await world.hub(members={"replicas": 1}, ready=False)
            await world.child("a")

        async def it_is_said() -> None:
            ready = find_condition((await world.get_hub()).status.conditions, "Ready")
            assert ready
            assert "hub-0: its Lease can't be renewed: " in ready.message, ready
            assert "leases are kept here" in ready.message, ready

        await settles(it_is_said)
    await world.hub_ready()
    await world.running(["a"])
    assert not (await world.slices())[0].status.lease_refused
