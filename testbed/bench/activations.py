"""The figure of children on demand: new names a second, beside calls to the same children in the same run.

The load generator is wrk: a thread for each member, as a Service spreads the callers over the members.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bench.calls import caller_token
from bench.lab import BenchError, Lab
from bench.measure import Point, Value
from bench.operatorstart import without_operator
from processhub.api.meta import API_VERSION
from processhub.api.slice import Activation, RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.kinds import CHILD_SETS, SLICES

_PYTHON = {"python": {"target": "processhub.examples:Counter"}}
_MEMBERS, _SECONDS, _PATIENCE_SECONDS = 3, 4, 300.0
_MANY = 21 * _MEMBERS  # callers, as many at each member
_ASKED_BY_ONE, _ASKED_BY_MANY = 2000, 10_000  # new names; a member's report has room for some 5,000 not on record
_CALLED = 200  # children of each thread that plain calls go to
# Each thread asks for names of its own, in turn, at one member; after ``most`` answers it stops.
_SCRIPT = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long sec; long nsec; } moment; int clock_gettime(int clock, moment *now);")
local addresses, threads = {%(addresses)s}, {}
local sent, most, known = 0, %(most)d, %(known)d
local headers = {["Authorization"] = "Bearer %(token)s", ["Content-Type"] = "application/json"}
answered, refused, begun, ended, problem = 0, 0, 0, 0, ""
local function now()
  local moment = ffi.new("moment")
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.sec) + tonumber(moment.nsec) / 1e9
end
function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
  thread.addr = wrk.lookup(addresses[#threads]:match("(.*):"), addresses[#threads]:match(":(.*)"))[1]
end
function request()
  if sent == 0 then begun = now() end
  local at = known > 0 and sent %% known or sent
  sent = sent + 1
  return wrk.format("POST", "/v1/children/%(stem)s-" .. number .. "-" .. at .. "/call", headers, '{"op": "add"}')
end
function response(status, headers, body)
  ended = now()
  answered = answered + 1
  if status ~= 200 then refused, problem = refused + 1, body end
  if answered == most then wrk.thread:stop() end
end
function done(summary, latency, requests)
  local rate, all, bad, text = 0, 0, 0, ""
  for _, thread in ipairs(threads) do
    local took = thread:get("ended") - thread:get("begun")
    rate = rate + (took > 0 and thread:get("answered") / took or 0)
    all, bad = all + thread:get("answered"), bad + thread:get("refused")
    text = text .. thread:get("problem")
  end
  io.write(string.format('\\nOUTCOME %%f %%f %%d %%d %%s\\n', rate, latency:percentile(50) / 1e3, all, bad,
    text:gsub("%%c", " "):sub(1, 300)))
end
"""


class _Load(msgspec.Struct, frozen=True):
    """The outcome of one run of wrk: answers a second, and the median time of one in ms."""

    rate: float
    p50: float


class _Callers:
    """Sends requests to the members at these addresses by wrk, with this token."""

    def __init__(self, folder: Path, addresses: Sequence[str], token: str) -> None:
        self._script, self._addresses, self._token = folder / "activations.lua", addresses, token

    async def load(self, stem: str, callers: int, most: int, *, known: int = 0) -> _Load:
        """Ask for names with this stem: for ``most`` new ones, or for the first ``known`` of each thread over and over.

        Raises BenchError if a request was not answered with 200.
        """
        threads = min(callers, len(self._addresses))
        values = {
            "addresses": ", ".join(f'"{address}"' for address in self._addresses[:threads]),
            "token": self._token,
            "stem": stem,
            "most": most // threads,
            "known": known,
        }
        self._script.write_text(_SCRIPT % values)
        command = ("wrk", f"-t{threads}", f"-c{callers}", f"-d{_SECONDS}s", "--timeout", "30s", "-s", str(self._script))
        process = await asyncio.create_subprocess_exec(
            *command, f"http://{self._addresses[0]}", stdout=asyncio.subprocess.PIPE
        )
        output = (await process.communicate())[0].decode()
        _, found, line = output.partition("OUTCOME ")
        if not found:
            raise BenchError(f"wrk ended with code {process.returncode}: {output[:200]}")
        rate, p50, answered, refused, *problem = line.strip().split(" ", 4)
        if int(refused):
            raise BenchError(f"{refused} of {answered} requests failed, with {callers} callers: {' '.join(problem)}")
        return _Load(float(rate), float(p50))


