"""The effect of a list on an informer: an object that is not listed is gone, unless the list proves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from waiting import until

from builders import client_of
from processhub.api.child import Child
from processhub.cluster import informer as module
from processhub.cluster import source
from processhub.cluster.errors import StaleListError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import CHILDREN

DEADLINE = 40.0
Json = dict[str, Any]


def child(name: str, version: int, hub: Any = "hub") -> Json:
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version)},
        "spec": {"hub": hub},
    }


def listed(version: int, *items: Json) -> Json:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


class Site:
    """Returns these lists one after the other; no watch can be resumed until all have been returned."""

    def __init__(self, *lists: Json | int) -> None:
        self.lists = list(lists)
        self.events: list[Json] = []  # sent by the watch before the next list is answered
        self.watch: web.StreamResponse | None = None
        self.seen: Callable[[], int] = lambda: 0
        self.done = asyncio.Event()

    async def children(self, request: web.Request) -> web.Response:
        if "watch" in request.query:
            if self.lists:
                return web.json_response({"kind": "Status", "message": "too old"}, status=410)
            self.watch = web.StreamResponse()
            await self.watch.prepare(request)
            self.done.set()
            await asyncio.Event().wait()
        answer = self.lists.pop(0)
        for event in self.events:
            assert self.watch is not None
            await self.watch.write(json.dumps(event).encode() + b"\n")
            version = int(event["object"]["metadata"]["resourceVersion"])
            await until(lambda version=version: self.seen() == version, "the watch has come so far")
        if isinstance(answer, int):
            return web.json_response({"kind": "Status", "message": "no"}, status=answer)
        return web.json_response(answer)


async def changes_by(*lists: Json | int, on_rewound: Callable[[], None] | None = None) -> tuple[list[str], list[str]]:
    """Return the changes that an informer reports for these lists, ``+`` and ``-``, and its unreadable objects."""
    said, broken = list[str](), list[str]()

    def change(old: Child | None, new: Child | None) -> None:
        said.append(f"+{new.metadata.name}" if new is not None else f"-{old.metadata.name if old else ''}")

    site, app = Site(*lists), web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/children", site.children)])
    async with client_of(app) as client:
        informer = Informer(
            client,
            CHILDREN,
            change,
            on_broken=lambda metadata, _: broken.append(metadata.name),
            on_rewound=on_rewound,
        )
        following = asyncio.create_task(informer.run())
        async with asyncio.timeout(DEADLINE):
            await site.done.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return said, broken


@asynccontextmanager
async def watching(site: Site) -> AsyncIterator[tuple[Site, Informer[Child]]]:
    """An informer that has listed, and watches."""
    app = web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/children", site.children)])
    async with client_of(app) as client:
        informer = Informer(client, CHILDREN, lambda _old, _new: None)
        site.seen = lambda: informer.seen
        following = asyncio.create_task(informer.run())
        async with asyncio.timeout(DEADLINE):
            await site.done.wait()
            yield site, informer
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_an_object_that_a_newer_list_lacks_is_gone() -> None:
    assert await changes_by(listed(10, child("a", 5)), listed(11)) == (["+a", "-a"], [])


@pytest.mark.parametrize("proves_nothing", [listed(9), 503], ids=["older than what was seen", "failed"])
async def test_an_older_or_failed_list_removes_no_object(proves_nothing: Json | int) -> None:
    lists = (listed(10, child("a", 5)), proves_nothing, listed(11, child("a", 5)))

    assert await changes_by(*lists) == (["+a"], [])


async def test_an_object_that_cannot_be_read_any_more_is_not_gone() -> None:
    assert await changes_by(listed(10, child("a", 5)), listed(12, child("a", 11, hub=7))) == (["+a"], ["a"])


@pytest.mark.parametrize(
    "older", [listed(9, child("a", 4)), listed(30, child("a", 4))], ids=["older than what was seen", "an older object"]
)
async def test_a_list_beside_the_watch_is_refused_if_it_is_older_than_what_was_seen(older: Json) -> None:
    async with watching(Site(listed(10, child("a", 5)))) as (site, informer):
        site.lists = [older]
        with pytest.raises(StaleListError):
            await informer.read()


async def test_a_list_beside_the_watch_may_be_older_than_what_was_seen_while_it_was_awaited() -> None:
    async with watching(Site(listed(10, child("a", 5)))) as (site, informer):
        site.lists, site.events = [listed(10, child("a", 5))], [{"type": "ADDED", "object": child("b", 12)}]

        items, version = await informer.read()

        assert informer.seen == 12
        assert (len(items), version) == (1, "10")


async def test_a_list_beside_a_watch_of_all_namespaces_is_of_the_namespace_that_is_asked_for() -> None:
    async def children(_: web.Request) -> web.Response:
        return web.json_response(listed(10, child("a", 5)))

    app = web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/namespaces/ns/children", children)])
    async with client_of(app) as client:
        informer = Informer(client, CHILDREN, lambda _old, _new: None)
        informer.source.silence = 20.0
        items, version = await informer.read("ns")

    assert (len(items), version) == (1, "10")
    assert informer.source.silence == 20.0, "the list of all namespaces may take as long as before"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second older list is accepted."""
    monkeypatch.setattr(module, "REWOUND_SECONDS", 0.01)


