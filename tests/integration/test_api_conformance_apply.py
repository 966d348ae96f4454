"""Server-side apply: the API server in memory behaves like the real one."""

from __future__ import annotations

import pytest
from apiservers import CONFIG_MAPS, HUBS, SERVERS, STATEFUL_SETS, ApiServer, Json, asked, generation, version

from processhub.cluster.client import JSON_PATCH
from processhub.cluster.errors import ConflictError

pytest_plugins = ("apiservers",)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> ApiServer:
    """The API server under test."""
    return asked(request)


async def test_an_apply_creates_changes_or_keeps_an_object(server: ApiServer) -> None:
    body = server.body(CONFIG_MAPS, metadata={"labels": {"a": "1"}}, data={"x": "1"})
    made = await server.apply(CONFIG_MAPS, body, "one")
    same = await server.apply(CONFIG_MAPS, body, "one")
    changed = await server.apply(CONFIG_MAPS, body | {"data": {"x": "2"}}, "one")

    assert made["data"] == {"x": "1"}
    assert same == made, "nothing is written"
    assert changed["data"] == {"x": "2"}
    assert version(changed) > version(made)
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    managers = {entry["manager"] for entry in changed["metadata"]["managedFields"]}
    assert "one" in managers


async def test_an_apply_removes_fields_that_only_its_manager_has_applied(server: ApiServer) -> None:
    body = server.body(CONFIG_MAPS, metadata={"labels": {"a": "1", "b": "2"}}, data={"x": "1", "y": "1", "z": "1"})
    item = await server.apply(CONFIG_MAPS, body, "one")
    await server.patch(CONFIG_MAPS, item, {"data": {"w": "user"}})
    other = server.body(CONFIG_MAPS, item["metadata"]["name"], data={"y": "1", "v": "two"})
    await server.apply(CONFIG_MAPS, other, "two")

    less = server.body(CONFIG_MAPS, item["metadata"]["name"], metadata={"labels": {"a": "1"}}, data={"z": "1"})
    changed = await server.apply(CONFIG_MAPS, less, "one")
    assert changed["data"] == {"y": "1", "z": "1", "w": "user", "v": "two"}
    assert changed["metadata"]["labels"] == {"a": "1"}
    last = await server.apply(CONFIG_MAPS, server.body(CONFIG_MAPS, item["metadata"]["name"]), "two")
    assert last["data"] == {"z": "1", "w": "user"}


async def test_a_field_belongs_to_its_last_writer(server: ApiServer) -> None:
    body = server.body(CONFIG_MAPS, data={"x": "1", "y": "1"})
    name = body["metadata"]["name"]
    item = await server.apply(CONFIG_MAPS, body, "one")

    await server.patch(CONFIG_MAPS, item, {"data": {"x": "user"}})
    without = await server.apply(CONFIG_MAPS, server.body(CONFIG_MAPS, name, data={"y": "1"}), "one")
    assert without["data"] == {"x": "user", "y": "1"}, "the field is the user's by now"
    forced = await server.apply(CONFIG_MAPS, body, "one")
    assert forced["data"] == {"x": "1", "y": "1"}
    taken = await server.apply(CONFIG_MAPS, server.body(CONFIG_MAPS, name, data={"y": "2"}), "two")
    assert taken["data"] == {"x": "1", "y": "2"}
    rest = await server.apply(CONFIG_MAPS, server.body(CONFIG_MAPS, name, data={"x": "1"}), "one")
    assert rest["data"] == {"x": "1", "y": "2"}


async def test_fields_of_a_created_object_stay_when_they_are_no_longer_applied(server: ApiServer) -> None:
    item = await server.create(CONFIG_MAPS, data={"x": "1", "y": "1"})
    name = item["metadata"]["name"]
    await server.apply(CONFIG_MAPS, server.body(CONFIG_MAPS, name, data={"x": "1", "z": "1"}), "one")
    left = await server.apply(CONFIG_MAPS, server.body(CONFIG_MAPS, name), "one")

    assert left["data"] == {"x": "1", "y": "1"}


