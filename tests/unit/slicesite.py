"""An API server's slices, for tests of responses that are lost, late or rejections.

It has the features that the protocol depends on: resourceVersions, generations, uids, JSON Patch tests. ``ways`` are,
in order, the fates of the writes that change entries or patch a spec; the other writes succeed.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from a_round import a_round
from aiohttp import web
from observing import observed

from builders import HUB_UID, client_of, make_child, make_hub, make_lease, make_member
from processhub.api.naming import lease_name
from processhub.api.slice import RegistrySlice
from processhub.cluster.client import MERGE_PATCH, Client
from processhub.controller.execute.executor import Executed, Executor, confirm_gone, workload_texts
from processhub.controller.execute.slicewriter import SliceWriter
from processhub.controller.memory import HubMemory
from processhub.controller.observe.facts import may_run_unseen
from processhub.controller.observe.members import Member, proven_members
from processhub.controller.observe.observation import Observation
from processhub.controller.rounds.round import Requeue
from processhub.controller.rounds.steps import Failures
from processhub.controller.store.informers import Store
from processhub.controller.store.leases import KnownLease
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.planning.planner import plan
from processhub.core.strategies import strategy_of

Json = dict[str, Any]
HUB = make_hub(spec={"members": {"replicas": 2}, "distribution": {"strategy": "RoundRobin"}})


class SliceSite:
    """The slices by name, and the fates of the next writes: ``unanswered``, ``late``, ``broken`` or ``refused``."""

    def __init__(self) -> None:
        self.slices: dict[str, Json] = {}
        self.ways: list[str] = []
        self.refuses: dict[str, int] = {}  # names of slices that nobody may change → the response
        self.lease_code = 404  # the response to a read of a member's missing Lease: this, or an error
        self.leases: dict[str, Json] = {}  # by name; nobody may change them
        self.on_lease_read: Callable[[], None] = lambda: None  # called before a read of a Lease is answered
        self.late: list[Callable[[], web.Response]] = []
        self._version = 100

    def add(self, name: str, member: str, **spec: Any) -> Json:
        """Add a slice that its member has acknowledged."""
        holder = f"{member}/n"
        item = {
            "apiVersion": "processhub.dev/v1alpha1",
            "kind": "RegistrySlice",
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": f"uid-{name}",
                "resourceVersion": "5",
                "generation": 1,
            },
            "spec": {"hub": "hub", "hubUid": HUB_UID, "member": member, "term": 1, "entries": {}, "workloads": {}}
            | spec,
            "status": {"observedGeneration": 1, "holder": holder, "entries": {}},
        }
        self.slices[name] = item
        return item

    def land(self) -> list[int]:
        """Store the writes that were answered 504; return the HTTP code that each would have got."""
        answers = [store().status for store in self.late]
        self.late.clear()
        return answers

    def owners(self, child_id: str) -> list[str]:
        """Return the slices with an active entry of the child."""
        return [name for name, item in self.slices.items() if child_id in item["spec"]["entries"]]

    def routes(self) -> list[web.RouteDef]:
        """Return the routes that the API server serves."""
        base = "/apis/processhub.dev/v1alpha1/namespaces/ns/registryslices"
        return [
            web.get("/apis/processhub.dev/v1alpha1/registryslices", self._list),
            web.post(base, self._create),
            web.put(base + "/{name}", self._write),
            web.patch(base + "/{name}", self._write),
            web.get(base + "/{name}", self._get),
            web.get(base, self._list),
            web.get("/apis/coordination.k8s.io/v1/namespaces/ns/leases/{name}", self._lease),
            web.patch("/apis/coordination.k8s.io/v1/namespaces/ns/leases/{name}", self._patch_lease),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        item = self.slices.get(request.match_info["name"])
        return web.json_response(item) if item is not None else _status(404, "NotFound")

    async def _lease(self, request: web.Request) -> web.Response:
        lease = self.leases.get(request.match_info["name"])
        self.on_lease_read()
        return web.json_response(lease) if lease else _status(self.lease_code, "InternalError")

    async def _patch_lease(self, _: web.Request) -> web.Response:
        return _status(403, "Forbidden")

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"metadata": {"resourceVersion": str(self._version)}, "items": [*self.slices.values()]}
        )

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()

        def store() -> web.Response:
            name = body["metadata"]["name"]
            if name in self.slices:
                return _status(409, "AlreadyExists")
            item = self.slices[name] = copy.deepcopy(body) | {"status": {}}
            item["metadata"] |= {"uid": f"new-{name}", "generation": 1, "resourceVersion": self._next()}
            return web.json_response(item)

        return self._answer(request, bool(body["spec"]["entries"]), store)

    async def _write(self, request: web.Request) -> web.Response:
        """A PUT, a JSON Patch that tests before it replaces the spec, or a merge patch of the spec."""
        name, body = request.match_info["name"], await request.json()
        if name in self.refuses:
            return _status(self.refuses[name], "Refused")
        tests = {test["path"].rpartition("/")[2]: test["value"] for test in body[:2]} if isinstance(body, list) else {}
        given = body[2]["value"] if tests else body["spec"]
        expected = tests or {key: body["metadata"].get(key) for key in ("uid", "resourceVersion")}
        before = self.slices.get(name)
        counts = before is not None and "entries" in given and before["spec"]["entries"] != given["entries"]
        merged = request.content_type == MERGE_PATCH

        def store() -> web.Response:
            item = self.slices.get(name)
            if item is None:
                return _status(404, "NotFound")
            metadata = item["metadata"]
            if any(value not in (None, metadata[field]) for field, value in expected.items()):
                return _status(422, "Invalid") if tests else _status(409, "Conflict")
            spec = {**item["spec"], **given} if merged else given
            metadata["generation"] += item["spec"] != spec
            metadata["resourceVersion"] = self._next()
            item["spec"] = spec
            return web.json_response(item)

        return self._answer(request, counts or merged, store)

    def _answer(self, request: web.Request, counts: bool, store: Callable[[], web.Response]) -> web.Response:
        way = self.ways.pop(0) if counts and self.ways else ""
        if way == "refused":
            return _status(403, "Forbidden")
        if way == "late":
            self.late.append(store)
            return _status(504, "Timeout")
        stored = store()
        if way == "broken":
            assert request.transport is not None
            request.transport.abort()
        return _status(500, "InternalError") if way == "unanswered" else stored

    def _next(self) -> str:
        self._version += 1
        return str(self._version)


def two_members() -> SliceSite:
    """A site on which two members have an empty slice each."""
    site = SliceSite()
    for member in ("hub-0", "hub-1"):
        site.add(f"hub.{member}.0", member)
    return site


class Rounds:
    """The operator's rounds for one hub: its observations, plans and writes; its watch delivers nothing by itself."""

    def __init__(self, site: SliceSite, client: Client, *members: str) -> None:
        self.site, self.client, self._members = site, client, members
        self.store = Store(client, (), lambda key: None)
        self.state = self.store.state(HUB.metadata.key)
        self.memory = HubMemory(HUB_UID, 1)
        self.memory.observe.formation.formed = True
        self.failures = Failures()  # of the latest round
        self.gone: set[str] = set()  # members with a fixed judgement
        self.surplus: set[str] = set()  # members that the hub has scaled away
        self._now = 10.0
        # Somebody has deleted them, which the watch has shown: a read that finds none changes nothing.
        self._leases = {name: KnownLease(make_lease(name, f"{name}/n"), 0.0) for name in members}
        for name, known in self._leases.items():
            self.state.leases[lease_name("hub", name)] = known
            self.state.leases.unwatched.add(lease_name("hub", name))
        self.executed = Executed(Plan(entries={}, unplaced={}, next_epoch=0), {})  # lately
        self.requeue = Requeue()  # in the latest round
        self.see()

    def want(self, *ids: str) -> None:
        """Add children that are to run."""
        for child_id in ids:
            spec = {"exec": {"command": ["sleep", "1"]}}
            self.state.put_child(make_child(child_id, spec, uid=f"u{child_id}", generation=1))

    def see(self) -> None:
        """Let the watch deliver all slices as they are."""
        for item in self.site.slices.values():
            self.store.put("registryslices", msgspec.convert(item, RegistrySlice))

    def member(self, name: str) -> Member:
        """Return the member, live."""
        known = self.state.leases.of_member(name)
        slices = tuple(self.state.slices.by_member().get(name, ()))
        is_gone = name in self.gone and known is self._leases[name]  # one that was read since shows that it is live
        phase = Phase.GONE if is_gone else Phase.LIVE
        return make_member(name, *slices, lease=known, phase=phase, wanted=name not in self.surplus)

    def _look(self) -> dict[str, Member]:
        return {name: self.member(name) for name in self._members}

    async def round(self) -> tuple[Observation, Plan]:
        """Run one round as far as possible: a write that is rejected or gets no response does not stop the others."""
        self._now += 1
        strategy = strategy_of(HUB.spec.distribution.strategy)
        self.failures = Failures()
        round = a_round(HUB, client=self.client, store=self.store, failures=self.failures)
        self.requeue = round.requeue
        members = await proven_members(
            self._look,
            lambda member: confirm_gone(round, member),
            lambda member: may_run_unseen(member, self.state, self.memory.observe),
            copies=False,
        )
        observation = observed(HUB, self.state, members, self.memory.observe, self._now, strategy)
        planned = plan(observation.snapshot, strategy)
        assert plan(observation.snapshot, strategy, steady=self.memory.steady) == planned
        writer = SliceWriter(round, self.memory.execute, fingerprint=observation.fingerprint, partitioned=False)
        self.memory.observe.epochs.next, self.memory.observe.last_placed = planned.next_epoch, planned.last_placed
        self.executed = await Executor(round, writer).execute(observation, planned, workload_texts(observation))
        return observation, planned


@asynccontextmanager
async def rounds_on(site: SliceSite, *members: str) -> AsyncIterator[Rounds]:
    """Yield the rounds of a hub with these members, against the site."""

    app = web.Application()
    app.add_routes(site.routes())
    async with client_of(app) as client:
        yield Rounds(site, client, *members)


def _status(code: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "reason": reason, "message": reason}, status=code)