OLDER = listed(9, child("b", 4))
BUMPED = listed(30, child("a", 3), child("b", 4))  # as after a restore with --bump-revision


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("older", "said"), [(OLDER, ["+a", "+b", "+b", "-a"]), (BUMPED, ["+a", "+b", "+a", "+b"])], ids=["older", "bumped"]
)
async def test_lists_that_stay_older_are_accepted_as_a_restored_etcds(older: Json, said: list[str]) -> None:
    assert await changes_by(listed(20, child("a", 15), child("b", 16)), older, older) == (said, [])


@pytest.mark.usefixtures("at_once")
async def test_an_older_list_that_is_followed_by_a_newer_one_was_a_mistake() -> None:
    before = listed(20, child("a", 15))

    assert await changes_by(before, listed(9), before, listed(9), before) == (["+a"], [])


@pytest.mark.usefixtures("at_once")
async def test_a_restart_of_the_list_is_reported_and_known_objects_are_kept_until_then() -> None:
    rewound = list[str]()

    said = await changes_by(
        listed(20, child("a", 15)), OLDER, OLDER, listed(21, child("a", 15)), on_rewound=lambda: rewound.append("once")
    )

    assert said == (["+a"], [])
    assert rewound == ["once"]


class Quiet:
    """An API server whose watches end at once. After the first list its objects are those of an earlier time."""

    def __init__(self) -> None:
        self.lists = 0

    async def children(self, request: web.Request) -> web.Response:
        if "watch" in request.query:
            return web.Response()
        assert request.query["fieldSelector"] == "spec.hub=hub"  # An account may be allowed only this.
        whole = request.query.get("limit") != "1"
        self.lists += whole
        return web.json_response(listed(20, child("a", 15)) if whole and self.lists == 1 else OLDER)


