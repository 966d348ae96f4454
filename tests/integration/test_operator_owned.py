"""Objects of a Hub that somebody deletes or edits: the operator restores them at once and reports it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from operatorsite import Site
from operatorworld import World, new_world
from settling import settles

from processhub.api.kubernetes import Lease
from processhub.api.meta import Condition, find_condition
from processhub.api.naming import ANNOTATION_MODE, LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER
from processhub.api.slice import RegistrySlice
from processhub.cluster.kinds import CHILDREN, HUBS, LEASES, SLICES, Kind, untyped
from processhub.controller.store.ownedwatch import OWNED_KINDS

pytest_plugins = ("operatorworld",)
IDS = [f"c{number}" for number in range(6)]
KINDS: dict[str, Kind[Any]] = {
    "statefulset": untyped("apps/v1", "statefulsets"),
    "service": untyped("v1", "services"),
    "poddisruptionbudget": untyped("policy/v1", "poddisruptionbudgets"),
    "serviceaccount": untyped("v1", "serviceaccounts"),
    "rolebinding": untyped("rbac.authorization.k8s.io/v1", "rolebindings"),
}
DAEMON_SETS = untyped("apps/v1", "daemonsets")
BINDINGS = untyped("rbac.authorization.k8s.io/v1", "clusterrolebindings", namespaced=False)
CLUSTER_ROLES = untyped("rbac.authorization.k8s.io/v1", "clusterroles", namespaced=False)
OWNED = [
    ("rolebinding", "processhub-hub"),
    ("serviceaccount", "processhub-hub"),
    ("service", "hub"),
    ("service", "hub-members"),
    ("poddisruptionbudget", "hub"),
    ("statefulset", "hub"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def owning(site: Site) -> AsyncIterator[World]:
    """One hub with running children, for all tests of this module."""
    async with new_world(site) as made:
        await made.hub(members={"replicas": 2})
        await made.children(IDS)
        await made.running(IDS)
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def hub(owning: World) -> AsyncIterator[World]:
    """The shared hub, at rest before and after each test."""
    await owning.hub_ready()
    yield owning
    await owning.hub_ready()
    await owning.running(IDS)


async def back(check: Callable[[], Awaitable[None]]) -> None:
    """Wait until the object is restored: well below 2 s on an idle machine, 300 s without a watch."""
    await settles(check, every=0.02)


@pytest.mark.parametrize(("kind", "name"), OWNED, ids=[f"{kind} {name}" for kind, name in OWNED])
async def test_a_deleted_object_is_created_again(hub: World, kind: str, name: str) -> None:
    before = await hub.api.get(KINDS[kind], hub.namespace, name)

    await hub.api.delete(KINDS[kind], hub.namespace, name)

    async def made_again() -> None:
        after = await hub.api.get(KINDS[kind], hub.namespace, name)
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["metadata"]["labels"] == before["metadata"]["labels"]
        assert after["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]

    await back(made_again)
    await told(hub, f"{before['kind']} {name} was deleted")


@pytest.mark.parametrize(("kind", "name"), OWNED, ids=[f"{kind} {name}" for kind, name in OWNED])
@pytest.mark.parametrize(
    "edit", [{"labels": {LABEL_HUB: None}}, {"labels": {LABEL_HUB: "other"}}, {"ownerReferences": None}], ids=json.dumps
)
async def test_edited_labels_and_owners_are_restored(hub: World, kind: str, name: str, edit: dict[str, Any]) -> None:
    before = await hub.api.get(KINDS[kind], hub.namespace, name)

    await hub.api.patch(KINDS[kind], hub.namespace, name, {"metadata": edit})

    async def as_before() -> None:
        after = await hub.api.get(KINDS[kind], hub.namespace, name)
        for field in ("uid", "labels", "ownerReferences"):
            assert after["metadata"].get(field) == before["metadata"][field]

    await back(as_before)


@pytest.mark.parametrize(
    ("kind", "name", "edit"),
    [
        ("rolebinding", "processhub-hub", {"subjects": []}),
        ("service", "hub", {"spec": {"selector": {LABEL_HUB: "other"}}}),
        ("poddisruptionbudget", "hub", {"spec": {"maxUnavailable": 2}}),
        ("statefulset", "hub", {"spec": {"template": {"metadata": {"labels": {LABEL_HUB_UID: "other"}}}}}),
    ],
)
async def test_an_edited_field_is_restored(hub: World, kind: str, name: str, edit: dict[str, Any]) -> None:
    before = await hub.api.get(KINDS[kind], hub.namespace, name)
    field = next(iter(edit))

    await hub.api.patch(KINDS[kind], hub.namespace, name, edit)

    async def as_before() -> None:
        after = await hub.api.get(KINDS[kind], hub.namespace, name)
        assert after[field] == before[field]

    await back(as_before)
    await told(hub, f"{before['kind']} {name} was changed")


async def test_members_that_somebody_scales_down_return(hub: World) -> None:
    await hub.kubectl("scale", "statefulset", "hub", "--replicas=0")

    async def scaled_back() -> None:
        assert (await hub.api.get(KINDS["statefulset"], hub.namespace, "hub"))["spec"]["replicas"] == 2

    await back(scaled_back)
    await hub.running(IDS)


async def test_a_field_that_the_operator_does_not_set_is_kept(hub: World) -> None:
    """This includes the annotation of `kubectl rollout restart`."""
    mark = {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}

    await hub.api.patch(KINDS["statefulset"], hub.namespace, "hub", mark)
    await hub.hub_ready()

    after = await hub.api.get(KINDS["statefulset"], hub.namespace, "hub")
    assert after["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] == "now"
    assert not [text for text in await hub.events("hub", "ObjectPutBack") if "again and again" in text]


async def test_a_writer_that_keeps_changing_a_field_is_named_and_does_not_keep_the_operator_busy(hub: World) -> None:
    async def tug() -> None:
        while True:
            await hub.api.patch(KINDS["poddisruptionbudget"], hub.namespace, "hub", {"spec": {"maxUnavailable": 2}})
            await asyncio.sleep(0.05)

    async def named() -> None:
        texts = await hub.events("hub", "ObjectPutBack")
        assert [
            text for text in texts if text.startswith("PodDisruptionBudget hub is changed or deleted again and again")
        ], texts

    tugging = asyncio.create_task(tug())
    try:
        await settles(named)
    finally:
        tugging.cancel()
        await asyncio.gather(tugging, return_exceptions=True)


async def test_a_deleted_daemon_set_is_created_again(world: World) -> None:
    await world.hub(members={"mode": "PerNode"})
    before = await world.api.get(DAEMON_SETS, world.namespace, "hub")

    await world.api.delete(DAEMON_SETS, world.namespace, "hub")

    async def made_again() -> None:
        after = await world.api.get(DAEMON_SETS, world.namespace, "hub")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]

    await back(made_again)


@pytest.mark.parametrize("paused", [False, True], ids=["at rest", "all hubs paused"])
async def test_the_accounts_that_may_check_tokens_are_restored(hub: World, paused: bool) -> None:
    account = {"kind": "ServiceAccount", "name": "processhub-hub", "namespace": hub.namespace}
    await hub.edit_hub(annotations={"processhub.dev/paused": "true" if paused else None})

    await hub.api.patch(BINDINGS, None, "processhub-agents", {"subjects": []})

    async def allowed() -> None:
        assert account in ((await hub.api.get(BINDINGS, None, "processhub-agents")).get("subjects") or [])

    await back(allowed)
    await hub.edit_hub(annotations={"processhub.dev/paused": None})


async def test_the_binding_that_lets_members_check_tokens_is_made_again(hub: World) -> None:
    """It goes with its ClusterRole then, so that nothing of an installation is left when that is removed."""
    before, role = [await hub.api.get(kind, None, "processhub-agents") for kind in (BINDINGS, CLUSTER_ROLES)]

    await hub.api.delete(BINDINGS, None, "processhub-agents")

    async def made_again() -> None:
        after = await hub.api.get(BINDINGS, None, "processhub-agents")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["roleRef"] == before["roleRef"]
        assert {"kind": "ServiceAccount", "name": "processhub-hub", "namespace": hub.namespace} in after["subjects"]
        assert [owner["uid"] for owner in after["metadata"]["ownerReferences"]] == [role["metadata"]["uid"]]
        # Those by which helm knows what is its own. One with a version would be refused to the next upgrade.
        assert after["metadata"]["labels"].items() <= before["metadata"]["labels"].items()
        assert after["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert after["metadata"].get("annotations") == before["metadata"].get("annotations")

    await back(made_again)


async def test_objects_of_a_hub_with_a_rejected_edit_are_restored_too(hub: World) -> None:
    good = (await hub.get_hub()).spec.distribution.strategy
    await hub.edit_hub(distribution={"strategy": "NoSuch"})
    await hub.hub_condition("Accepted", "False")

    await hub.api.delete(KINDS["rolebinding"], hub.namespace, "processhub-hub")

    async def made_again() -> None:
        await hub.api.get(KINDS["rolebinding"], hub.namespace, "processhub-hub")

    await back(made_again)
    await hub.edit_hub(distribution={"strategy": good})
    await hub.hub_condition("Accepted", "True")


@pytest.mark.parametrize("value", [None, "other"], ids=["taken off", "another"])
@pytest.mark.parametrize("label", [LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER])
async def test_labels_of_slices_are_restored(hub: World, label: str, value: str | None) -> None:
    """Members and clients find the slices by a label: without it a member ends its children."""
    before = (await hub.slices())[0].metadata

    await hub.api.patch(SLICES, hub.namespace, before.name, {"metadata": {"labels": {label: value}}})

    async def as_before() -> None:
        after: RegistrySlice = await hub.api.get(SLICES, hub.namespace, before.name)
        assert (after.metadata.uid, after.metadata.labels) == (before.uid, before.labels)

    await back(as_before)


@pytest.mark.parametrize("value", [None, "other"], ids=["taken off", "another"])
@pytest.mark.parametrize("mark", [f"labels {LABEL_HUB}", f"labels {LABEL_HUB_UID}", f"annotations {ANNOTATION_MODE}"])
async def test_labels_and_annotations_of_leases_are_restored(hub: World, mark: str, value: str | None) -> None:
    """The admission policy checks a member's renewals by them."""
    field, name = mark.split()
    before: Lease = await hub.api.get(LEASES, hub.namespace, "hub.hub-0")

    await hub.api.patch(LEASES, hub.namespace, "hub.hub-0", {"metadata": {field: {name: value}}})

    async def as_before() -> None:
        after: Lease = await hub.api.get(LEASES, hub.namespace, "hub.hub-0")
        assert after.metadata.labels == before.metadata.labels
        assert after.metadata.annotations.get(ANNOTATION_MODE) == before.metadata.annotations[ANNOTATION_MODE]

    await back(as_before)


