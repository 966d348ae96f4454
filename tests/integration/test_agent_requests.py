"""Requests to children through real agents: routed, one at a time, each run at most once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from agentharness import ACCOUNTS, SLEEP, Agent, Member, actor, new_member, token_of, until
from hubcalls import Caller

from localcluster.cluster import Cluster
from processhub.agent.requests.queue import QUEUE_MAX
from processhub.api.slice import SliceStatus

WORKER = "sample_actors:Worker"


@pytest.fixture
async def member(
    cluster: Cluster, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Member]:
    """A member of a hub with the request timeout of the parameter, 20 s by default."""
    seconds = getattr(request, "param", 20)
    folder, kubeconfig = tmp_path, str(cluster.kubeconfig)
    async with new_member(folder, kubeconfig, namespace, lease_seconds=6, request_seconds=seconds) as member:
        yield member


@pytest.fixture
async def caller(member: Member) -> AsyncIterator[Caller]:
    async with Caller(member.token) as caller:
        yield caller


async def known(caller: Caller, agent: Agent, child: str) -> None:
    """Wait until the member's registry shows the child Running."""

    async def runs() -> bool:
        try:
            reply = await caller.get(f"http://{agent.ip}:8080/v1/children/{child}")
        except aiohttp.ClientConnectorError:
            return False  # it does not listen yet
        return reply.status == 200 and reply.value["nodes"][0]["state"] == "Running"

    await until(runs, what=f"{agent.member.name} knows {child}")


# The headers of a request that reach the child.
PASSED = {
    "Idempotency-Key": "k1",
    "traceparent": "00-1-2-01",
    "tracestate": "a=b",
    "baggage": "k=v",
    "X-Request-Id": "r1",
}


async def waiting(caller: Caller, agent: Agent, count: int) -> None:
    """Wait until this many requests wait on the member, besides those that its children are serving."""

    async def there() -> bool:
        text = (await caller.get(f"http://{agent.ip}:8080/metrics")).value
        return f"processhub_agent_requests_waiting {count}.0" in text

    await until(there, what=f"{count} requests wait on {agent.member.name}")


async def test_a_call_is_answered_by_the_same_and_by_another_member(member: Member, caller: Caller) -> None:
    here, there = member.start_agent(), (await member.peer()).start_agent()
    await member.write({"a/b ü": actor(WORKER)})
    await member.running("a/b ü")

    for agent in (here, there, there):
        await known(caller, agent, "a%2Fb%20%C3%BC")
        reply = await caller.call(agent.ip, "a/b ü", {"echo": [1, "ü"]}, headers={**PASSED, "X-Other": "no"})

        assert reply.status == 200, reply
        assert reply.value["member"] == member.name
        assert reply.value["echo"] == [1, "ü"]
        assert reply.value["key"] == "k1"
        assert reply.value["headers"] == {name.lower(): value for name, value in PASSED.items()}
    assert (await caller.call(here.ip, "a/b ü", {})).value["headers"] == {}, "of a request without them"


async def test_an_actor_looks_up_other_children_and_the_members(member: Member, caller: Caller) -> None:
    here = member.start_agent()
    await member.write({"a": actor(WORKER)}, tags=("eu",))
    pid = await member.running("a")
    await known(caller, here, "a")

    looks = (await caller.call(here.ip, "a", {"looks": True})).value["looks"]

    node = {"name": member.name, "pod": member.name, "role": "Active", "state": "Running", "pid": pid, "epoch": 1}
    members = [{"name": member.name, "pod": member.name, "children": 1, "running": 1}]
    assert looks == [[node], [True, False], ["a"], members]


async def test_calls_of_one_child_are_served_one_at_a_time_in_order(
    member: Member, caller: Caller, tmp_path: Path
) -> None:
    here, there = member.start_agent(), (await member.peer()).start_agent()
    log, go = tmp_path / "log", tmp_path / "go"
    await member.write({"a": actor(WORKER, file=str(log))})
    await member.running("a")
    await known(caller, there, "a")

    tasks = []
    for number in range(20):
        asked = (here, there)[number % 2]
        request = {"n": number, "sleep": 0.01, **({} if number else {"until": str(go)})}
        tasks.append(asyncio.create_task(caller.call(asked.ip, "a", request)))
        if not number:
            await until(log.exists)
        await waiting(caller, here, number)
    assert log.read_text().splitlines() == ["begin 0"]
    go.touch()
    replies = await asyncio.gather(*tasks)

    assert {reply.status for reply in replies} == {200}
    assert log.read_text().splitlines() == [f"{what} {number}" for number in range(20) for what in ("begin", "end")]


