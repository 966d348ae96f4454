"""Requests to children with the product at work: client, command line, members in pods, children on demand."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import commandforks
import msgspec
import pytest
import pytest_asyncio
from agentharness import token_of
from hubcalls import Caller
from leases import past_the_second_of_its_lease
from livehub import COUNTER, SLEEP, Live, live, shared, started
from waiting import eventually, until

from localcluster.cluster import Cluster
from localcluster.faults import Faults
from processhub import Hub
from processhub.api.hub import Hub as HubObject
from processhub.api.kubernetes import Pod
from processhub.client.errors import (
    ChildNotFound,
    HubError,
    NoOwner,
    NotAllowed,
    OutcomeUnknown,
    RequestFailed,
    Timeout,
)
from processhub.client.requests import Requests
from processhub.cluster.client import Client
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import CHILDREN, HUBS, PODS, untyped

ACCOUNTS, SECRETS = untyped("v1", "serviceaccounts"), untyped("v1", "secrets")
WORKER = "sample_actors:Worker"
# Answers each POST with its body and the number of requests so far, as text.
SERVER = """
import http.server, os, socketserver, sys
count = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global count
        count += 1
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "die" in sent:
            os._exit(3)
        answer = f"{self.path} {sent} {count} {self.headers.get('Idempotency-Key')}".encode()
        self.send_response(418 if "teapot" in sent else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def address_string(self):
        return "hub"
socketserver.UnixStreamServer(os.environ["HUB_SOCKET"], Handler).serve_forever()
"""
# Writes its environment, and what a client finds that connects without arguments.
NEIGHBOURS = """
import json, os, sys, time
from pathlib import Path
from processhub import Hub
with Hub.connect_sync(os.environ["HUB_NAME"]) as hub:
    found = {"secret": os.environ["DB_PASSWORD"], "members": sorted(hub.nodes())}
new = Path(sys.argv[1] + ".new")
new.write_text(json.dumps(found))
new.rename(sys.argv[1])
time.sleep(1000)
"""


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("live")) as running:
        await running.actors()
        yield running


@pytest_asyncio.fixture(scope="module")
async def name(product: Live) -> str:
    """A hub of two members that tests share; each uses ids of its own."""
    return await product.hub("ask", members={"python": {"configMap": "actors"}})


@pytest_asyncio.fixture
async def hub(product: Live, name: str) -> AsyncIterator[Hub]:
    async with product.connect(name) as client:
        yield client


def worker(child_id: str, **args: Any) -> dict[str, Any]:
    return {"id": child_id, "python": {"target": WORKER, "args": args}}


async def test_the_client_sends_calls_and_casts(hub: Hub) -> None:
    ids = [f"c-{number}" for number in range(6)]
    places = await started(hub, [{"id": child_id, "python": COUNTER} for child_id in ids])
    assert len(set(places.values())) == 2, "some on each member"

    for child_id in ids:
        assert await hub.call(child_id, {"op": "add", "by": 2}) == 2
        assert await hub.cast(child_id, {"op": "add"}) == []
        assert await hub.call(child_id, {"op": "get"}) == 3
        assert await hub.cast(child_id, {"op": "add"}, to="all") == [places[child_id]]
        assert await hub.call(child_id, {"op": "get"}) == 4

    with pytest.raises(ChildNotFound, match="nobody"):
        await hub.call("nobody", {})
    await started(hub, [worker("w")])
    with pytest.raises(OutcomeUnknown, match="ValueError: as told"):
        await hub.call("w", {"crash": True})
    with pytest.raises(Timeout, match="not answered"):
        await hub.call("w", {"sleep": 2}, timeout=0.3)


async def test_no_request_fails_while_members_restart_one_by_one(product: Live) -> None:
    name = await product.hub(members={"python": {"configMap": "actors"}})
    asked, failed, done = Counter[str](), list[str](), asyncio.Event()

    async def ask(client: Hub, child_id: str) -> None:
        while not done.is_set():
            try:
                await client.call(child_id, {"op": "get"})
                asked[child_id] += 1
            except HubError as error:
                failed.append(f"{type(error).__name__}: {error}")

    async def pods() -> set[str]:
        found, _ = await product.api.list(PODS, product.namespace, labels=f"processhub.dev/hub={name}")
        return {pod.metadata.uid for pod in found if isinstance(pod, Pod)}

    async def rolled() -> bool:
        hub: HubObject = await product.api.get(HUBS, product.namespace, name)
        return not before & await pods() and [member.ready for member in hub.status.members] == [True, True]

    async with product.connect(name) as client:
        ids = [f"roll-{number}" for number in range(6)]
        await started(client, [{"id": child_id, "python": COUNTER} for child_id in ids])
        before = await pods()
        callers = [asyncio.create_task(ask(client, child_id)) for child_id in ids]
        await eventually(lambda: _all_of(asked.keys() == set(ids)), "all are asked")
        restart = ("-n", product.namespace, "rollout", "restart", f"statefulset/{name}")
        await asyncio.to_thread(product.cluster.kubectl, *restart)
        await eventually(rolled, "both members are others", within=90)
        counts = asked.copy()
        await eventually(
            lambda: _all_of(all(asked[child_id] > counts[child_id] for child_id in ids)), "all answer again"
        )
        done.set()
        await asyncio.gather(*callers)
    assert failed == []


async def _all_of(condition: bool) -> bool:
    return condition


async def test_an_exec_child_gets_requests_over_its_socket(hub: Hub) -> None:
    late = f"import time; time.sleep(1)\n{SERVER}"
    await hub.start_children(
        [
            {"id": f"e-{index}", "exec": {"command": [sys.executable, "-c", script]}}
            for index, script in enumerate((SERVER, late))
        ],
        wait=True,
        timeout=30,
    )

    for child_id in ("e-0", "e-1"):  # the second one is slow to serve: the call waits
        assert await hub.call(child_id, {"a": 1}, idempotency_key="k") == '/call {"a":1} 1 k'
        await hub.cast(child_id, [])
        assert await hub.call(child_id, {}) == "/call {} 3 None"
        with pytest.raises(RequestFailed, match="418") as caught:
            await hub.call(child_id, "teapot")
        assert caught.value.status == 418
    with pytest.raises(OutcomeUnknown):
        await hub.call("e-0", "die")
    assert await hub.call("e-0", {}) == "/call {} 1 None", "the next incarnation"


async def test_children_have_the_containers_environment_and_reach_the_cluster(product: Live, tmp_path: Path) -> None:
    await product.api.create(SECRETS, product.namespace, {"metadata": {"name": "db"}, "stringData": {"password": "s3"}})
    variable = {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}
    template = {"spec": {"containers": [{"name": "agent", "env": [variable]}]}}
    name = await product.hub(members={"python": {"configMap": "actors"}, "template": template})
    expected = {"secret": "s3", "members": [f"{name}-0", f"{name}-1"]}
    note = tmp_path / "note"

    async with product.connect(name) as client:
        await started(
            client,
            [
                {"id": "program", "exec": {"command": [sys.executable, "-c", NEIGHBOURS, str(note)]}},
                {"id": "actor", "python": {"target": "sample_actors:Neighbours"}},
            ],
        )

        assert await client.call("actor", {}) == expected
    await until(note.exists, "what the program has found")
    assert json.loads(note.read_text()) == expected


async def test_a_pod_child_gets_requests_on_its_port_and_can_call_other_children(hub: Hub) -> None:
    """It answers with the response of another child of the hub, which it calls with the token that it has."""
    script = """
import http.server, os, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        token = open(os.environ["HUB_TOKEN_FILE"]).read()
        url = os.environ.get("ASK_AT", os.environ["HUB_URL"]) + "/v1/children/behind/call"
        request = urllib.request.Request(url, data=sent, headers={"Authorization": "Bearer " + token})
        with urllib.request.urlopen(request) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer((os.environ["IP"], 8090), Handler).serve_forever()
"""
    # There is no DNS here: the Service's name is replaced with a member's address.
    member = hub._session.living_hub().status.members[0].pod_ip
    container = {
        "name": "main",
        "image": "none",
        "command": [sys.executable, "-c", script],
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "ASK_AT", "value": f"http://{member}:8080"},
        ],
    }
    pod = {"template": {"spec": {"containers": [container]}}, "port": 8090}
    await started(hub, [{"id": "p", "pod": pod}, {"id": "behind", "python": COUNTER}])

    assert await hub.call("p", {"op": "add", "by": 5}) == 5
    assert await hub.call("p", {"op": "get"}) == 5


async def test_a_request_for_a_child_that_waits_says_why_whatever_object_it_has(product: Live) -> None:
    """A Child may have another name than clients derive from its id, and children of a ChildSet have no Child."""
    name, child_id = await product.hub(replicas=1, timeouts={"leaseSeconds": 6, "requestSeconds": 1}), "a=b,c\\d é"
    await product.child("own-name", name, id=child_id, suspend=True)
    await product.apply("ChildSet", "many", hub=name, replicas=1, template={"exec": SLEEP, "suspend": True})

    async with product.connect(name) as hub:
        calls = [hub.call(asked, 1) for asked in (child_id, "many-0", "many-1")]
        own, of_set, unknown = await asyncio.gather(*calls, return_exceptions=True)

    assert (type(own), "Suspended, spec.suspend is true" in str(own)) == (NoOwner, True)
    assert (type(of_set), "Suspended, spec.template.suspend is true" in str(of_set)) == (NoOwner, True)
    assert type(unknown) is ChildNotFound


async def test_the_command_line_sends_calls_and_casts(product: Live, name: str, hub: Hub) -> None:
    await started(hub, [{"id": "k/1", "python": COUNTER}, worker("slow")])

    async def run(*words: str) -> tuple[int, str, str]:
        ended = await commandforks.run(words, product.cluster.environment(), "")
        return ended.code, ended.out, ended.err

    common = ("-n", product.namespace, "--hub", name)
    assert await run("call", "k/1", '{"op":"add","by":3}', *common) == (0, "3\n", "")
    assert await run("cast", "k/1", '{"op":"add"}', *common) == (0, "", "")
    assert await run("call", "k/1", "{}", "-o", "json", *common) == (0, "4\n", "")
    code, out, _ = await run("cast", "k/1", "{}", "--all", *common)
    assert (code, out.startswith("ask-")) == (0, True)
    code, _, err = await run("call", "nobody", "{}", *common)
    assert (code, err) == (1, f"error: hub {name} has no child 'nobody'\n")
    code, _, err = await run("call", "k/1", "{", *common)
    assert (code, "is not JSON" in err) == (2, True)
    code, _, err = await run("call", "slow", '{"sleep":3}', "--timeout", "500ms", *common)
    assert (code, "has not answered within 0.5 s" in err) == (124, True)


async def test_accounts_of_other_namespaces_need_the_right_to_call(product: Live, name: str, hub: Hub) -> None:
    await started(hub, [{"id": "guarded", "python": COUNTER}])
    stranger, role = f"stranger-{secrets.token_hex(3)}", f"caller-{secrets.token_hex(3)}"
    for namespace, account in ((product.namespace, "mine"), ("default", stranger)):
        await product.api.create(ACCOUNTS, namespace, {"metadata": {"name": account}})
    ip = (await product.addresses(name))[0]
    try:
        async with Caller(await token_of(product.api, product.namespace, "mine")) as mine:
            assert (await mine.call(ip, "guarded", {})).status == 200
        async with Caller(await token_of(product.api, "default", stranger, audiences=[])) as other_audience:
            assert (await other_audience.call(ip, "guarded", {})).status == 401
        async with Caller(await token_of(product.api, "default", stranger)) as other:
            reply = await other.call(ip, "guarded", {})
            assert (reply.status, reply.code) == (403, "forbidden")
            assert "hubs/call" in reply.value["detail"]
            product.cluster.kubectl(
                "-n", product.namespace, "create", "role", role, "--verb=create", "--resource=hubs.processhub.dev/call"
            )
            product.cluster.kubectl(
                "-n",
                product.namespace,
                "create",
                "rolebinding",
                role,
                f"--role={role}",
                f"--serviceaccount=default:{stranger}",
            )

            async def allowed() -> bool:
                return (await other.call(ip, "guarded", {})).status == 200

            await eventually(allowed, "the right to call holds once the verdict is old", within=60)
    finally:
        await product.api.delete(ACCOUNTS, "default", stranger)


async def test_an_idle_child_ends(product: Live, name: str, hub: Hub) -> None:
    await product.child("idle", name, exec=None, python=COUNTER, idleSeconds=6)
    await hub.wait_children(["idle"], timeout=30)
    for _ in range(3):
        assert await hub.call("idle", {}) == 0

    async def gone() -> bool:
        try:
            await product.api.get(CHILDREN, product.namespace, "idle")
        except NotFoundError:
            return True
        return False

    await eventually(gone, "the idle child deleted", within=30)
    with pytest.raises(ChildNotFound):
        await hub.call("idle", {})


async def test_a_lost_owner_fails_only_the_requests_that_it_was_serving(
    product: Live, faults: Faults, tmp_path: Path
) -> None:
    """With default timeouts: requests that it was serving are answered 502, waiting ones go to the next owner."""
    log, go = tmp_path / "log", tmp_path / "go"
    mounted = shared(tmp_path)
    name = await product.hub(
        "lost", members={"python": {"configMap": "actors"}, "template": mounted}, migration={"onRestart": "Move"}
    )
    async with product.connect(name) as hub:
        owner = (await started(hub, [worker("lost", file=str(log))]))["lost"]
        found: HubObject = await product.api.get(HUBS, product.namespace, name)
        ip = next(member.pod_ip for member in found.status.members if member.name != owner)
        async with Caller(await token_of(product.api, product.namespace, f"processhub-{name}")) as caller:
            assert (await caller.call(ip, "lost", {})).status == 200  # the route to the child is known
            running = asyncio.create_task(caller.call(ip, "lost", {"until": str(go), "n": "running"}))
            await until(lambda: logged(log, "begin running"), "the first at work")
            waiting = asyncio.create_task(caller.call(ip, "lost", {"n": "waiting"}))
            await eventually(lambda: one_waits(caller, owner_ip(found, owner)), "one at work and one that waits")
            await past_the_second_of_its_lease(product.api, product.namespace, owner)
            await faults.kill_pod(f"{product.namespace}/{owner}")

            lost, served = await asyncio.gather(running, waiting)

        assert (lost.status, lost.code) == (502, "outcome_unknown"), lost
        assert served.status == 200, served
        lines = log.read_text().splitlines()
        assert (lines.count("begin running"), lines.count("end running")) == (1, 0)
        assert (lines.count("begin waiting"), lines.count("end waiting")) == (1, 1)


def logged(log: Path, line: str) -> bool:
    return log.exists() and line in log.read_text().splitlines()


async def one_waits(caller: Caller, ip: str) -> bool:
    """Return whether one request waits on the member, besides the one that is being served."""
    text = (await caller.get(f"http://{ip}:8080/metrics")).value
    return "processhub_agent_requests_waiting 1.0" in text


async def test_a_silent_owner_is_replaced_and_serves_no_waiting_request_when_it_returns(
    product: Live, faults: Faults, tmp_path: Path
) -> None:
    """With default timeouts: its Lease expires, then the requests that waited there are served elsewhere only."""
    log, never = tmp_path / "log", tmp_path / "never"
    mounted = shared(tmp_path)
    name = await product.hub("silent", members={"python": {"configMap": "actors"}, "template": mounted})
    async with product.connect(name) as hub:
        owner = (await started(hub, [worker("silent", file=str(log))]))["silent"]
        found: HubObject = await product.api.get(HUBS, product.namespace, name)
        ip = next(member.pod_ip for member in found.status.members if member.name != owner)
        async with Caller(await token_of(product.api, product.namespace, f"processhub-{name}")) as caller:
            running = asyncio.create_task(caller.call(ip, "silent", {"until": str(never), "n": "running"}))
            await until(lambda: logged(log, "begin running"), "the first at work")
            waiting = asyncio.create_task(caller.call(ip, "silent", {"n": "waiting"}))
            await eventually(lambda: one_waits(caller, owner_ip(found, owner)), "one at work and one that waits")
            await faults.pause_pod(f"{product.namespace}/{owner}")
            try:
                lost, served = await asyncio.gather(running, waiting)
            finally:
                await faults.resume_pod(f"{product.namespace}/{owner}")
            assert (lost.status, lost.code) == (502, "outcome_unknown"), lost
            assert (served.status, served.value["member"]) == (200, name_of(found, ip)), served

            async def back() -> bool:
                return owner in hub.nodes()

            await eventually(back, "the owner back as a member", within=60)
            assert (await caller.call(ip, "silent", {"n": "after"})).status == 200
            assert log.read_text().splitlines().count("begin waiting") == 1


async def test_no_request_fails_while_its_child_moves(product: Live, name: str, hub: Hub) -> None:
    first = (await started(hub, [worker("moving")]))["moving"]
    (other,) = set(hub.nodes()) - {first}
    answers: list[list[str]] = [[] for _ in range(5)]  # of each caller; those of several may overtake each other
    over = asyncio.Event()

    async def ask(members: list[str]) -> None:
        while not over.is_set():
            members.append((await hub.call("moving", {"sleep": 0.05}))["member"])

    callers = [asyncio.create_task(ask(members)) for members in answers]
    try:
        await until(lambda: all(first in members for members in answers), f"answers from {first}")
        await hub.migrate_child("moving", other, wait=True, timeout=60)
        await until(lambda: all(other in members for members in answers), f"answers from {other}")
    finally:
        over.set()
        await asyncio.gather(*callers)

    for members in answers:
        assert set(members[members.index(other) :]) == {other}, "never back"


async def test_casts_during_a_drain_arrive_once_and_in_order(hub: Hub, tmp_path: Path) -> None:
    log, numbers, sent = tmp_path / "casts", range(300), 0
    first = (await started(hub, [worker("told", file=str(log))]))["told"]

    async def tell() -> None:
        nonlocal sent
        for sent in numbers:
            await hub.cast("told", {"n": sent})

    telling = asyncio.create_task(tell())
    await until(lambda: sent > 20, "casts")
    await hub.drain(first)
    await telling
    await until(lambda: log.read_text().count("end") == len(numbers), "all casts are handled")
    assert [line for line in log.read_text().splitlines() if "begin" in line] == [f"begin {n}" for n in numbers]
    assert (await hub.call("told", {}))["member"] != first
    await hub.undrain(first)


def name_of(found: HubObject, ip: str) -> str:
    return next(member.name for member in found.status.members if member.pod_ip == ip)


def owner_ip(found: HubObject, name: str) -> str:
    return next(member.pod_ip for member in found.status.members if member.name == name)


async def test_members_with_unreachable_addresses_are_reached_by_port_forward(hub: Hub) -> None:
    await started(hub, [{"id": "far", "python": COUNTER}])
    session = hub._session
    found = session.living_hub()
    # Nobody listens there, as if the cluster's pod network were not routed to this machine.
    members = tuple(msgspec.structs.replace(member, pod_ip="127.255.255.254") for member in found.status.members)
    session.hub = msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, members=members))

    requests = Requests(session)
    try:
        for value in range(1, 4):
            assert await requests.call("far", {"op": "add"}, 20, "") == value
        big = "x" * 300_000
        answers = await asyncio.gather(*(requests.call("far", {"op": "get", "n": big}, 20, "") for _ in range(8)))
        assert answers == [3] * 8
    finally:
        await requests.close()
        session.hub = found


async def test_an_invalid_token_is_rejected_with_a_hint(
    product: Live, name: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN_FILE", "/no/such/token")

    with pytest.raises(NotAllowed, match="/no/such/token"):
        await hub.call("guarded", {})
