"""The room that a member keeps for the bodies of requests, which wait there for their turn."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from processhub.agent.peers.line import BODY_MAX
from processhub.agent.requests.server import room_for


@pytest.mark.parametrize(
    ("headers", "room"),
    [
        ({"Content-Length": "20"}, 20),
        ({"Content-Length": str(BODY_MAX + 1)}, BODY_MAX),
        ({"Transfer-Encoding": "chunked"}, BODY_MAX),
        ({"Content-Length": "20", "Content-Encoding": "gzip"}, BODY_MAX),
    ],
    ids=["of known length", "too long", "of unknown length", "compressed"],
)
def test_a_body_counts_with_the_most_that_it_may_take(headers: dict[str, str], room: int) -> None:
    assert room_for(make_mocked_request("POST", "/v1/children/a/call", headers)) == room