async def test_unknown_ids_bad_bodies_and_paths_are_rejected_at_once(member: Member, caller: Caller) -> None:
    agent = member.start_agent()
    await member.write({"a": actor(WORKER)})
    await member.running("a")

    reply = await caller.call(agent.ip, "nobody", {})
    assert (reply.status, reply.code) == (404, "not_found")
    url = f"http://{agent.ip}:8080/v1/children/a/call"
    for body in (b"{not json", b"[" * 100_000 + b"]" * 100_000):
        reply = await caller.send("POST", url, data=body)
        assert (reply.status, reply.code) == (400, "bad_request")
    reply = await caller.send("POST", url, data=b"{}", headers={"Content-Type": "application/caf\u00e9"})
    assert (reply.status, reply.code) == (400, "bad_request")
    reply = await caller.call(agent.ip, "a", {}, kind="shout")
    assert (reply.status, reply.code) == (404, "not_found")
    for method in ("GET", "PUT"):
        reply = await caller.send(method, url)
        assert (reply.status, reply.code) == (405, "method_not_allowed")
        assert "POST" in reply.headers["Allow"]
    reply = await caller.call(agent.ip, "a", {}, query="?to=all")
    assert (reply.status, reply.code) == (400, "bad_request")
    reply = await caller.call(agent.ip, "a", {}, headers={"X-Processhub-Epoch": "99"})
    assert (reply.status, reply.code) == (409, "stale_epoch")


async def test_an_exception_is_a_crash_and_the_next_incarnation_serves_further_calls(
    member: Member, caller: Caller
) -> None:
    here, there = member.start_agent(), (await member.peer()).start_agent()
    await member.write({"a": actor(WORKER)})
    await member.running("a")
    await known(caller, there, "a")

    for agent in (here, there):
        first, *rest = await asyncio.gather(
            caller.call(agent.ip, "a", {"sleep": 0.3, "crash": True}),
            *(caller.call(agent.ip, "a", {"n": number}) for number in range(3)),
        )

        assert {reply.status for reply in rest} == {200}
        assert (first.status, first.code) == (502, "outcome_unknown")
        assert "ValueError: as told" in first.value["detail"]


@pytest.mark.parametrize("member", [1], indirect=True)
async def test_every_member_reports_a_program_that_does_not_listen(member: Member, caller: Caller) -> None:
    here, there = member.start_agent(), (await member.peer()).start_agent()
    await member.write({"a": SLEEP})
    await member.running("a")
    await known(caller, there, "a")

    replies = await asyncio.gather(*(caller.call(agent.ip, "a", {}) for agent in (here, there)))

    assert [(reply.status, reply.code) for reply in replies] == [(504, "timeout")] * 2
    cause = "not begun within 7 s: child 'a' does not take requests: nothing accepts connections on its HUB_SOCKET"
    assert [reply.value["detail"] for reply in replies] == [cause] * 2


@pytest.mark.parametrize("member", [4], indirect=True)
async def test_after_a_timeout_nothing_runs_beside_the_request_that_took_too_long(
    member: Member, caller: Caller, tmp_path: Path
) -> None:
    agent = member.start_agent()
    log, go = tmp_path / "log", tmp_path / "go"
    await member.write({"a": actor(WORKER, file=str(log))})
    await member.running("a")

    slow = await caller.call(agent.ip, "a", {"n": "slow", "until": str(go)})
    assert (slow.status, slow.code) == (504, "timeout")
    following = asyncio.create_task(caller.call(agent.ip, "a", {"n": "next"}))
    await waiting(caller, agent, 1)
    assert log.read_text().splitlines() == ["begin slow"]
    go.touch()

    assert (await following).status == 200
    assert log.read_text().splitlines() == ["begin slow", "end slow", "begin next", "end next"]


async def test_actors_call_and_cast_to_others_while_they_handle_a_message(member: Member, caller: Caller) -> None:
    agent = member.start_agent()
    peer = await member.peer()
    peer.start_agent()
    await member.write({"a": actor(WORKER), "b": actor(WORKER)})
    await peer.write({"far": actor(WORKER)})
    for child in "ab":
        await member.running(child)
    await peer.running("far")
    await known(caller, agent, "far")

    for other in ("b", "far"):
        reply = await caller.call(agent.ip, "a", {"ask": other, "with": {"echo": "x"}})
        assert reply.status == 200, reply
        assert reply.value["asked"]["echo"] == "x"
        assert reply.value["asked"]["id"] == other
    before = (await caller.call(agent.ip, "far", {})).value["served"]
    assert (await caller.call(agent.ip, "a", {"tell": "far"})).status == 200
    assert (await caller.call(agent.ip, "far", {})).value["served"] == before + 2

    reply = await caller.call(agent.ip, "a", {"ask": "a"})
    assert reply.code == "outcome_unknown"
    assert "calls itself" in reply.value["detail"]
    reply = await caller.call(agent.ip, "b", {"ask": "nobody"})
    assert "ChildNotFound" in reply.value["detail"]