async def activate(lab: Lab, on_record: int = 20_000) -> Sequence[Value]:
    """Ask for new names: in a hub without children, in one with many on record, and while no operator runs."""
    if shutil.which("wrk") is None:
        raise BenchError("this figure needs the load generator wrk: install the package wrk")
    values = []
    async with _hub(lab) as callers:
        values += await _measured(callers, "")
    async with _hub(lab, on_record) as callers:
        values += await _measured(callers, f", {on_record:,} on record")
    async with _hub(lab) as callers, without_operator(await lab.cluster()):
        values += await _measured(callers, ", no operator")
    return values


@asynccontextmanager
async def _hub(lab: Lab, on_record: int = 0) -> AsyncIterator[_Callers]:
    """A hub of three members that may start names, with so many children of a ChildSet, for as long as the block."""
    async with lab.connected() as client, lab.namespace() as namespace:
        await lab.make_hub(client, namespace, "bench", onDemand=_PYTHON, members={"maxChildren": 100_000})
        if on_record:
            spec = {"hub": "bench", "replicas": on_record, "template": _PYTHON}
            manifest = {"apiVersion": API_VERSION, "kind": "ChildSet", "metadata": {"name": "set"}, "spec": spec}
            await client.create(CHILD_SETS, namespace, manifest)
            await _until_running(client, namespace, on_record)
        await _until_open(client, namespace)
        present = await lab.hub_ready(client, namespace, "bench")
        addresses = [f"{member.pod_ip}:8080" for member in present.status.members]
        with tempfile.TemporaryDirectory() as folder:
            yield _Callers(Path(folder), addresses, await caller_token(client, namespace))


async def _until_running(client: Client, namespace: str, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (running := (await client.get(CHILD_SETS, namespace, "set")).status.running) != count:
        if time.monotonic() > deadline:
            raise BenchError(f"{running} of {count} children run after {_PATIENCE_SECONDS:g} s")
        await asyncio.sleep(0.5)


async def _until_open(client: Client, namespace: str) -> None:
    """Wait until each member has an open view in its slice 0."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        items, _ = await client.list(SLICES, namespace)
        orders = [item.spec.activation for item in items if isinstance(item, RegistrySlice)]
        if sum(isinstance(order, Activation) and order.phase == "Open" for order in orders) == _MEMBERS:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"no view is open to all members after {_PATIENCE_SECONDS:g} s")
        await asyncio.sleep(0.2)


async def _measured(callers: _Callers, where: str) -> list[Value]:
    await callers.load("warm", _MANY, 10 * _MANY)  # modules are imported and connections opened
    new_one = await callers.load("one", 1, _ASKED_BY_ONE)
    new_many = await callers.load("many", _MANY, _ASKED_BY_MANY)
    call_one = await callers.load("one", 1, _ASKED_BY_ONE, known=_CALLED)
    call_many = await callers.load("many", _MANY, _ASKED_BY_MANY, known=_CALLED)

    def higher(name: str, unit: str, value: float, goal: float | None = None, *, x: int = 0) -> Value:
        point = Point(series=f"new names{where}", x=x) if x else None
        return Value(name=f"{name}{where}", unit=unit, samples=(value,), goal=goal, better="higher", point=point)

    return [
        higher("1 caller", "/s", new_one.rate, 800, x=1),
        higher(f"{_MANY} callers", "/s", new_many.rate, 3500, x=_MANY),
        Value(name=f"1 caller, p50{where}", unit="ms", samples=(new_one.p50,)),
        Value(name=f"1 caller, p50 beyond a call's{where}", unit="ms", samples=(new_one.p50 - call_one.p50,), goal=1.0),
        higher("1 caller ÷ calls", "%", 100 * new_one.rate / call_one.rate),
        higher(f"{_MANY} callers ÷ calls", "%", 100 * new_many.rate / call_many.rate),
    ]
