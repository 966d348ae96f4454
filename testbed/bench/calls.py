"""The figure of calls: how many a second, and how long one takes, beside a bare HTTP server in the same run.

The load generator is wrk, which takes next to nothing of the machine that the measured processes share with it.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bench.lab import BenchError, Lab
from bench.measure import Point, Value
from bench.starts import stop
from localcluster.layout import CHECKOUT
from localcluster.ports import free_port
from processhub.api.naming import AUDIENCE
from processhub.client.hub import Hub
from processhub.cluster.client import Client
from processhub.cluster.kinds import untyped

_ACCOUNTS = untyped("v1", "serviceaccounts")
_CHILDREN, _CALLERS, _SECONDS = 300, 64, 5
_ASKED_IN_TURN = 1000  # calls of one actor to another
_MODULE = '''
import time
from processhub import Actor

class Callee(Actor):
    """Counts its calls, and calls another child some times: the answer is the median of the seconds."""

    count = 0

    async def handle_call(self, request):
        if "ask" not in request:
            self.count += 1
            return self.count
        took = []
        for _ in range(request["times"]):
            begun = time.perf_counter()
            await self.hub.call(request["ask"], {})
            took.append(time.perf_counter() - begun)
        return sorted(took)[len(took) // 2]
'''
# Calls each of the children in turn; prints the outcome as one line of JSON.
_SCRIPT = """
local ids, requests, count = {%(ids)s}, {}, 0
function init(args)
  local headers = {["Authorization"] = "Bearer %(token)s", ["Content-Type"] = "application/json"}
  for at, id in ipairs(ids) do
    requests[at] = wrk.format("POST", "/v1/children/" .. id .. "/call", headers, "{}")
  end
