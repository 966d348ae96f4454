"""What an informer makes of an object whose spec changes without a new generation, or whose generation falls.

Either etcd was restored to an earlier time, or the API server drops fields, because an older CRD is installed.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from builders import client_of
from processhub.api.slice import RegistrySlice
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import SLICES

DEADLINE = 40.0
Json = dict[str, Any]
NAME = "hub.hub-0.0"


def slice_at(version: int, *, generation: int = 3, entries: Json | None = None, **settings: Any) -> Json:
    """A slice as the API server gives it, with these settings and no others."""
    metadata = {"name": NAME, "namespace": "ns", "uid": "u", "resourceVersion": str(version), "generation": generation}
    spec = {"hub": "hub", "hubUid": "h", "member": "hub-0", "term": 1, "entries": entries or {"a": "x"}}
    return {"metadata": metadata, "spec": {**spec, "settings": settings}}


class Site:
    """An API server with one slice. Each change is an event of the watch."""

    def __init__(self, first: Json) -> None:
        self.stored = first
        self.changes: asyncio.Queue[Json] = asyncio.Queue()
        self.reads = 0

    def change(self, item: Json) -> None:
        self.stored = item
        self.changes.put_nowait(item)

    async def slices(self, request: web.Request) -> web.StreamResponse:
        version = self.stored["metadata"]["resourceVersion"]
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": version}, "items": [self.stored]})
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            event = {"type": "MODIFIED", "object": await self.changes.get()}
            await answer.write(json.dumps(event).encode() + b"\n")

    async def one(self, request: web.Request) -> web.Response:
        self.reads += 1
        return web.json_response(self.stored)


class Seen:
    """What an informer says of the slice."""

    def __init__(self) -> None:
        self.rewound = 0
        self.noticed = asyncio.Event()
        self.items: asyncio.Queue[RegistrySlice] = asyncio.Queue()

    def rewind(self) -> None:
        self.rewound += 1
        self.noticed.set()

    def change(self, _: RegistrySlice | None, new: RegistrySlice | None) -> None:
        if new is not None:
            self.items.put_nowait(new)


async def seen_after(first: Json, *changes: Json, keeps: bool = True) -> tuple[list[int], int, int]:
    """The ``requestSeconds`` of each version, how often an informer calls it a restore, and its single reads."""
    site, seen, app = Site(first), Seen(), web.Application()
    path = "/apis/processhub.dev/v1alpha1"
    app.add_routes([web.get(f"{path}/registryslices", site.slices)])
    app.add_routes([web.get(f"{path}/namespaces/ns/registryslices/{NAME}", site.one)])
    async with client_of(app) as client, asyncio.timeout(DEADLINE):
        informer = Informer(client, SLICES, seen.change, on_rewound=seen.rewind, keeps_dropped=keeps)
        following = asyncio.create_task(informer.run())
        found = [await seen.items.get()]
        for item in changes:
            site.change(item)
            found.append(await seen.items.get())
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert [str(item.metadata.resource_version) for item in found] == [
        item["metadata"]["resourceVersion"] for item in (first, *changes)
    ]
    return [item.spec.settings.request_seconds for item in found], seen.rewound, site.reads


async def test_a_field_that_the_api_server_drops_is_no_restored_etcd() -> None:
    dropped = [slice_at(version, stopSeconds=9) for version in (11, 12)]

    values, rewound, reads = await seen_after(slice_at(10, requestSeconds=7, stopSeconds=9), *dropped)

    assert (values, rewound) == ([7, 7, 7], 0), "what was known stays"
    assert reads == 1, "the next time it is known that the field is dropped"


async def test_who_writes_the_objects_sees_that_the_field_is_not_stored() -> None:
    values, rewound, _ = await seen_after(slice_at(10, requestSeconds=7), slice_at(11), keeps=False)

    assert (values, rewound) == ([7, 5], 0)


async def test_a_field_is_not_restored_when_the_crd_has_it_again_with_its_default() -> None:
    """That is so until the operator has written it once more."""
    known, dropped = slice_at(10, requestSeconds=7), slice_at(11)

    values, rewound, _ = await seen_after(
        known, dropped, slice_at(12, requestSeconds=5), slice_at(13, generation=4, requestSeconds=7)
    )

    assert (values, rewound) == ([7, 7, 7, 7], 0)


@pytest.mark.parametrize(
    "restored",
    [
        slice_at(11, requestSeconds=5),
        slice_at(11, entries={"b": "x"}, requestSeconds=7),
        slice_at(11, entries={"b": "x"}),
    ],
    ids=["another value", "other entries", "other entries, and a field that is dropped"],
)
async def test_any_other_change_without_a_new_generation_is_that_of_a_restored_etcd(restored: Json) -> None:
    _, rewound, _ = await seen_after(slice_at(10, requestSeconds=7), restored)

    assert rewound == 1


async def test_a_lower_generation_is_that_of_a_restored_etcd_and_is_not_followed() -> None:
    first = slice_at(10, entries={"b": "x"})
    site, seen, app = Site(first), Seen(), web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/registryslices", site.slices)])
    async with client_of(app) as client, asyncio.timeout(DEADLINE):
        informer = Informer(client, SLICES, seen.change, on_rewound=seen.rewind, keeps_dropped=True)
        following = asyncio.create_task(informer.run())
        await seen.items.get()

        site.change(slice_at(11, generation=2))

        await seen.noticed.wait()
        assert seen.items.empty()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
