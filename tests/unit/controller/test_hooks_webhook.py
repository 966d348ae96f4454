"""The call of a webhook, and its answer."""

from __future__ import annotations

from aiohttp import web
from aiohttp.test_utils import TestServer

from processhub.api.hooks import Webhook
from processhub.controller.hooks.hubevent import CloudEventText
from processhub.controller.hooks.webhook import new_session, post

DENIAL = b'{"allow": false, "reason": "not today"}'


async def test_a_receiver_that_compresses_what_it_may_is_asked_not_to() -> None:
    """As behind nginx or with a framework's middleware. An answer of unknown size after decompression is not taken."""

    async def answer(_: web.Request) -> web.Response:
        response = web.Response(body=DENIAL)
        response.enable_compression()
        return response

    app = web.Application()
    app.router.add_post("/", answer)
    async with TestServer(app) as receiver, new_session() as session:
        said = await post(session, Webhook(url=str(receiver.make_url("/"))), CloudEventText("1", {}, b"{}"))

    assert said == DENIAL
