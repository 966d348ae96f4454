"""The API server in memory, for tests in one thread, behaves like a real one where the product depends on it.

The product's own client sends the requests, in the way in which the product sends them. This module has writes of
single objects.
"""

from __future__ import annotations

import pytest
from apiservers import (
    CHILD,
    CHILDREN,
    CONFIG_MAPS,
    HUBS,
    LEASES,
    SERVERS,
    SLICES,
    ApiServer,
    Json,
    asked,
    generation,
    version,
)

from processhub.api.slice import FORMAT
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.errors import AlreadyExistsError, ConflictError, InvalidError, NotFoundError

pytest_plugins = ("apiservers",)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> ApiServer:
    """The API server under test."""
    return asked(request)


async def test_versions_rise_over_all_kinds(server: ApiServer) -> None:
    items = [await server.create(kind) for kind in (HUBS, CONFIG_MAPS, CHILDREN, SLICES, LEASES)]
    versions = [version(item) for item in items]

    _, listed = await server.client.list(LEASES, server.namespace)
    assert versions == sorted(set(versions))
    assert int(listed) >= versions[-1]
    assert int(await server.client.latest_version(HUBS)) >= versions[-1]
    assert len({item["metadata"]["uid"] for item in items}) == len(items)


async def test_a_created_object_has_the_servers_metadata(server: ApiServer) -> None:
    metadata = {"uid": "mine", "generation": 7, "labels": {"a": "b"}}
    item = await server.create(HUBS, metadata=metadata, status={"readyReplicas": 3})

    assert item["metadata"]["uid"] != "mine"
    assert generation(item) == 1
    assert item["metadata"]["creationTimestamp"].endswith("Z")
    assert item["metadata"]["namespace"] == server.namespace
    assert item["metadata"]["labels"] == {"a": "b"}
    assert "readyReplicas" not in item.get("status", {})
    assert await server.get(HUBS, item) == item


async def test_a_name_is_unique(server: ApiServer) -> None:
    item = await server.create(CHILDREN)

    with pytest.raises(AlreadyExistsError):
        await server.create(CHILDREN, item["metadata"]["name"], spec={**CHILD, "hub": "other"})
    assert await server.get(CHILDREN, item) == item
    await server.create(CONFIG_MAPS, item["metadata"]["name"])


async def test_a_name_is_generated_from_its_prefix(server: ApiServer) -> None:
    body = {"metadata": {"generateName": "made-"}}
    names = {(await server.client.create(CONFIG_MAPS, server.namespace, body))["metadata"]["name"] for _ in range(3)}

    assert len(names) == 3
    assert all(name.startswith("made-") and name != "made-" for name in names)


async def test_spec_and_status_are_replaced_each_without_the_other(server: ApiServer) -> None:
    item = await server.create(HUBS)
    spec = item.pop("spec")

    item = await server.replace(HUBS, {**item, "status": {"readyReplicas": 3}}, subresource="status")
    assert item["spec"] == spec
    status = item.pop("status")
    assert status["readyReplicas"] == 3
    item = await server.replace(HUBS, item)
    assert (item["spec"], item["status"]) == (spec, status)


async def test_the_owners_of_fields_are_forgotten_for_good_by_an_empty_entry(server: ApiServer) -> None:
    item = await server.create(HUBS)
    metadata = {**item["metadata"], "managedFields": [{}]}

    item = await server.replace(HUBS, {**item, "metadata": metadata})
    assert "managedFields" not in item["metadata"]
    item = await server.replace(HUBS, {**item, "status": {"readyReplicas": 3}}, subresource="status")
    assert "managedFields" not in item["metadata"]
    assert await server.get(HUBS, item) == item


async def test_a_missing_object_is_not_found(server: ApiServer) -> None:
    none = server.body(SLICES, metadata={"namespace": server.namespace, "resourceVersion": "5"}, spec={})
    tests = [{"op": "test", "path": "/metadata/uid", "value": "u"}]
    for request in (
        server.get(SLICES, none),
        server.delete(SLICES, none),
        server.delete(SLICES, none, uid="u", resource_version="5"),
        server.patch(SLICES, none, {"metadata": {"labels": {"a": "b"}}}),
        server.patch(SLICES, none, tests, content_type=JSON_PATCH),
        server.replace(SLICES, none, subresource="status"),
        server.apply(SLICES, none, "m", subresource="status"),
    ):
        with pytest.raises(NotFoundError):
            await request