async def test_items_of_a_list_are_applied_by_their_keys(server: ApiServer) -> None:
    item = await server.create(HUBS)

    def condition(kind: str, **fields: str) -> Json:
        base = {"status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {"type": kind, **base, **fields}

    def status(*conditions: Json) -> Json:
        return server.body(HUBS, item["metadata"]["name"], status={"conditions": list(conditions), "selector": "a=b"})

    async def applied(manager: str, *conditions: Json) -> list[tuple[str, str]]:
        stored = await server.apply(HUBS, status(*conditions), manager, subresource="status")
        assert stored["status"]["selector"] == "a=b"
        return sorted((each["type"], each["status"]) for each in stored["status"].get("conditions", ()))

    assert await applied("one", condition("A"), condition("B")) == [("A", "True"), ("B", "True")]
    assert await applied("two", condition("C")) == [("A", "True"), ("B", "True"), ("C", "True")]
    assert await applied("one", condition("B", status="False")) == [("B", "False"), ("C", "True")]
    assert await applied("two") == [("B", "False")]
    assert generation(await server.get(HUBS, item)) == 1


async def test_an_applied_status_loses_the_fields_that_are_left_out(server: ApiServer) -> None:
    item = await server.create(HUBS)
    name, uid = item["metadata"]["name"], item["metadata"]["uid"]
    body = server.body(HUBS, name, metadata={"uid": uid}, status={"readyReplicas": 3, "selector": "a=b"})
    await server.apply(HUBS, body, "one", subresource="status")
    less = await server.apply(HUBS, body | {"status": {"selector": "c=d"}}, "one", subresource="status")

    assert less["status"]["selector"] == "c=d"
    assert "readyReplicas" not in less["status"]
    assert less["spec"] == item["spec"]
    other = server.body(HUBS, name, metadata={"uid": "u"}, status={"selector": "e=f"})
    assert (await server.apply(HUBS, other, "one", subresource="status"))["status"]["selector"] == "e=f"
    old = server.body(HUBS, name, metadata={"resourceVersion": item["metadata"]["resourceVersion"]}, status={})
    with pytest.raises(ConflictError):
        await server.apply(HUBS, old, "one", subresource="status")


async def test_an_apply_may_name_a_resource_version(server: ApiServer) -> None:
    body = server.body(CONFIG_MAPS, data={"x": "1"})
    item = await server.apply(CONFIG_MAPS, body, "one")
    await server.patch(CONFIG_MAPS, item, {"data": {"x": "2"}})
    read = {"name": item["metadata"]["name"], "resourceVersion": item["metadata"]["resourceVersion"]}

    with pytest.raises(ConflictError):
        await server.apply(CONFIG_MAPS, body | {"metadata": read}, "one")
    await server.delete(CONFIG_MAPS, item)
    uid = {"name": read["name"], "uid": item["metadata"]["uid"]}
    with pytest.raises(ConflictError):
        await server.apply(CONFIG_MAPS, body | {"metadata": uid}, "one")
    again = await server.apply(CONFIG_MAPS, body | {"metadata": read}, "one")
    assert again["metadata"]["uid"] != item["metadata"]["uid"], "a version alone is no condition where there is none"


async def test_the_applied_fields_of_a_workload_are_restored(server: ApiServer) -> None:
    def workload(*env: str, **ports: int) -> Json:
        container = {
            "name": "agent",
            "image": "none",
            "env": [{"name": name, "value": "1"} for name in env],
            "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        }
        template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
        spec = {"serviceName": name, "selector": {"matchLabels": {"app": name}}, "template": template}
        return server.body(STATEFUL_SETS, name, spec=spec | {"replicas": 0})

    def reported(item: Json) -> tuple[list[str], list[int], int]:
        (container,) = [each for each in item["spec"]["template"]["spec"]["containers"] if each["name"] == "agent"]
        ports = sorted(each["containerPort"] for each in container.get("ports", ()))
        return sorted(each["name"] for each in container["env"]), ports, generation(item)

    name = server.name("workload")
    body = workload("A", "B", http=80, metrics=81)
    item = await server.apply(STATEFUL_SETS, body, "operator")
    assert reported(item) == (["A", "B"], [80, 81], 1)
    scaled = await server.patch(STATEFUL_SETS, item, {"spec": {"template": {"metadata": {"annotations": {"a": "1"}}}}})
    assert generation(scaled) == 2
    back = await server.apply(STATEFUL_SETS, workload("B", "C", http=80), "operator")
    assert reported(back) == (["B", "C"], [80], 3)
    assert back["spec"]["template"]["metadata"]["annotations"] == {"a": "1"}, "it was not applied"
    edit = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "other"}]
    edited = await server.patch(STATEFUL_SETS, item, edit, content_type=JSON_PATCH)
    assert edited["spec"]["template"]["spec"]["containers"][0]["image"] == "other"
    again = await server.apply(STATEFUL_SETS, workload("B", "C", http=80), "operator")
    assert again["spec"]["template"]["spec"]["containers"][0]["image"] == "none"
    managers = {entry["manager"]: entry for entry in again["metadata"]["managedFields"]}
    assert managers["operator"]["operation"] == "Apply"
    assert {entry["operation"] for manager, entry in managers.items() if manager != "operator"} == {"Update"}
    await server.delete(STATEFUL_SETS, item)