end
function request()
  count = count + 1
  return requests[count %% #requests + 1]
end
function done(summary, latency, requests)
  io.write(string.format('\\nOUTCOME {"rate": %%f, "p50": %%f, "failed": %%d}\\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    summary.errors.status + summary.errors.read + summary.errors.connect + summary.errors.timeout))
end
"""


class _Load(msgspec.Struct):
    """The outcome of one run of wrk: calls a second, and the median time of one in ms."""

    rate: float
    p50: float
    failed: int


class _Caller:
    """Sends calls by wrk, with this token."""

    def __init__(self, folder: Path, token: str) -> None:
        self._script, self._token = folder / "calls.lua", token

    async def load(self, address: str, ids: Sequence[str], connections: int) -> _Load:
        """Call these children through the server at the address. Raises BenchError if a call failed."""
        names = ", ".join(f'"{child_id}"' for child_id in ids)
        self._script.write_text(_SCRIPT % {"ids": names, "token": self._token})
        command = ("wrk", "-t1", f"-c{connections}", f"-d{_SECONDS}s", "--latency", "-s", str(self._script))
        process = await asyncio.create_subprocess_exec(*command, f"http://{address}", stdout=asyncio.subprocess.PIPE)
        output = (await process.communicate())[0].decode()
        _, found, line = output.partition("OUTCOME ")
        if not found:
            raise BenchError(f"wrk ended with code {process.returncode}: {output[:200]}")
        outcome = msgspec.json.decode(line.splitlines()[0], type=_Load)
        if outcome.failed:
            raise BenchError(f"{outcome.failed} calls failed")
        return outcome


async def call(lab: Lab) -> Sequence[Value]:
    """Call 300 actors of a hub of three: on the member that is asked, through another, one alone, one caller alone."""
    if shutil.which("wrk") is None:
        raise BenchError("this figure needs the load generator wrk: install the package wrk")
    async with lab.connected() as client, lab.namespace() as namespace:
        code = ("-n", namespace, "create", "configmap", "code", f"--from-literal=callee.py={_MODULE}")
        await asyncio.to_thread((await lab.cluster()).kubectl, *code)
        timeouts = {"requestSeconds": 30}  # one request of this figure makes a thousand
        await lab.make_hub(client, namespace, "bench", members={"python": {"configMap": "code"}}, timeouts=timeouts)
        async with lab.following(namespace, "bench") as (hub, session):
            ids = [f"callee-{number}" for number in range(_CHILDREN)]
            specs = [{"id": child_id, "python": {"target": "callee:Callee"}} for child_id in ids]
            result = await hub.start_children(specs, wait=True, timeout=600)
            if result.errors:
                raise BenchError(f"{len(result.errors)} children did not start")
            on: dict[str, list[str]] = {}
            for child_id in ids:
                on.setdefault(session.registry.records[child_id].nodes[0].name, []).append(child_id)
            here, there = sorted(on)[:2]
            present = await lab.hub_ready(client, namespace, "bench")
            addresses = {member.name: f"{member.pod_ip}:8080" for member in present.status.members}
            with tempfile.TemporaryDirectory() as folder:
                caller = _Caller(Path(folder), await caller_token(client, namespace))
                values = await _measured(caller, hub, addresses[here], on[here], on[there])
            await stop(hub, ids)
            await hub.close_requests()
    return values


async def _measured(caller: _Caller, hub: Hub, address: str, own: list[str], others: list[str]) -> list[Value]:
    for ids in (own, others):  # modules are imported and connections opened
        await caller.load(address, ids, 1)
    async with _floor() as server:
        floor = await caller.load(server, own, _CALLERS)
        here = await caller.load(address, own, _CALLERS)
        through = await caller.load(address, others, _CALLERS)
        again = await caller.load(server, own, _CALLERS)
    alone = await caller.load(address, own[:1], _CALLERS)
    one_here = await caller.load(address, own, 1)
    one_through = await caller.load(address, others, 1)
    between = await hub.call(own[0], {"ask": others[0], "times": _ASKED_IN_TURN})
    bare = (floor.rate + again.rate) / 2

    def higher(name: str, unit: str, value: float, goal: float | None = None) -> Value:
        return Value(name=name, unit=unit, samples=(value,), goal=goal, better="higher")

    def rate(what: str, callers: int, load: float, goal: float | None = None) -> Value:
        name = f"{what}, {callers} caller{'s' if callers > 1 else ''}"
        point = Point(series=what, x=callers)
        return msgspec.structs.replace(higher(name, "/s", load, goal), point=point)

    return [
        rate("bare HTTP server", _CALLERS, bare),
        rate("children of the member that is asked", _CALLERS, here.rate),
        higher("children of the member that is asked ÷ bare server", "%", 100 * here.rate / bare, 35),
        rate("through another member", _CALLERS, through.rate),
        higher("through another member ÷ bare server", "%", 100 * through.rate / bare, 22),
        rate("one child", _CALLERS, alone.rate, 6000),
        rate("children of the member that is asked", 1, one_here.rate),
        rate("through another member", 1, one_through.rate),
        Value(name="one caller, p50", unit="ms", samples=(one_here.p50,), goal=0.3),
        Value(name="one caller through another member, p50", unit="ms", samples=(one_through.p50,), goal=0.5),
        Value(name="self.hub.call to another member, p50", unit="ms", samples=(1e3 * between,), goal=0.5),
    ]


async def caller_token(client: Client, namespace: str) -> str:
    """A token for members' HTTP, of an account of the hub's namespace."""
    body = {"spec": {"audiences": [AUDIENCE], "expirationSeconds": 3600}}
    answer = await client.raw("POST", _ACCOUNTS.path(namespace, "default", "token"), body=body)
    token: str = msgspec.json.decode(answer)["status"]["token"]
    return token


@asynccontextmanager
async def _floor() -> AsyncIterator[str]:
    """The address of a bare server in a process of its own."""
    port = free_port()
    command = (sys.executable, "-m", "bench.floor", "127.0.0.1", str(port))
    process = await asyncio.create_subprocess_exec(*command, cwd=CHECKOUT / "testbed", stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()