@pytest.mark.parametrize(("kind", "name"), [(SLICES, "hub.hub-0.0"), (LEASES, "hub.hub-0")], ids=["slice", "lease"])
async def test_owners_of_slices_and_leases_are_restored(hub: World, kind: Kind[Any], name: str) -> None:
    before = (await hub.api.get(kind, hub.namespace, name)).metadata

    await hub.api.patch(kind, hub.namespace, name, {"metadata": {"ownerReferences": None}})

    async def as_before() -> None:
        after = (await hub.api.get(kind, hub.namespace, name)).metadata
        assert (after.uid, after.owner_references) == (before.uid, before.owner_references)

    await back(as_before)


async def test_labels_annotations_and_conditions_of_other_writers_are_kept(world: World) -> None:
    hub = world  # The tests before have taken most of the repairs that an object may have in a row.
    await hub.hub(members={"replicas": 1})
    await hub.children(["c0"])
    await hub.running(["c0"])
    others = {"example.org/team": "x"}
    owned: list[tuple[Kind[Any], str]] = [(metadata_of_kind(KINDS[kind]), name) for kind, name in OWNED]
    for kind, name in [*owned, (SLICES, "hub.hub-0.0"), (LEASES, "hub.hub-0"), (HUBS, "hub"), (CHILDREN, "c0")]:
        drift = {} if kind in (HUBS, CHILDREN) else {LABEL_HUB: None}
        marks = {"labels": others | drift, "annotations": others}
        await hub.api.patch(kind, hub.namespace, name, {"metadata": marks})
    for kind, name in ((HUBS, "hub"), (CHILDREN, "c0")):
        conditions = (await hub.api.get(kind, hub.namespace, name)).status.conditions
        approved = Condition(type="Approved", status="True", reason="Done", last_transition_time="2026-01-01T00:00:00Z")
        status = {"status": {"conditions": [*conditions, approved]}}
        await hub.api.patch(kind, hub.namespace, name, status, subresource="status")

    await hub.edit_child("c0", tags=["edited"])  # Both statuses are written again.
    await hub.edit_hub(distribution={"rebalance": {"onJoin": False}})
    await hub.hub_observed()
    await hub.condition("c0", "Ready", "True")

    async def put_back_beside_them() -> None:
        for kind, name in [*owned, (SLICES, "hub.hub-0.0"), (LEASES, "hub.hub-0")]:
            metadata = (await hub.api.get(kind, hub.namespace, name)).metadata
            assert metadata.labels.get(LABEL_HUB) == "hub"
            assert (metadata.labels.items() >= others.items()) & (metadata.annotations.items() >= others.items())

    await back(put_back_beside_them)
    for kind, name in ((HUBS, "hub"), (CHILDREN, "c0")):
        item = await hub.api.get(kind, hub.namespace, name)
        assert item.metadata.labels.items() >= others.items()
        assert find_condition(item.status.conditions, "Approved") == approved, (kind.plural, item.status.conditions)
    await hub.edit_child("c0", tags=None)


def metadata_of_kind(kind: Kind[Any]) -> Kind[Any]:
    """Return the kind with structs for its metadata."""
    return next(known for known in OWNED_KINDS.values() if known.plural == kind.plural)


async def told(hub: World, beginning: str) -> None:
    """Wait until an Event on the Hub has this text."""

    async def check() -> None:
        texts = await hub.events("hub", "ObjectPutBack")
        assert [text for text in texts if text.startswith(beginning)], texts

    await settles(check)