async def test_a_deletion_with_an_old_resource_version_is_a_conflict(server: ApiServer) -> None:
    item = await server.create(LEASES)
    read = {"uid": item["metadata"]["uid"], "resource_version": item["metadata"]["resourceVersion"]}
    await server.patch(LEASES, item, {"spec": {"holderIdentity": "a"}})

    with pytest.raises(ConflictError):
        await server.delete(LEASES, item, **read)
    with pytest.raises(ConflictError):
        await server.delete(LEASES, item, uid="another")
    await server.delete(LEASES, item, uid=read["uid"])
    with pytest.raises(NotFoundError):
        await server.get(LEASES, item)


async def test_only_the_spec_raises_the_generation(server: ApiServer) -> None:
    item = await server.create(CHILDREN)

    marked = await server.patch(CHILDREN, item, {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}})
    reported = await server.patch(CHILDREN, item, {"status": {"state": "Running"}}, subresource="status")
    changed = await server.patch(CHILDREN, item, {"spec": {"tags": ["eu"]}})
    same = await server.patch(CHILDREN, item, {"spec": {"tags": ["eu"]}})

    assert [generation(each) for each in (item, marked, reported, changed)] == [1, 1, 1, 2]
    assert version(item) < version(marked) < version(reported) < version(changed)
    assert same == changed, "a write that changes nothing is none"


async def test_a_replacement_with_an_old_resource_version_is_a_conflict(server: ApiServer) -> None:
    item = await server.create(SLICES)
    fields = ("name", "namespace", "uid", "resourceVersion")
    metadata = {name: item["metadata"][name] for name in fields}

    changed = await server.replace(SLICES, item | {"metadata": metadata, "spec": {**item["spec"], "term": 6}})
    with pytest.raises(ConflictError) as refused:
        await server.replace(SLICES, item | {"spec": {**item["spec"], "term": 7}})

    assert not isinstance(refused.value, AlreadyExistsError)
    assert changed["spec"]["term"] == 6
    assert generation(changed) == 2
    kept = ("uid", "creationTimestamp", "name")
    assert {name: changed["metadata"][name] for name in kept} == {name: item["metadata"][name] for name in kept}
    with pytest.raises(ConflictError):
        await server.replace(SLICES, changed | {"metadata": {**changed["metadata"], "uid": "another"}})
    with pytest.raises(InvalidError):
        await server.replace(SLICES, changed | {"metadata": {"name": metadata["name"], "namespace": server.namespace}})
    assert await server.get(SLICES, item) == changed


async def test_a_renewal_with_an_old_resource_version_is_a_conflict(server: ApiServer) -> None:
    item = await server.create(LEASES, spec={"holderIdentity": "a", "leaseDurationSeconds": 15})
    renewed = await server.replace(LEASES, item | {"spec": {"holderIdentity": "b"}})

    assert renewed["spec"] == {"holderIdentity": "b"}, "what a replacement leaves out is gone"
    with pytest.raises(ConflictError):
        await server.replace(LEASES, item | {"spec": {"holderIdentity": "c"}})
    await server.delete(LEASES, item)
    with pytest.raises((ConflictError, NotFoundError)):
        await server.replace(LEASES, renewed)
    await server.create(LEASES, item["metadata"]["name"])
    with pytest.raises(ConflictError):
        await server.replace(LEASES, renewed)


async def test_a_merge_patch_removes_what_is_null(server: ApiServer) -> None:
    item = await server.create(
        CONFIG_MAPS, metadata={"annotations": {"a": "1", "b": "2"}}, data={"text": "x", "other": "y"}
    )
    patch = {"metadata": {"annotations": {"a": None, "c": "3"}}, "data": {"other": None, "text": "z"}}
    changed = await server.patch(CONFIG_MAPS, item, patch)

    assert changed["metadata"]["annotations"] == {"b": "2", "c": "3"}
    assert changed["data"] == {"text": "z"}
    again = await server.patch(CONFIG_MAPS, item, {"metadata": {"annotations": None}})
    assert "annotations" not in again["metadata"]


async def test_a_merge_patch_replaces_lists(server: ApiServer) -> None:
    item = await server.create(CHILDREN, spec={**CHILD, "tags": ["a", "b"]})
    changed = await server.patch(CHILDREN, item, {"spec": {"tags": ["c"], "nodes": ["n"]}})

    assert changed["spec"]["tags"] == ["c"]
    assert changed["spec"]["nodes"] == ["n"]
    assert changed["spec"]["exec"]["command"] == ["sleep"]


