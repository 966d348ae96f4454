"""Requests for ids that no slice names: they start a child, go to the member that may, or have the operator asked.

The member of these tests is hub-1, without processes; hub-2 is another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from test_agent_router import DIGEST, WAITS, WORKLOAD, World, other, until, world_of

from builders import client_of
from processhub.agent.env import Environment
from processhub.agent.problems import Problem
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.agent.request import Request
from processhub.agent.requests import activation, ondemand
from processhub.agent.requests.activation import BY_VIEW, Activations
from processhub.agent.requests.asks import Asks
from processhub.agent.requests.ondemand import UnplacedIds
from processhub.api.requests import ANSWER_HEADER, EPOCH_HEADER
from processhub.api.slice import MAX_ASKS, Activation, Settings, ViewMember
from processhub.core.model.activation import View, chosen_member
from processhub.registry.grammar import Assignment, Report, format_assignment

Handler = Callable[[web.Request], Awaitable[web.Response]]
ON_DEMAND = Settings(lease_seconds=WAITS, request_seconds=WAITS, on_demand=True)
ENTRY = format_assignment(Assignment(uid="h", epoch=0, workload=DIGEST, on_demand=True))
MEMBERS = ("hub-1", "hub-2")
# The ids that a view of both members gives to the one and to the other.
MINE, THEIRS = (
    next(
        f"{number}"
        for number in range(100)
        if chosen_member(View(7, "ConsistentHashing", tuple((name, 1) for name in MEMBERS)), f"{number}") == member
    )
    for member in MEMBERS
)


def view(number: int = 7, *, members: tuple[str, ...] = MEMBERS, **more: Any) -> Activation:
    """An open view of these members, as it stands in slice 0 of hub-1."""
    order = Activation(
        view=number,
        phase="Open",
        members=tuple(ViewMember(name=name, weight=1) for name in members),
        holder="p/1",
        first_epoch=100,
        last_epoch=199,
        entry=ENTRY,
        workload=WORKLOAD,
    )
    return msgspec.structs.replace(order, **more)


def closing(number: int = 7) -> Activation:
    return view(number, phase="Closing")


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world_of(tmp_path, getattr(request, "param", ON_DEMAND)) as world:
        yield world


def call(world: World, child_id: str = "a") -> asyncio.Task[Any]:
    return asyncio.create_task(world.router.send(child_id, Request("call", b"1")))


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


# Asks.


async def test_a_hub_without_views_is_asked_once_for_all_requests_until_the_last_has_gone(world: World) -> None:
    said: list[bool] = []
    world.asks.changed.listen(said.append)
    tasks = [call(world) for _ in range(50)]
    await until(lambda: world.asks.ids)

    assert world.asks.ids == ("a",)
    assert said == [True], "written at once, and once"

    await end(*tasks[1:])
    assert world.asks.ids == ("a",)

    await end(tasks[0])
    assert world.asks.ids == ()
    assert said == [True, False]


async def test_an_ask_is_withdrawn_when_its_id_is_on_record(world: World) -> None:
    task = call(world)
    await until(lambda: world.asks.ids)

    world.put("hub-2", Assignment(uid="h", epoch=3, workload=DIGEST, on_demand=True))

    await until(lambda: not world.asks.ids)
    assert not task.done(), "the request waits for the child to run"
    await end(task)


@pytest.mark.parametrize("world", [msgspec.structs.replace(ON_DEMAND, suspended=True)], indirect=True)
@pytest.mark.parametrize("order", [view(), closing(), None], ids=["open view", "closing view", "no view"])
async def test_a_request_for_a_new_child_of_a_suspended_hub_is_answered_at_once(
    world: World, order: Activation | None
) -> None:
    if order is not None:
        world.put("hub-1", view=order)

    with pytest.raises(Problem) as refused:
        await asyncio.wait_for(call(world, MINE), 1)

    assert (refused.value.status, refused.value.kind) == (503, "no_owner")
    assert refused.value.detail == f"child '{MINE}' is not started, because spec.suspend of hub hub is true"
    assert world.asks.ids == ()


FAILED = Report(
    uid="s", epoch=3, state="Failed", reason="CommandNotFound", message="command x: No such file or directory"
)


@pytest.mark.parametrize("world", [Settings(lease_seconds=1, request_seconds=1, on_demand=True)], indirect=True)
@pytest.mark.parametrize(
    ("on_record", "said"),
    [
        (None, ": the operator has not placed it"),
        ({"wait": True, "asleep": True}, " s: it is suspended, by its own spec.suspend or by its hub's"),
        ({}, " s: it is Failed on member hub-2: CommandNotFound, command x: No such file or directory"),
    ],
    ids=["not placed", "suspended", "failed"],
)
async def test_a_request_that_waited_too_long_asks_no_more_and_says_what_it_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, on_record: dict[str, Any] | None, said: str
) -> None:
    async def unknown(*_: object) -> None: ...

    monkeypatch.setattr(UnplacedIds, "_read", unknown)
    if on_record is not None:
        world.put("hub-1", view=view())
        world.put("hub-2", Assignment(uid="s", epoch=3, workload=DIGEST, **on_record), FAILED)

    with pytest.raises(Problem) as late:
        await call(world)

    assert (late.value.status, late.value.kind) == (503, "no_owner")
    assert late.value.detail.endswith(said)
    assert world.asks.ids == ()


async def test_nobody_is_asked_while_a_view_is_open_or_closes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("hub-1", view=view(holder="p/0"))  # no start is possible: the block is another process's
    task = call(world, MINE)
    await asyncio.sleep(0)
    assert world.asks.ids == ()

    world.put("hub-1", view=closing())
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.asks.ids == ()

    monkeypatch.setattr(activation, "_CLOSING_SECONDS", 0.0)
    await until(lambda: world.asks.ids == (MINE,))  # no view follows: the hub has none any more
    world.put("hub-1", view=view(8))
    await until(lambda: world.asks.ids == ())
    await end(task)


async def test_no_more_ids_are_asked_for_at_once_than_a_status_lists() -> None:
    asks, said = Asks(), list[bool]()
    for number in range(MAX_ASKS + 1):
        asks.add(f"{number:05}")
    asks.changed.listen(said.append)

    assert asks.ids == tuple(f"{number:05}" for number in range(MAX_ASKS))
    asks.withdraw("00000")
    assert asks.ids[-1] == f"{MAX_ASKS:05}"
    assert said == [True], "the next one's turn has come"


@pytest.mark.parametrize("world", [msgspec.structs.replace(ON_DEMAND, on_demand_max=1)], indirect=True)
async def test_a_request_beyond_the_limit_is_rejected_and_asks_no_more(world: World) -> None:
    """In a burst each request finds room at first. One that is rejected must not stay on the list."""
    late = call(world, "late")
    await until(lambda: world.asks.ids == ("late",))

    world.put("hub-2", Assignment(uid="h", epoch=3, workload=DIGEST, on_demand=True))

    for task in (late, call(world, "later")):
        with pytest.raises(Problem) as refused:
            await asyncio.wait_for(task, WAITS)
        assert (refused.value.status, refused.value.kind) == (429, "busy")
        assert refused.value.retry_after == 1
    assert world.asks.ids == ()


async def test_an_id_counts_once_while_it_moves(world: World) -> None:
    world.settings = msgspec.structs.replace(ON_DEMAND, on_demand_max=2)
    for number, member in enumerate(MEMBERS):
        world.put(member, Assignment(uid="h", epoch=3 + number, workload=DIGEST, on_demand=True, wait=bool(number)))

    task = call(world, "b")

    await until(lambda: world.asks.ids == ("b",))
    await end(task)


_API = "/apis/processhub.dev/v1alpha1/namespaces/n"


async def missing(_: web.Request) -> web.Response:
    return web.json_response({"reason": "NotFound"}, status=404)


async def nothing(_: web.Request) -> web.Response:
    return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})


def api_server(by_name: Handler = missing, search: Handler = nothing) -> web.Application:
    """An API server that is asked for a Child by its name, and for Children and ChildSets by a field."""
    app = web.Application()
    app.add_routes([web.get(f"{_API}/children/{{name}}", by_name)])
    app.add_routes([web.get(f"{_API}/{kind}", search) for kind in ("children", "childsets")])
    return app


@asynccontextmanager
async def unplaced_ids(app: web.Application, folder: Path) -> AsyncIterator[UnplacedIds]:
    """The look-ups of a member whose hub has no slices, at this API server."""
    env = Environment("hub", "n", "h", "hub-1", "hub-1", "p", "127.0.0.1", "node", run_dir=folder)
    async with client_of(app) as client:
        slices = SliceWatcher(client, env, "p/1")
        yield UnplacedIds(env, client, slices, Activations(env, "p/1", slices, {}, lambda: True))


def spec_of(kind: str, child_id: str) -> dict[str, Any]:
    """The spec of a Child or a ChildSet that has this id."""
    more: dict[str, Any] = {"id": child_id} if kind == "children" else {"template": {}, "ids": ["x", child_id]}
    return {"hub": "hub", **more}


@pytest.mark.parametrize(
    ("there", "gets", "lists"),
    [
        ("a", 1, 0),
        ("", 2, 2),  # by both names that clients give, and by what objects of other names say
        ("children", 2, 1),
        ("childsets", 2, 2),
    ],
)
async def test_without_on_demand_an_id_is_unknown_unless_an_object_has_it(
    tmp_path: Path, there: str, gets: int, lists: int
) -> None:
    asked: list[str] = []
    child_id = "a" if there == "a" else "a,b=\\c"

    def item(name: str, kind: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "n", "uid": "u", "resourceVersion": "1"}
        return {"metadata": metadata, "spec": spec_of(kind, child_id)}

    async def read(request: web.Request) -> web.Response:
        asked.append(request.match_info["name"])
        if there != "a":
            return await missing(request)
        return web.json_response(item("a", "children"))

    async def search(request: web.Request) -> web.Response:
        asked.append(request.query["fieldSelector"])
        kind = request.path.rpartition("/")[2]
        items = [item("own", kind)] if kind == there else []
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    async with unplaced_ids(api_server(read, search), tmp_path) as unplaced:
        asks = Asks()
        with asks.ask(child_id) as ask:
            looking = [asyncio.create_task(unplaced.expect(child_id, ask)) for _ in range(10)]
            outcome = await asyncio.gather(*looking, return_exceptions=True)
        if there:
            assert outcome == [None] * 10
        else:
            assert [problem.status for problem in outcome if isinstance(problem, Problem)] == [404] * 10
        assert len(asked) == gets + lists, "one look serves all requests"
        selectors = ["spec.hub=hub,spec.id=a\\,b\\=\\\\c", "spec.hub=hub"]
        assert [text for text in asked if text.startswith("spec.")] == selectors[:lists]
        assert asks.ids == ()


async def test_look_ups_of_many_ids_take_few_connections_and_have_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ondemand, "_LOOKING_MAX", 50)
    at_once, answer = [0, 0], asyncio.Event()

    async def read(request: web.Request) -> web.Response:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await answer.wait()
        at_once[0] -= 1
        return await missing(request)

    async with unplaced_ids(api_server(read), tmp_path) as unplaced:
        asks = Asks()

        async def look(child_id: str) -> Problem:
            with asks.ask(child_id) as ask, pytest.raises(Problem) as problem:
                await unplaced.expect(child_id, ask)
            return problem.value

        looking = [asyncio.create_task(look(f"{number}")) for number in range(50)]
        await until(lambda: at_once[0] == 8)
        refused = await look("one more")
        answer.set()
        found = await asyncio.gather(*looking)

    assert (refused.status, refused.kind, refused.retry_after) == (429, "busy", 1)
    assert [problem.status for problem in found] == [404] * 50
    assert at_once[1] == 8, "connections are left for what the member has to read and write"


async def test_the_name_of_a_child_that_is_sent_for_an_id_is_said_to_be_one(tmp_path: Path) -> None:
    async def by_name(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in ("device-7", "stray"):
            return await missing(request)
        spec = {"hub": "hub", "id": "device/7"} if name == "device-7" else {"hub": "other"}
        metadata = {"name": name, "namespace": "n", "uid": "u", "resourceVersion": "1"}
        return web.json_response({"metadata": metadata, "spec": {**spec, "exec": {"command": ["x"]}}})

    async with unplaced_ids(api_server(by_name), tmp_path) as unplaced:
        said = []
        for child_id in ("device-7", "stray", "nobody", "no/body"):
            with Asks().ask(child_id) as ask, pytest.raises(Problem) as unknown:
                await unplaced.expect(child_id, ask)
            assert (unknown.value.status, unknown.value.kind) == (404, "not_found")
            said.append(unknown.value.detail)

    assert said == [
        "hub hub has no child 'device-7'; child/device-7 has the id 'device/7'",
        "hub hub has no child 'stray'; child/stray is of hub 'other'",
        "hub hub has no child 'nobody'",
        "hub hub has no child 'no/body'",
    ]


async def test_a_look_up_without_an_answer_holds_no_request_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ondemand, "_READ_SECONDS", 0.2)
    monkeypatch.setattr(ondemand, "_WHY_SECONDS", 0.1)

    tried = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await tried.wait()
        return web.Response()

    async with unplaced_ids(api_server(silent, silent), tmp_path) as unplaced, asyncio.timeout(WAITS):
        asks = Asks()

        assert await unplaced.why("a") == ""
        with asks.ask("a") as ask, pytest.raises(Problem) as late:
            await unplaced.expect("a", ask)
        tried.set()

    assert (late.value.status, late.value.kind) == (503, "not_ready")
    assert late.value.detail.endswith("the API server does not answer")


async def test_an_id_is_looked_up_again_where_the_api_server_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ondemand, "_RETRY_AFTER", 0.01)
    answers = [429, 503, 200]

    async def search(request: web.Request) -> web.Response:
        code = answers.pop(0) if request.path.endswith("/children") else 200
        text = {"message": "storage is (re)initializing"}
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [], **text}, status=code)

    async with unplaced_ids(api_server(search=search), tmp_path) as unplaced:
        asks = Asks()
        with asks.ask("a") as ask, pytest.raises(Problem) as unknown:
            await unplaced.expect("a", ask)

    assert (unknown.value.status, answers) == (404, [])


async def test_a_request_that_waits_for_a_child_of_a_set_says_why_it_waits(tmp_path: Path) -> None:
    condition = {"type": "Ready", "status": "False", "reason": "CapacityExceeded", "message": "1 of 2 children is …"}
    metadata = {"name": "many", "namespace": "n", "uid": "u", "resourceVersion": "1"}
    many = {"metadata": metadata, "spec": spec_of("childsets", "a"), "status": {"conditions": [condition]}}

    async def search(request: web.Request) -> web.Response:
        items = [many] if request.path.endswith("/childsets") else []
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    async with unplaced_ids(api_server(search=search), tmp_path) as unplaced:
        assert await unplaced.why("a") == "CapacityExceeded, 1 of 2 children is …"


# By a view.


async def test_a_thousand_requests_start_one_child(world: World) -> None:
    world.put("hub-1", view=view())
    world.put("hub-2")

    tasks = [call(world, MINE) for _ in range(1000)]
    await asyncio.sleep(0)

    assert world.slices.made.keys() == {MINE}
    assert world.slices.made[MINE].assignment.epoch == 100
    assert world.queue.waiting == 1000
    assert world.asks.ids == ()
    await end(*tasks)


async def test_the_member_that_may_start_it_gets_the_request_of_a_new_id(world: World) -> None:
    epochs: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        epochs.append(request.headers[EPOCH_HEADER])
        if len(epochs) == 1:  # it has not read that version of its slice 0
            return web.json_response({"code": "stale_epoch"}, status=409)
        return web.json_response(7, headers={ANSWER_HEADER: "child"})

    world.put("hub-1", view=view())
    world.put("hub-2", view=view())
    async with other(answer):
        got = await asyncio.wait_for(world.router.send(THEIRS, Request("call", b"1")), WAITS)

    assert got.body == b"7"
    assert set(epochs) == {str(BY_VIEW)}
    assert not world.slices.made


@pytest.mark.parametrize("own", [None, closing(6)], ids=["joined since", "left"])
async def test_a_member_outside_the_view_passes_requests_on_to_its_members(
    world: World, own: Activation | None
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(7, headers={ANSWER_HEADER: "child"})

    world.put("hub-1", view=own)
    world.put("hub-2", view=view(7, members=("hub-2",)))
    async with other(answer):
        got = await asyncio.wait_for(world.router.send(MINE, Request("call", b"1")), WAITS)

    assert got.body == b"7"
    assert world.asks.ids == ()
    assert not world.slices.made


async def test_nothing_is_started_while_the_view_closes_in_any_slice(world: World) -> None:
    world.put("hub-1", view=view())
    world.put("hub-2", view=closing())
    task = call(world, MINE)
    await asyncio.sleep(0)
    assert not world.slices.made

    world.put("hub-2", view=view(8, members=MEMBERS))
    await asyncio.sleep(0)
    assert not world.slices.made, "its own slice names the view before"

    world.put("hub-1", view=view(8))
    await until(lambda: world.slices.made.keys() == {MINE})
    await end(task)


async def test_a_forwarded_request_is_served_where_its_child_came_on_record_since(world: World) -> None:
    """The sender has not read the entry yet, so it names no epoch."""
    world.put("hub-1", Assignment(uid="h", epoch=150, workload=DIGEST, on_demand=True))

    serving = asyncio.create_task(world.router.serve_forwarded("a", BY_VIEW, Request("call", b"1")))

    await until(lambda: world.queue.waiting == 1)
    await end(serving)


@pytest.mark.parametrize("who", ["on record elsewhere", "another's to start", "in no view"])
async def test_a_forwarded_request_for_a_child_of_another_member_goes_back(world: World, who: str) -> None:
    child_id = "a"
    if who == "on record elsewhere":
        world.put("hub-2", Assignment(uid="h", epoch=150, workload=DIGEST), Report(uid="h", epoch=150, state="Running"))
    elif who == "another's to start":
        child_id = THEIRS
        world.put("hub-1", view=view())
        world.put("hub-2")

    with pytest.raises(Problem) as stale:
        await world.router.serve_forwarded(child_id, BY_VIEW, Request("call", b"1"))

    assert (stale.value.status, stale.value.kind) == (409, "stale_epoch")
    assert world.asks.ids == (), "the member asks that the request came to"


async def test_a_forwarded_request_waits_for_what_keeps_this_member_from_a_start_for_moments(world: World) -> None:
    world.put("hub-1", view=view())
    world.slices.informer.seen -= 1  # the answer to its own write shows a slice before the watch has come so far
    request = Request("call", b"1")
    serving = asyncio.create_task(world.router.serve_forwarded(MINE, BY_VIEW, request))
    await asyncio.sleep(0)
    assert not world.slices.made
    assert not request.begun

    world.slices.informer._see(str(world.slices.informer.seen + 1))

    await until(lambda: world.queue.waiting == 1)
    assert world.slices.made.keys() == {MINE}
    await end(serving)


async def test_a_cast_that_waited_for_the_start_of_its_child_is_accepted_with_its_body(world: World) -> None:
    world.put("hub-1", view=view())
    world.slices.informer.seen -= 1

    async def fetch() -> bytes:
        return b"1"

    def put_off() -> None:
        request.body = None  # it may go to another member, until that is asked for it

    request = Request("cast", b"1", fetch=fetch, put_off=put_off)
    serving = asyncio.create_task(world.router.serve_forwarded(MINE, BY_VIEW, request))
    await until(lambda: request.body is None)
    world.slices.informer._see(str(world.slices.informer.seen + 1))

    assert (await asyncio.wait_for(serving, WAITS)).status == 202
    assert request.body == b"1", "the member that has sent it does not keep it any more"


async def test_a_share_that_is_used_up_rejects_the_ids_of_this_member(world: World) -> None:
    world.settings = msgspec.structs.replace(ON_DEMAND, on_demand_max=2)
    world.put("hub-1", Assignment(uid="h", epoch=5, workload=DIGEST, on_demand=True), view=view(share=1, most=2))

    for refused in (
        call(world, MINE),
        asyncio.create_task(world.router.serve_forwarded(MINE, 0, Request("call", b"1"))),
    ):
        with pytest.raises(Problem) as busy:
            await asyncio.wait_for(refused, WAITS)
        assert (busy.value.status, busy.value.kind) == (429, "busy")
        assert "has its share, 1, of the on-demand children that spec.onDemand.max allows" in busy.value.detail


async def test_a_request_waits_where_a_member_with_a_used_up_share_is_to_get_more(world: World) -> None:
    world.settings = msgspec.structs.replace(ON_DEMAND, on_demand_max=50)
    world.put("hub-1", Assignment(uid="h", epoch=5, workload=DIGEST, on_demand=True), view=view(share=1, most=50))
    task = call(world, MINE)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    assert not world.slices.made

    entry = Assignment(uid="h", epoch=5, workload=DIGEST, on_demand=True)
    world.put("hub-1", entry, view=view(8, share=24, most=50))

    await until(lambda: world.slices.made.keys() == {MINE})
    await end(task)


@pytest.mark.parametrize("forwarded", [False, True])
async def test_the_operator_is_asked_for_an_id_that_a_deleted_slice_named(world: World, forwarded: bool) -> None:
    """No member can know that it has ended. Until another view was opened nobody started it, and nobody was asked."""
    world.put("hub-1", view=view())
    world.put("hub-2", Assignment(uid="h", epoch=3, workload=DIGEST), child_id=MINE)
    world.drop("hub-2")

    if forwarded:
        task = asyncio.create_task(world.router.serve_forwarded(MINE, BY_VIEW, Request("call", b"1")))
    else:
        task = call(world, MINE)

    await until(lambda: world.asks.ids == (MINE,))
    assert not world.slices.made
    await end(task)
    assert world.asks.ids == ()


# Texts that are no ids.


@pytest.mark.parametrize("text", ["", "x" * 254, "é" * 127, "a\nb", "a\x00", "\ud800"])
@pytest.mark.parametrize("with_view", [False, True])
async def test_what_can_be_no_id_is_neither_started_nor_asked_for(world: World, text: str, with_view: bool) -> None:
    """The API server refused a status that asked for it, and so all that the member had to report."""
    if with_view:
        world.put("hub-1", view=view(members=("hub-1",)))

    with pytest.raises(Problem) as refused:
        await asyncio.wait_for(call(world, text), 2.0)
    with pytest.raises(Problem):
        await world.router.serve_forwarded(text, BY_VIEW, Request("call", b"1"))

    assert (refused.value.status, refused.value.kind) == (400, "bad_request")
    assert (world.asks.ids, dict(world.slices.made)) == ((), {})
