"""The exceptions of a client: only those that its callers know, whatever the response."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from waiting import until

from builders import client_of
from processhub.api.meta import ObjectMeta
from processhub.cluster.client import Client
from processhub.cluster.config import Config, ConfigError
from processhub.cluster.decoding import Undecodable
from processhub.cluster.deepjson import TOO_DEEP
from processhub.cluster.errors import ApiError, ForbiddenError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import HUBS, Kind, metadata_of

HUB = {
    "apiVersion": "processhub.dev/v1alpha1",
    "kind": "Hub",
    "metadata": {"name": "hub", "namespace": "ns", "uid": "u", "resourceVersion": "5"},
    "spec": {},
}
PATH = "/apis/processhub.dev/v1alpha1/hubs"


class Site:
    """An API server of one hub; ``troubles`` are the next responses instead of its own: a status, or a body."""

    def __init__(self) -> None:
        self.troubles: list[int | str] = []
        self.in_watch: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.troubles:
            match self.troubles.pop(0):
                case int(status):
                    return web.json_response({"kind": "Status", "message": "no"}, status=status)
                case str(text):
                    return web.Response(text=text)
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "9"}, "items": [HUB]})
        response = web.StreamResponse()
        await response.prepare(request)
        while self.in_watch:
            await response.write(self.in_watch.pop(0).encode())
        await asyncio.Event().wait()
        return response


async def no_credentials() -> Config:
    raise ConfigError("the token is being rotated")


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, Client]]:
    site, app = Site(), web.Application()
    app.add_routes([web.get(PATH, site.answer), web.get(PATH + "/{name}", site.answer)])
    async with client_of(app, reload=no_credentials) as client:
        yield site, client


async def test_a_rejection_is_raised_if_the_credentials_cannot_be_read_again(site: tuple[Site, Client]) -> None:
    server, client = site
    server.troubles = [401]

    with pytest.raises(ForbiddenError):
        await client.list(HUBS)


@pytest.mark.parametrize("text", ["<html>busy</html>", "[]", '{"metadata": 1}'])
async def test_a_response_that_is_not_an_api_servers_is_an_error_that_callers_know(
    site: tuple[Site, Client], text: str
) -> None:
    server, client = site
    server.troubles = [text]

    with pytest.raises(ApiError, match="can't be read"):
        await client.list(HUBS)


async def test_an_object_of_a_later_release_is_not_taken_for_the_answer_of_a_proxy(site: tuple[Site, Client]) -> None:
    """An earlier ``kubectl hub`` meets it after an upgrade of the CRDs."""
    server, client = site
    server.troubles = [json.dumps(HUB | {"spec": {"migration": {"onRestart": "Wait"}}})]

    with pytest.raises(ApiError) as found:
        await client.get(HUBS, None, "hub")

    assert str(found.value) == (
        "hubs/hub: spec.migration.onRestart can't be 'Wait'; write Hold or Move. Or are the CRDs of a later release"
        " than this program?"
    )
    assert found.value.outcome_unknown, "if it is the answer to a write"


@pytest.mark.parametrize("depth", [600, 970, 1100, 9900])
@pytest.mark.parametrize("watched", [False, True], ids=["listed", "watched"])
async def test_an_object_that_is_nested_too_deeply_is_told_apart_from_the_others(
    site: tuple[Site, Client], depth: int, watched: bool
) -> None:
    """Whoever may create an object could end every program that reads all of them."""
    server, client = site
    spec = '{"a": "]}", "x": ' + "[" * depth + '"{"' + "]" * depth + "}"
    deep = f'{{"metadata": {{"name": "deep", "namespace": "ns", "uid": "d", "resourceVersion": "8"}}, "spec": {spec}}}'
    if watched:
        server.in_watch = [f'{{"type": "ADDED", "object": {deep}}}\n'.replace('"8"', '"10"')]
    else:
        server.troubles = [f'{{"metadata": {{"resourceVersion": "9"}}, "items": [{json.dumps(HUB)}, {deep}]}}']
    told: dict[str, str | None] = {}
    kind = Kind(HUBS.group, HUBS.version, HUBS.plural, dict[str, Any], free=True)

    def on_broken(metadata: ObjectMeta, item: Undecodable | None) -> None:
        told[metadata.name] = item.error if item is not None else None

    informer = Informer(client, kind, lambda old, new: None, on_broken=on_broken)

    running = asyncio.create_task(informer.run())
    await until(lambda: running.done() or told, "a word about it")

    assert not running.done()
    assert told == {"deep": TOO_DEEP}
    assert list(informer.items) == [("ns", "hub")]
    running.cancel()


@pytest.mark.parametrize("depth", [600, 970, 1100, 9900])
async def test_one_object_that_is_nested_too_deeply_is_not_read_either(site: tuple[Site, Client], depth: int) -> None:
    """An answer to a write would otherwise bring in what lists and watches keep out."""
    server, client = site
    deep = '{"metadata": {"name": "deep"}, "spec": {"x": ' + "[" * depth + "]" * depth + "}}"
    kind = Kind(HUBS.group, HUBS.version, HUBS.plural, dict[str, Any], free=True)

    server.troubles = [deep]
    with pytest.raises(ApiError, match=TOO_DEEP):
        await client.get(kind, None, "deep")

    server.troubles = [deep]
    read = await client.get(metadata_of("processhub.dev/v1alpha1", "hubs"), None, "deep")
    assert read.metadata.name == "deep"


@pytest.mark.parametrize(
    ("troubles", "in_watch"),
    [
        ([401], []),
        (["<html>busy</html>"], []),
        ([], ["<html>\n"]),
        ([], ['{"type": "ADDED", "object": {"metadata": 1}}\n']),
    ],
    ids=["credentials", "list", "watch", "object"],
)
async def test_an_informer_continues_after_any_response(
    site: tuple[Site, Client], troubles: list[int | str], in_watch: list[str]
) -> None:
    server, client = site
    server.troubles, server.in_watch = [*troubles], [*in_watch]
    informer = Informer(client, HUBS, lambda old, new: None)
    relists = 1 if troubles else 2

    running = asyncio.create_task(informer.run())
    await until(lambda: running.done() or informer.relists == relists, "a list after the trouble")

    assert not running.done()
    assert ("ns", "hub") in informer.items
    running.cancel()


async def test_watches_leave_connections_for_requests(site: tuple[Site, Client]) -> None:
    """An operator of five namespaces has more watches than a client may have requests at once."""
    _, client = site
    informers = [Informer(client, HUBS, lambda old, new: None) for _ in range(70)]
    running = [asyncio.create_task(informer.run()) for informer in informers]
    await until(lambda: all(informer.connected for informer in informers), "all lists")

    async with asyncio.timeout(5):
        _, version = await client.list(HUBS)

    assert version == "9"
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_requests_that_are_rejected_while_the_credentials_are_read_again_are_sent_with_the_new_ones() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer new":
            return web.json_response({"kind": "Status", "message": "no"}, status=401)
        return web.json_response(HUB)

    async def new_token() -> str:
        return "Bearer new"

    async def slow_plugin() -> Config:
        await asyncio.sleep(0.3)  # as aws eks get-token takes
        return dataclasses.replace(client.config, token=new_token)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with client_of(app, reload=slow_plugin) as client:
        found = await asyncio.gather(*(client.get(HUBS, "ns", "hub") for _ in range(10)))

    assert len(found) == 10