async def test_a_merge_patch_may_name_a_resource_version(server: ApiServer) -> None:
    item = await server.create(HUBS)
    read = {name: item["metadata"][name] for name in ("uid", "resourceVersion")}
    changed = await server.patch(HUBS, item, {"metadata": {**read, "annotations": {"a": "1"}}})

    assert changed["metadata"]["annotations"] == {"a": "1"}
    with pytest.raises(ConflictError):
        await server.patch(HUBS, item, {"metadata": {**read, "annotations": {"a": "2"}}})
    with pytest.raises(ConflictError):
        await server.patch(HUBS, item, {"metadata": read, "status": {"readyReplicas": 1}}, subresource="status")
    with pytest.raises((ConflictError, InvalidError)):
        await server.patch(HUBS, item, {"metadata": {"uid": "another", "annotations": {"a": "2"}}})
    assert await server.get(HUBS, item) == changed


async def test_the_uid_is_no_condition_of_a_patched_status(server: ApiServer) -> None:
    item = await server.create(HUBS)
    stranger = {"metadata": {"uid": "another"}, "status": {"readyReplicas": 1}}

    assert (await server.patch(HUBS, item, stranger, subresource="status"))["status"]["readyReplicas"] == 1
    item = await server.get(HUBS, item)
    other = item | {"metadata": {**item["metadata"], "uid": "another"}}
    with pytest.raises(ConflictError):
        await server.replace(HUBS, other, subresource="status")
    assert await server.get(HUBS, item) == item


async def test_spec_and_status_are_written_separately(server: ApiServer) -> None:
    item = await server.create(SLICES)
    both = {"spec": {"term": 9}, "status": {"holder": "h"}}

    reported = await server.patch(SLICES, item, both | {"metadata": {"labels": {"a": "b"}}}, subresource="status")
    assert reported["spec"] == item["spec"]
    assert reported["status"] == {"holder": "h"}
    assert "labels" not in reported["metadata"]
    replaced = await server.replace(SLICES, reported | {"spec": {}, "status": {"holder": "i"}}, subresource="status")
    assert replaced["spec"] == item["spec"]
    assert replaced["status"] == {"holder": "i"}
    with pytest.raises(ConflictError):
        await server.replace(SLICES, item | {"status": {"holder": "j"}}, subresource="status")
    changed = await server.patch(SLICES, item, both)
    assert changed["spec"]["term"] == 9
    assert changed["status"] == {"holder": "i"}
    again = await server.replace(SLICES, {**changed, "status": {}, "spec": {**changed["spec"], "term": 10}})
    assert again["spec"]["term"] == 10
    assert again["status"] == {"holder": "i"}


async def test_a_json_patch_is_applied_only_if_its_tests_hold(server: ApiServer) -> None:
    item = await server.create(SLICES, metadata={"annotations": {"x.dev/a": "1"}})
    metadata, spec = item["metadata"], {**item["spec"], "term": 6}
    reported = await server.patch(SLICES, item, {"status": {"holder": "h"}}, subresource="status")
    patch = [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/metadata/generation", "value": metadata["generation"]},
        {"op": "test", "path": "/metadata/annotations/x.dev~1a", "value": "1"},
        {"op": "replace", "path": "/spec", "value": spec},
        {"op": "add", "path": "/metadata/annotations", "value": {"x.dev/b": "2"}},
    ]
    changed = await server.patch(SLICES, item, patch, content_type=JSON_PATCH)

    assert changed["spec"]["term"] == 6
    assert changed["metadata"]["annotations"] == {"x.dev/b": "2"}
    assert changed["status"] == reported["status"]
    assert generation(changed) == 2
    with pytest.raises(InvalidError):
        await server.patch(SLICES, item, patch, content_type=JSON_PATCH)
    removal = [{"op": "remove", "path": "/metadata/annotations/x.dev~1b"}]
    removed = await server.patch(SLICES, item, removal, content_type=JSON_PATCH)
    assert not removed["metadata"].get("annotations")
    assert generation(removed) == 2


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/metadata/annotations/none", "value": "1"},
        {"op": "test", "path": "/status/holder", "value": "h"},
        {"op": "remove", "path": "/metadata/annotations/none"},
        {"op": "replace", "path": "/spec/none/none", "value": 1},
    ],
    ids=["test of none", "test below none", "remove none", "replace none"],
)
async def test_a_json_patch_of_a_missing_field_is_rejected(server: ApiServer, operation: Json) -> None:
    item = await server.create(SLICES, metadata={"annotations": {"a": "1"}})

    with pytest.raises(InvalidError):
        await server.patch(SLICES, item, [operation], content_type=JSON_PATCH)
    assert await server.get(SLICES, item) == item


