"""The token for requests to members, which a client gets for the hub's service account."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from aiohttp import web

from builders import client_of
from processhub.api.hub import Hub
from processhub.api.meta import ObjectMeta
from processhub.client.membertoken import MemberToken
from processhub.client.session import Session


@pytest.mark.parametrize(("seconds", "tokens"), [(3600, ["1", "1", "2"]), (200, ["1", "2", "3"])])
async def test_a_token_is_used_for_as_long_as_it_was_granted_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch, seconds: int, tokens: list[str]
) -> None:
    monkeypatch.delenv("HUB_TOKEN_FILE", raising=False)
    granted: list[str] = []
    broken = [1]  # the API server restarts

    async def grant(request: web.Request) -> web.Response:
        if broken:
            broken.pop()
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        assert request.path == "/api/v1/namespaces/ns/serviceaccounts/processhub-hub/token"
        asked = await request.json()
        assert asked["spec"] == {"audiences": ["processhub"], "expirationSeconds": 3600}
        granted.append(str(len(granted) + 1))
        ends = datetime(2001, 1, 1, tzinfo=UTC).isoformat()  # the clock of this machine is decades ahead
        spec = asked["spec"] | {"expirationSeconds": seconds}
        return web.json_response({"spec": spec, "status": {"token": granted[-1], "expirationTimestamp": ends}})

    app = web.Application()
    app.router.add_post("/{path:.*}", grant)
    async with client_of(app) as client:
        token = MemberToken(Session(client, "ns", Hub(metadata=ObjectMeta(name="hub", namespace="ns"))))

        assert [await token.get(), await token.get(), await token.get(fresh=True)] == tokens