async def test_a_call_goes_to_the_first_running_active_copy_and_a_cast_to_all(
    member: Member, caller: Caller, tmp_path: Path
) -> None:
    peer = await member.peer()
    here, there = member.start_agent(), peer.start_agent()
    logs = [tmp_path / "first", tmp_path / "second"]
    await member.write({"a": actor(WORKER, file=str(logs[0]))}, epoch=7)
    await peer.write({"a": actor(WORKER, file=str(logs[1]))}, epoch=8)
    await member.running("a")
    await peer.running("a")

    async def both(agent: Agent) -> bool:
        reply = await caller.get(f"http://{agent.ip}:8080/v1/children/a")
        return reply.status == 200 and [node["state"] for node in reply.value["nodes"]] == ["Running"] * 2

    for agent in (here, there):
        await until(lambda agent=agent: both(agent))
        assert (await caller.call(agent.ip, "a", {})).value["member"] == member.name

    reply = await caller.call(there.ip, "a", {"n": "all"}, kind="cast", query="?to=all")
    assert (reply.status, reply.value) == (202, {"members": [member.name, peer.name]})
    reply = await caller.call(there.ip, "a", {"n": "one"}, kind="cast")
    assert reply.status == 202
    await until(lambda: "end one" in logs[0].read_text())
    await until(lambda: logs[1].exists() and "end all" in logs[1].read_text())
    assert "end all" in logs[0].read_text()
    assert "one" not in logs[1].read_text()

    here.kill()
    await member.answer(msgspec.structs.replace(await member.slice(), status=SliceStatus(holder="nobody")))
    assert (await caller.call(there.ip, "a", {})).value["member"] == peer.name, "the next one in order"


async def test_a_full_queue_answers_with_a_time_to_retry(member: Member, caller: Caller, tmp_path: Path) -> None:
    here, there = member.start_agent(), (await member.peer()).start_agent()
    go, log = tmp_path / "go", tmp_path / "log"
    await member.write({"a": actor(WORKER, file=str(log))})
    await member.running("a")
    await known(caller, there, "a")
    tasks = [asyncio.create_task(caller.call(here.ip, "a", {"until": str(go)}))]
    await until(log.exists)
    tasks += [asyncio.create_task(caller.call(here.ip, "a", {})) for _ in range(QUEUE_MAX)]
    await waiting(caller, here, QUEUE_MAX)

    for agent in (here, there):
        reply = await caller.call(agent.ip, "a", {})
        assert (reply.status, reply.code, reply.headers["Retry-After"]) == (429, "busy", "1")
    go.touch()

    assert {reply.status for reply in await asyncio.gather(*tasks)} == {200}


async def test_the_waiting_request_of_a_caller_that_hangs_up_is_dropped(
    member: Member, caller: Caller, tmp_path: Path
) -> None:
    here, there = member.start_agent(), (await member.peer()).start_agent()
    go, log = tmp_path / "go", tmp_path / "log"
    await member.write({"a": actor(WORKER, file=str(log))})
    await member.running("a")
    await known(caller, there, "a")
    first = asyncio.create_task(caller.call(here.ip, "a", {"n": "first", "until": str(go)}))
    await until(log.exists)
    gone = [asyncio.create_task(caller.call(agent.ip, "a", {"n": "gone"})) for agent in (here, there)]
    await waiting(caller, here, 2)

    for task in gone:
        task.cancel()
    await waiting(caller, here, 0)
    go.touch()

    assert (await first).status == 200
    assert (await caller.call(here.ip, "a", {"n": "last"})).status == 200
    assert "gone" not in log.read_text()


async def test_only_authorized_callers_may_send_requests(member: Member, caller: Caller) -> None:
    agent = member.start_agent()
    await member.write({"a": actor(WORKER), "b": SLEEP})
    await member.running("a")

    assert (await caller.call(agent.ip, "a", {})).status == 200
    async with Caller("") as nobody, Caller("x.y.z") as liar:
        for stranger in (nobody, liar):
            reply = await stranger.call(agent.ip, "a", {})
            assert (reply.status, reply.code) == (401, "unauthorized")
            assert (await stranger.get(f"http://{agent.ip}:8080/v1/members")).status == 401
        assert (await nobody.get(f"http://{agent.ip}:8080/readyz")).status == 200
    # Only members may mark a request as routed, which lets its body be waited for at the child's expense.
    await member.client.create(ACCOUNTS, member.namespace, {"metadata": {"name": "other"}})
    async with Caller(await token_of(member.client, member.namespace, "other")) as other:
        assert (await other.call(agent.ip, "a", {})).status == 200
        reply = await other.call(agent.ip, "a", {}, headers={"X-Processhub-Epoch": "1"})
        assert (reply.status, reply.code) == (403, "forbidden")
    # A member of an earlier version forwards each request so.
    earlier = {"X-Processhub-Epoch": "1", "Expect": "100-continue"}
    assert (await caller.call(agent.ip, "a", {}, headers=earlier)).status == 200