async def test_a_json_patch_of_the_status_changes_nothing_else(server: ApiServer) -> None:
    item = await server.create(SLICES)
    with_status = await server.replace(SLICES, item | {"status": {"holder": "h"}}, subresource="status")
    patch = [
        {"op": "test", "path": "/status/holder", "value": "h"},
        {"op": "replace", "path": "/status", "value": {"holder": "i"}},
        {"op": "replace", "path": "/spec/term", "value": 99},
    ]
    changed = await server.patch(SLICES, item, patch, content_type=JSON_PATCH, subresource="status")

    assert changed["status"] == {"holder": "i"}
    assert changed["spec"] == item["spec"]
    assert version(changed) > version(with_status)


async def test_a_dry_run_returns_the_result_and_stores_nothing(server: ApiServer) -> None:
    item = await server.create(HUBS)
    patch = {"spec": {"members": {"replicas": 5}}}

    would_be = await server.patch(HUBS, item, patch, dry_run=True)
    assert would_be["spec"]["members"]["replicas"] == 5
    new = server.body(HUBS, spec={"suspend": True})
    assert (await server.client.create(HUBS, server.namespace, new, dry_run=True))["metadata"]["uid"]
    applied = await server.apply(HUBS, new, "m", dry_run=True)
    assert applied["spec"]["suspend"] is True
    with pytest.raises(InvalidError):
        await server.patch(HUBS, item, {"spec": {"members": {"replicas": "five"}}}, dry_run=True)
    assert await server.get(HUBS, item) == item
    with pytest.raises(NotFoundError):
        await server.client.get(HUBS, server.namespace, new["metadata"]["name"])


async def test_defaults_are_set_and_unknown_fields_are_dropped(server: ApiServer) -> None:
    item = await server.create(SLICES, spec={**(await server.create(SLICES))["spec"], "none": 1, "holder": None})
    bare = {name: item["spec"][name] for name in ("hub", "hubUid", "member", "mode", "term")}

    assert "none" not in item["spec"]
    structs = {name: item["spec"][name] for name in ("settings", "tls")}
    defaults = {"holder": "", "format": FORMAT, "attempt": 0} | structs
    assert item["spec"] == bare | defaults
    assert item["spec"]["settings"]["startSeconds"] > 0
    assert item["spec"]["tls"]["required"] is False
    same = await server.replace(SLICES, item | {"spec": bare})
    assert same == item, "a replacement by the same without its defaults changes nothing"


@pytest.mark.parametrize(
    "spec",
    [
        {"term": "six"},
        {"term": -1},
        {"term": None},
        {"mode": "Other"},
        {"mode": "PerNode"},
        {"member": "none-1"},
        {"hubUid": "v"},
        {"term": 4},
        {"holder": "h" * 254},
    ],
    ids=str,
)
async def test_an_object_that_the_schema_rejects_is_not_stored(server: ApiServer, spec: Json) -> None:
    item = await server.create(SLICES)

    with pytest.raises(InvalidError):
        await server.patch(SLICES, item, {"spec": spec})
    patch = [{"op": "replace", "path": "/spec", "value": {**item["spec"], **spec}}]
    with pytest.raises(InvalidError):
        await server.patch(SLICES, item, patch, content_type=JSON_PATCH)
    assert await server.get(SLICES, item) == item


async def test_hub_and_id_of_a_child_are_immutable(server: ApiServer) -> None:
    item = await server.create(CHILDREN, spec={**CHILD, "id": "one"})

    for spec in ({"id": "two"}, {"id": None}, {"hub": "other"}, {"origin": "o"}):
        with pytest.raises(InvalidError):
            await server.patch(CHILDREN, item, {"spec": spec})
    assert await server.get(CHILDREN, item) == item


async def test_a_slice_rejects_a_lower_term(server: ApiServer) -> None:
    item = await server.create(SLICES)
    raised = await server.patch(SLICES, item, {"spec": {"term": 7, "attempt": 1}})

    with pytest.raises(InvalidError, match="must not fall"):
        await server.replace(SLICES, raised | {"spec": {**raised["spec"], "term": 6}})
    with pytest.raises(InvalidError):
        await server.patch(SLICES, item, {"spec": {"term": 6, "entries": {}}})
    assert await server.get(SLICES, item) == raised
    await server.delete(SLICES, item)
    again = await server.create(SLICES, item["metadata"]["name"], spec={**item["spec"], "term": 1})
    assert again["spec"]["term"] == 1, "the rule is of the object, and not of its name"