@pytest.mark.usefixtures("at_once")
async def test_a_watch_does_not_continue_from_a_future_version() -> None:
    """It would be silent until the version exists."""
    site, app, gone = Quiet(), web.Application(), asyncio.Event()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/children", site.children)])

    async with client_of(app) as client:
        following = asyncio.create_task(
            Informer(
                client, CHILDREN, lambda old, new: gone.set() if new is None else None, fields="spec.hub=hub"
            ).run()
        )
        async with asyncio.timeout(DEADLINE):
            await gone.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class FaultySite:
    """An API server whose next lists are never answered, and whose watches are all answered in the same way."""

    def __init__(self, watch_status: int = 200) -> None:
        self.lost, self.watch_status = 0, watch_status
        self.lost_after_watch = 0
        self.watches: list[float] = []
        self.silences: list[float] = []  # for how long each list may be silent
        self.informer: Informer[Child] | None = None

    async def children(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            self.watches.append(asyncio.get_running_loop().time())
            self.lost, self.lost_after_watch = self.lost_after_watch, 0
            if self.watch_status != 200:
                return web.json_response({"kind": "Status", "message": "no"}, status=self.watch_status)
            return web.Response(text="")
        if request.query.get("limit") != "1":
            assert self.informer is not None
            self.silences.append(self.informer.source.silence)
        if self.lost:
            self.lost -= 1
            await asyncio.Event().wait()
        return web.json_response(listed(10, child("a", 5)))


@contextlib.asynccontextmanager
async def following(site: FaultySite) -> AsyncIterator[Informer[Child]]:
    app = web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/children", site.children)])
    async with client_of(app) as client:
        site.informer = informer = Informer(client, CHILDREN, lambda old, new: None)
        running = asyncio.create_task(informer.run())
        yield informer
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_lost_list_is_sent_again_soon_and_may_then_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(source, "_AS_LONG_AGAIN", 0.0)  # however long this machine takes for the last list
    site = FaultySite()
    site.lost = 2

    async with following(site) as informer:
        async with asyncio.timeout(DEADLINE):  # well below the minute that a list may take
            await informer.synced.wait()

        assert site.silences == [0.2, 0.4, 0.8]
        assert informer.source.silence == 0.2  # the next one is noticed as soon again


async def test_a_lost_look_at_the_latest_version_is_sent_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_SILENCE_SECONDS", 0.2)
    site = FaultySite()
    site.lost_after_watch = 2

    async with following(site) as informer:
        await until(lambda: len(site.watches) == 2, "a watch after the one that ended at once")

        assert site.watches[1] - site.watches[0] >= 0.6
        assert informer.relists == 1


async def test_a_list_that_arrives_slowly_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_SILENCE_SECONDS", 1.0)

    async def children(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            await asyncio.Event().wait()
        answer = web.StreamResponse()
        await answer.prepare(request)
        text = json.dumps(listed(10, child("a", 5))).encode()
        for start in range(0, len(text), 10):  # takes longer in all than the server may be silent
            await answer.write(text[start : start + 10])
            await asyncio.sleep(0.1)
        return answer

    app = web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/children", children)])
    async with client_of(app) as client:
        found, _ = await source.Source(client, CHILDREN, None, "", "").list()

    assert [item.metadata.name for item in found] == ["a"]


@pytest.mark.parametrize("status", [200, 403, 410], ids=["ended at once", "not allowed", "too old"])
async def test_watches_that_deliver_nothing_are_begun_less_and_less_often(status: int) -> None:
    site = FaultySite(status)

    async with following(site) as informer:
        await until(lambda: len(site.watches) == 6, "a watch after five that delivered nothing")

        pauses = [after - before for before, after in itertools.pairwise(site.watches)]
        assert pauses[-1] >= 0.8
        assert informer.relists == (1 if status == 200 else 6)


@pytest.mark.parametrize("asked", ["3600", "\u00b2"], ids=["an hour", "no number"])
async def test_an_informer_waits_at_most_so_long_as_it_is_asked_to(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setattr(module, "_RETRY_AFTER_MAX", 0.3)
    refused = [web.Response(status=503, headers={"Retry-After": asked})]

    async def children(request: web.Request) -> web.StreamResponse:
        if refused:
            return refused.pop()
        if "watch" in request.query:
            await asyncio.Event().wait()
        return web.json_response(listed(10))

    app = web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/children", children)])
    async with client_of(app) as client:
        informer = Informer(client, CHILDREN, lambda old, new: None)
        running = asyncio.create_task(informer.run())
        async with asyncio.timeout(5):
            await informer.synced.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
