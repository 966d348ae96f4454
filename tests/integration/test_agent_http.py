"""The member's HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from agentharness import SLEEP, Member, new_member, program, until
from hubcalls import Caller

from localcluster.cluster import Cluster


@pytest.fixture
async def member(cluster: Cluster, namespace: str, tmp_path: Path):
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace) as member:
        yield member


async def get(url: str) -> tuple[int, Any]:
    async with Caller("") as anybody:
        return (await anybody.get(url))[:2]


async def test_lookups_cover_the_registry_of_the_whole_hub(member: Member) -> None:
    agent = member.start_agent()
    strange = "tenant/42 ü+%?"
    await member.write({strange: SLEEP, "b": program("false")}, tags=("eu", "gold"), epoch=7)
    pid = await member.running(strange)
    await member.add_slice(0, member=f"{member.hub}-1")

    async def look(url: str) -> tuple[int, Any]:
        async with Caller(member.token) as caller:
            return (await caller.get(url))[:2]

    base = f"http://{agent.ip}:8080/v1"

    async def known() -> Any:
        """Return the entry once the member's own registry reflects the slice."""
        status, entry = await look(f"{base}/children/{quote(strange, safe='')}")
        return entry if status == 200 and entry["nodes"][0]["state"] == "Running" else None

    entry = await until(known)
    node = {"name": member.name, "pod": member.name, "role": "Active", "state": "Running", "pid": pid, "epoch": 7}
    assert entry == {"id": strange, "nodes": [node], "tags": ["eu", "gold"]}

    status, entries = await look(f"{base}/children?tag=gold&member={member.name}")
    assert [item["id"] for item in entries] == ["b", strange]
    assert (await look(f"{base}/children?tag=silver"))[1] == []
    assert len((await look(f"{base}/children?tag=gold&tag=eu"))[1]) == 2
    assert (await look(f"{base}/children?tag=gold&tag=silver"))[1] == []
    assert (await look(f"{base}/children?member={member.name}&member=b"))[0] == 400

    async def both() -> list[Any] | None:
        status, members = await look(f"{base}/members")
        assert status == 200
        # b ends at once and is restarted again and again; for a moment each time it runs.
        return members if len(members) == 2 and members[0]["running"] < 2 else None

    await check_document(agent.ip, member.token, quote(strange, safe=""))
    members = await until(both)
    assert members[0] == {"name": member.name, "pod": member.name, "children": 2, "running": 1}

    status, problem = await look(f"{base}/children/nobody")
    assert status == 404
    assert problem["code"] == "not_found"
    assert "nobody" in problem["detail"]
    assert (await look(f"{base}/children?color=red"))[0] == 400
    assert (await look(f"{base}/nothing"))[1]["code"] == "not_found"


async def check_document(address: str, token: str, child_id: str) -> None:
    """Check that the OpenAPI document has the routes that there are, and the fields that they answer."""
    base = f"http://{address}:8080"
    status, document = await get(f"{base}/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    schemas = document["components"]["schemas"]

    def fits(value: Any, schema: dict[str, Any]) -> None:
        if name := schema.get("$ref"):
            schema = schemas[name.rpartition("/")[2]]
        if schema["type"] == "array":
            assert value
            for item in value:
                fits(item, schema["items"])
        elif schema["type"] == "object":
            assert value.keys() == schema["properties"].keys()
            for key, item in value.items():
                fits(item, schema["properties"][key])
        else:
            assert isinstance(value, {"string": str, "integer": int}[schema["type"]])

    operations = {
        (path, method): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }
    async with Caller(token) as caller:
        for (path, method), operation in operations.items():
            url = base + path.replace("{id}", child_id)
            if path.endswith("/{path}"):
                continue  # to a child with a server
            if method == "get":
                status, value = (await caller.get(url))[:2]
                assert status == 200, path
                fits(value, operation["responses"]["200"]["content"]["application/json"]["schema"])
            else:
                reply = await caller.send("POST", url, data=b"no JSON")
                assert (reply.status, reply.value["code"]) == (400, "bad_request"), path
                assert reply.value.keys() == schemas["Problem"]["properties"].keys()
    assert {path for path, _ in operations} == {
        "/v1/children",
        "/v1/children/{id}",
        "/v1/children/{id}/call",
        "/v1/children/{id}/cast",
        "/v1/children/{id}/http/{path}",
        "/v1/members",
    }


async def test_probes_and_metrics_show_the_members_state(member: Member) -> None:
    agent = member.start_agent()

    async def ready() -> bool:
        try:
            return (await get(f"http://{agent.ip}:8080/readyz"))[0] == 200
        except aiohttp.ClientConnectionError:
            return False

    await until(ready)
    assert (await get(f"http://{agent.ip}:8080/healthz"))[0] == 200
    await member.write({"a": SLEEP, "b": program("false")})
    await member.running("a")
    await member.report("b", lambda report: report.restarts >= 2)

    async def one_runs() -> str | None:
        """Return the metrics at a moment at which b, which runs for a moment each time, does not."""
        status, text = await get(f"http://{agent.ip}:8080/metrics")
        assert status == 200
        return text if 'processhub_agent_children{state="Running"} 1.0' in text else None

    text = await until(one_runs)
    assert "processhub_agent_child_restarts_total" in text
    assert "processhub_agent_lease_renewals_total" in text
    assert "processhub_agent_child_start_seconds_bucket" in text


async def test_a_member_without_its_slice_is_alive_but_not_ready(member: Member) -> None:
    agent = member.start_agent(HUB_UID="another")

    async def answer() -> Any:
        try:
            return await get(f"http://{agent.ip}:8080/readyz")
        except aiohttp.ClientConnectionError:
            return None

    status, problem = await until(answer)
    assert status == 503
    assert "slices" in problem["detail"]
    assert (await get(f"http://{agent.ip}:8080/healthz"))[0] == 200
    assert (await member.lease()).spec.holder_identity is None
