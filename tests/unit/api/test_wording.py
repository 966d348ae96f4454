"""What a user reads of data that can't be read: the field by its path, and what to write; no words of a library."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from builders import client_of, make_child, make_hub
from processhub.api.movednodes import problem_of
from processhub.api.naming import ANNOTATION_HOOKS, ANNOTATION_NODES
from processhub.api.registeredhooks import RegisteredHooksError, parse_registered_hooks
from processhub.cluster.decoding import Undecodable
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import HUBS
from processhub.controller.hooks.verdicts import HookError, parse_answer
from processhub.controller.settings import SettingsError, from_environment

LIBRARY = re.compile(r"`|\$|malformed|truncated|Object contains|Expected|Traceback|msgspec|Encoding objects", re.I)


def raised(call: Callable[[], Any]) -> str:
    with pytest.raises((HookError, RegisteredHooksError, SettingsError)) as found:
        call()
    return str(found.value)


def answered(body: bytes | dict[Any, Any]) -> str:
    return raised(lambda: parse_answer(body))


def registered(text: str) -> str:
    hub = make_hub(annotations={ANNOTATION_HOOKS: text})
    return raised(lambda: parse_registered_hooks(hub.metadata))


def moved(text: str) -> str:
    return problem_of(make_child("a", {}, annotations={ANNOTATION_NODES: text}))


def configured(text: str) -> str:
    return raised(lambda: from_environment({"POD_NAME": "p", "POD_NAMESPACE": "n", "PROCESSHUB_MEMBER_DEFAULTS": text}))


SAID = [
    (answered(b'{"allow": "no"}'), "allow must be true or false, not text"),
    (answered(b'{"alow": true}'), "alow is no field; write allow"),
    (answered(b'{"allow": tru'), "it is no JSON: it ends too early"),
    (answered(b'{"allow" true}'), "it is no JSON: see byte 9"),
    (answered(b'["no"]'), "it must be a mapping, not a list"),
    (answered({"args": {"x": object()}}), "it has a value of type object, which JSON does not have"),
    (registered('{"registered": [{"name": 1}]}'), "registered[0].name must be text, not a whole number"),
    (registered("{"), "it is no JSON: it ends too early"),
    (moved('{"nodes": "hub-1"}'), "nodes must be a list, not text"),
    (configured('{"resources": "yes"}'), "resources must be a mapping, not text"),
    (configured('{"reources": {}}'), "reources is no field; write resources"),
]


@pytest.mark.parametrize(("sentence", "part"), SAID, ids=[part for _, part in SAID])
def test_data_that_cant_be_read_is_explained_by_its_field(sentence: str, part: str) -> None:
    assert part in sentence
    assert not LIBRARY.search(sentence), sentence


async def test_an_object_that_cant_be_read_is_explained_by_its_field() -> None:
    hub = {"metadata": {"name": "hub", "namespace": "ns", "uid": "u"}, "spec": {"members": {"replicas": "three"}}}

    async def hubs(_: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [hub]})

    app = web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/hubs", hubs)])
    async with client_of(app) as client:
        (item,), _ = await client.list(HUBS)

    assert isinstance(item, Undecodable)
    assert item.error == "spec.members.replicas must be a whole number, not text"


@pytest.mark.parametrize("page", ["<html>", '{"items": 3}', "{"])
async def test_an_answer_of_somebody_else_is_called_that(page: str) -> None:
    async def hubs(_: web.Request) -> web.Response:
        return web.Response(text=page)

    app = web.Application()
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/hubs", hubs)])
    async with client_of(app) as client:
        with pytest.raises(ApiError) as found:
            await client.list(HUBS)

    assert str(found.value).startswith("an answer about hubs can't be read: it is none of a Kubernetes API server")
    assert not LIBRARY.search(str(found.value))
