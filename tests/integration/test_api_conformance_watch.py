"""Lists, watches, and deletions that take time: the API server in memory behaves like the real one."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec
import pytest
from apiservers import (
    ACCOUNT,
    CHILD,
    CHILDREN,
    CONFIG_MAPS,
    HUBS,
    LEASES,
    NAMESPACES,
    PODS,
    SERVERS,
    SLICES,
    ApiServer,
    Json,
    asked,
    generation,
    version,
)
from namespaces import create_namespace

from processhub.cluster.decoding import Undecodable
from processhub.cluster.errors import (
    AlreadyExistsError,
    ConflictError,
    GoneError,
    InvalidError,
    NamespaceTerminatingError,
    NotFoundError,
)
from processhub.cluster.kinds import SLICES as TYPED_SLICES
from processhub.cluster.kinds import metadata_of

pytest_plugins = ("apiservers",)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> ApiServer:
    """The API server under test."""
    return asked(request)


def names(items: list[Any]) -> list[str]:
    return [item["metadata"]["name"] for item in items]


async def test_lists_contain_the_selected_objects(server: ApiServer) -> None:
    team, hub = server.name("team"), server.name("hub")
    spec = {**CHILD, "hub": hub}
    a = await server.create(CHILDREN, metadata={"labels": {"team": team, "tier": "1"}})
    b = await server.create(CHILDREN, metadata={"labels": {"team": team}}, spec=spec)
    await server.create(CHILDREN, metadata={"labels": {"team": "none"}})
    c = await server.create(CHILDREN, spec=spec)
    await server.patch(CHILDREN, c, {"status": {"state": "Running"}}, subresource="status")

    async def listed(namespace: str | None = server.namespace, **selected: str) -> list[str]:
        items, _ = await server.client.list(CHILDREN, namespace, **selected)
        return names(items)

    assert await listed(labels=f"team={team}") == names([a, b])
    assert await listed(None, labels=f"team={team}") == names([a, b])
    assert await listed(labels=f"team={team},tier") == names([a])
    assert await listed(labels=f"team={team},tier=2") == []
    assert await listed(fields=f"spec.hub={hub}") == names([b, c])
    assert await listed(fields=f"spec.hub={hub},status.state=Running") == names([c])
    assert await listed(fields=f"spec.hub={hub}", labels=f"team={team}") == names([b])
    assert await listed(fields=f"metadata.name={names([a])[0]}") == names([a])
    assert await listed("none") == []
    with pytest.raises(InvalidError):
        await listed(fields="spec.origin=a")


async def test_metadata_can_be_listed_alone(server: ApiServer) -> None:
    item = await server.create(CONFIG_MAPS, metadata={"labels": {"alone": "1"}})
    (found,), _ = await server.client.list(metadata_of("v1", "configmaps"), server.namespace, labels="alone")

    assert not isinstance(found, Undecodable)
    assert (found.metadata.name, found.metadata.uid) == (item["metadata"]["name"], item["metadata"]["uid"])


async def test_the_pages_of_a_list_show_one_moment(server: ApiServer) -> None:
    one, two, three, four = [
        await server.create(CONFIG_MAPS, f"page-{number}", metadata={"labels": {"paged": "1"}}) for number in range(4)
    ]

    async def page(token: str = "") -> tuple[list[str], Json]:
        query = {"limit": "2", "labelSelector": "paged=1", "continue": token}
        answer = await server.client.raw("GET", CONFIG_MAPS.path(server.namespace), query=query)
        found = msgspec.json.decode(answer)
        return names(found["items"]), found["metadata"]

    first, metadata = await page()
    await server.delete(CONFIG_MAPS, four)
    await server.create(CONFIG_MAPS, "page-9", metadata={"labels": {"paged": "1"}})
    second, last = await page(metadata["continue"])

    assert (first, second) == (names([one, two]), names([three, four]))
    assert last["resourceVersion"] == metadata["resourceVersion"]
    assert not last.get("continue")
    events = await server.events(CONFIG_MAPS, last["resourceVersion"], 2, labels="paged=1")
    assert [(kind, *names([item])) for kind, item in events] == [("DELETED", "page-3"), ("ADDED", "page-9")]


async def test_a_watch_has_all_changes_in_their_order(server: ApiServer) -> None:
    _, begin = await server.client.list(SLICES, server.namespace)
    a = await server.create(SLICES)
    b = await server.create(SLICES)
    changed = await server.patch(SLICES, a, {"spec": {"term": 6}})
    reported = await server.patch(SLICES, b, {"status": {"holder": "h"}}, subresource="status")
    await server.create(CONFIG_MAPS)
    await server.patch(SLICES, a, {"spec": {"term": 6}})
    await server.delete(SLICES, a)

    events = await server.events(SLICES, begin, 5)
    assert [kind for kind, _ in events] == ["ADDED", "ADDED", "MODIFIED", "MODIFIED", "DELETED"]
    assert [item for _, item in events[:4]] == [a, b, changed, reported]
    last = events[4][1]
    assert last["metadata"]["uid"] == a["metadata"]["uid"]
    assert last["spec"] == changed["spec"]
    assert version(last) > version(reported), "a deletion has a version of its own"
    (event,) = await server.events(SLICES, reported["metadata"]["resourceVersion"], 1)
    assert event == ("DELETED", last), "a watch goes on after the version"


async def test_a_watch_continues_from_a_resource_version(server: ApiServer) -> None:
    _, begin = await server.client.list(TYPED_SLICES, server.namespace)
    seen: list[tuple[str, str]] = []
    item: Json | None = None
    async with asyncio.timeout(20):
        made = asyncio.create_task(server.create(SLICES))
        async for batch in server.client.watch(TYPED_SLICES, server.namespace, begin):
            seen += [(event.type, event.object.metadata.name) for event in batch if event.type != "BOOKMARK"]
            if item is None:
                item = await made
                await server.delete(SLICES, item)
            elif len(seen) == 2:
                break
    assert item is not None
    assert seen == [("ADDED", *names([item])), ("DELETED", *names([item]))]


async def test_a_watch_from_a_future_version_is_silent(server: ApiServer) -> None:
    _, now = await server.client.list(SLICES, server.namespace)
    watching = asyncio.create_task(server.events(SLICES, str(int(now) + 10**6), 1))
    await server.create(SLICES)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watching, 0.5)


async def test_a_watch_may_cover_all_namespaces(server: ApiServer) -> None:
    item = await server.create(LEASES, metadata={"labels": {"everywhere": "1"}})
    before = str(version(item) - 1)
    async with asyncio.timeout(20):
        first = await anext(aiter(server.client.watch(LEASES, None, before, labels="everywhere")))
    assert [(event.type, event.object) for event in first] == [("ADDED", item)]


async def test_a_watch_reports_an_object_that_is_no_longer_selected_as_deleted(server: ApiServer) -> None:
    hub = server.name("hub")
    _, begin = await server.client.list(CHILDREN, server.namespace)
    item = await server.create(CHILDREN, metadata={"labels": {"watched": "no"}}, spec={**CHILD, "hub": hub})
    into = await server.patch(CHILDREN, item, {"metadata": {"labels": {"watched": "yes"}}})
    await server.patch(CHILDREN, item, {"metadata": {"annotations": {"a": "1"}}})
    out = await server.patch(CHILDREN, item, {"metadata": {"labels": {"watched": None}}})
    await server.patch(CHILDREN, item, {"metadata": {"annotations": {"a": "2"}}})
    await server.patch(CHILDREN, item, {"status": {"member": hub}}, subresource="status")
    await server.patch(CHILDREN, item, {"status": {"member": "none"}}, subresource="status")
    await server.delete(CHILDREN, item)

    by_label = await server.events(CHILDREN, begin, 3, labels="watched=yes")
    assert [kind for kind, _ in by_label] == ["ADDED", "MODIFIED", "DELETED"]
    assert by_label[0][1] == into
    assert version(by_label[2][1]) == version(out)
    assert by_label[2][1]["metadata"]["labels"] == {"watched": "yes"}, "as it was last selected"
    by_field = await server.events(CHILDREN, begin, 2, fields=f"status.member={hub}")
    assert [kind for kind, _ in by_field] == ["ADDED", "DELETED"]
    of_hub = await server.events(CHILDREN, begin, 8, fields=f"spec.hub={hub}")
    assert [kind for kind, _ in of_hub] == ["ADDED", *["MODIFIED"] * 6, "DELETED"]


async def test_a_watch_ends_when_its_time_is_over(server: ApiServer) -> None:
    item = await server.create(HUBS)
    query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "1"}
    query["resourceVersion"] = str(version(item) - 1)
    text = await server.client.raw("GET", HUBS.path(server.namespace), query=query)

    (event,) = [msgspec.json.decode(line) for line in text.splitlines()]
    assert (event["type"], event["object"]) == ("ADDED", item)


async def test_a_version_that_is_too_old_is_gone(server: ApiServer) -> None:
    await server.create(HUBS)

    with pytest.raises(GoneError):
        await server.events(HUBS, server.forget(), 1)
    _, now = await server.client.list(HUBS, server.namespace)
    await server.create(HUBS)
    assert [kind for kind, _ in await server.events(HUBS, now, 1)] == ["ADDED"]


def owner(item: Json, kind: str = "ConfigMap", api_version: str = "v1") -> Json:
    return {"apiVersion": api_version, "kind": kind, "name": item["metadata"]["name"], "uid": item["metadata"]["uid"]}


async def test_an_object_is_deleted_with_the_last_of_its_owners(server: ApiServer) -> None:
    one, two = await server.create(CONFIG_MAPS), await server.create(CONFIG_MAPS)
    of_one = await server.create(CONFIG_MAPS, metadata={"ownerReferences": [owner(one)]})
    below = await server.create(CONFIG_MAPS, metadata={"ownerReferences": [owner(of_one)]})
    of_both = await server.create(CONFIG_MAPS, metadata={"ownerReferences": [owner(one), owner(two)]})
    stranger = one | {"metadata": {**two["metadata"], "uid": "00000000-0000-0000-0000-000000000000"}}
    of_none = await server.create(CONFIG_MAPS, metadata={"ownerReferences": [owner(stranger)]})
    assert await server.get(CONFIG_MAPS, of_one) == of_one

    await server.delete(CONFIG_MAPS, one)

    async def are_gone() -> bool:
        there, _ = await server.client.list(CONFIG_MAPS, server.namespace)
        return not {*names([of_one, below, of_none])} & {*names(there)}

    async def has_one_owner() -> bool:
        found = await server.get(CONFIG_MAPS, of_both)
        return bool(found["metadata"]["ownerReferences"] == [owner(two)])

    await server.in_time(are_gone, "those without an owner are gone")
    await server.in_time(has_one_owner, "the other has one owner left")


async def test_an_object_with_a_finalizer_stays_until_the_finalizer_is_removed(server: ApiServer) -> None:
    item = await server.create(HUBS, metadata={"finalizers": ["example.dev/wait"]})
    await server.delete(HUBS, item)
    ending = await server.get(HUBS, item)

    assert ending["metadata"]["deletionTimestamp"]
    assert version(ending) > version(item)
    assert generation(ending) == 2
    with pytest.raises(AlreadyExistsError):
        await server.create(HUBS, item["metadata"]["name"])
    await server.delete(HUBS, item)
    assert await server.get(HUBS, item) == ending
    marked = await server.patch(HUBS, item, {"metadata": {"annotations": {"a": "1"}}})
    assert marked["metadata"]["deletionTimestamp"] == ending["metadata"]["deletionTimestamp"]

    await server.patch(HUBS, item, {"metadata": {"finalizers": None}})
    with pytest.raises(NotFoundError):
        await server.get(HUBS, item)
    events = await server.events(HUBS, item["metadata"]["resourceVersion"], 3)
    assert [kind for kind, _ in events] == ["MODIFIED", "MODIFIED", "DELETED"]
    assert (await server.create(HUBS, item["metadata"]["name"]))["metadata"]["uid"] != item["metadata"]["uid"]


async def test_a_pod_on_a_node_is_deleted_when_its_kubelet_confirms_it(server: ApiServer) -> None:
    item = await server.create(PODS)
    with pytest.raises(ConflictError):
        await server.delete(PODS, item, uid="another")
    await server.delete(PODS, item, uid=item["metadata"]["uid"])
    ending = await server.get(PODS, item)

    assert ending["metadata"]["deletionTimestamp"] >= item["metadata"]["creationTimestamp"]
    assert ending["metadata"]["deletionGracePeriodSeconds"] == 30
    await server.delete(PODS, item)
    assert (await server.get(PODS, item))["metadata"]["uid"] == item["metadata"]["uid"]
    await server.delete(PODS, item, grace_period_seconds=0, uid=item["metadata"]["uid"])
    with pytest.raises(NotFoundError):
        await server.get(PODS, item)


async def test_a_pod_on_no_node_or_that_has_ended_is_deleted_at_once(server: ApiServer) -> None:
    container = {"name": "main", "image": "none"}
    spec = {"serviceAccountName": ACCOUNT, "schedulerName": "nobody", "containers": [container]}
    waiting, ended = await server.create(PODS, spec=spec), await server.create(PODS)
    await server.patch(PODS, ended, {"status": {"phase": "Failed"}}, subresource="status")
    for item in (waiting, ended):
        await server.delete(PODS, item)
        with pytest.raises(NotFoundError):
            await server.get(PODS, item)


async def test_a_namespace_being_deleted_is_emptied_and_rejects_new_objects(server: ApiServer) -> None:
    name = f"ending-{secrets.token_hex(4)}"
    with pytest.raises(NotFoundError):
        await server.client.create(CHILDREN, name, server.body(CHILDREN, spec=CHILD))
    await create_namespace(server.client, name)
    kept = server.body(HUBS, metadata={"finalizers": ["example.dev/wait"]}, spec={"suspend": True})
    kept = await server.client.create(HUBS, name, kept)
    await server.client.create(CONFIG_MAPS, name, server.body(CONFIG_MAPS))
    await server.client.delete(NAMESPACES, None, name)

    assert (await server.client.get(NAMESPACES, None, name))["metadata"]["deletionTimestamp"]
    with pytest.raises(NamespaceTerminatingError):
        await server.client.create(CONFIG_MAPS, name, server.body(CONFIG_MAPS))
    await server.patch(HUBS, kept, {"metadata": {"annotations": {"a": "1"}}})
    if server.memory is None:
        await server.patch(HUBS, kept, {"metadata": {"finalizers": None}})
        return  # the namespace's other objects go five seconds later or more

    async def is_empty() -> bool:
        return not (await server.client.list(CONFIG_MAPS, name))[0]

    await server.in_time(is_empty, "what is in it is deleted")
    assert (await server.get(HUBS, kept))["metadata"]["deletionTimestamp"]
    await server.patch(HUBS, kept, {"metadata": {"finalizers": None}})
