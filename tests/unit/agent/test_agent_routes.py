"""The look-up of routes: a path that there is none for is told where those are that there are."""

from __future__ import annotations

import pytest
from aiohttp import web

from processhub.agent.problems import Problem
from processhub.agent.requests.routes import Routes


async def answer(_: web.BaseRequest) -> web.Response:
    return web.Response()


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/childrens"])
def test_an_unknown_path_is_answered_with_where_the_routes_are_described(path: str) -> None:
    routes = Routes([web.get("/v1/children", answer)])

    with pytest.raises(Problem) as unknown:
        routes.find("GET", path)

    assert (unknown.value.status, unknown.value.kind) == (404, "not_found")
    assert unknown.value.detail == f"there is no route {path}; GET /openapi.json describes those there are"
