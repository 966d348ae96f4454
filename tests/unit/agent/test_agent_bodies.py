"""The bodies of requests to children: how much room a member keeps for them, and compressed ones."""

from __future__ import annotations

import gzip
import zlib

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from processhub.agent.peers.line import BODY_MAX
from processhub.agent.problems import Problem
from processhub.agent.requests.bodies import decompressed, room_for


@pytest.mark.parametrize(
    ("headers", "room"),
    [
        ({"Content-Length": "20"}, 20),
        ({"Content-Length": str(BODY_MAX + 1)}, BODY_MAX),
        ({"Transfer-Encoding": "chunked"}, BODY_MAX),
        ({"Content-Length": "20", "Content-Encoding": "gzip"}, BODY_MAX),
        ({"Content-Length": "20", "Content-Encoding": "identity"}, 20),
    ],
    ids=["of known length", "too long", "of unknown length", "compressed", "not compressed"],
)
def test_a_body_counts_with_the_most_that_it_may_take(headers: dict[str, str], room: int) -> None:
    assert room_for(make_mocked_request("POST", "/v1/children/a/call", headers)) == room


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_json_is_accepted_up_to_the_size_that_any_may_have(encoding: str, compress: object) -> None:
    assert callable(compress)
    assert decompressed(compress(b"[1]"), encoding) == b"[1]"
    assert len(decompressed(compress(bytes(BODY_MAX)), encoding)) == BODY_MAX
    with pytest.raises(web.HTTPRequestEntityTooLarge):
        decompressed(compress(bytes(BODY_MAX + 1)), encoding)


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [(b"[1]", "gzip", 400), (gzip.compress(b"[1]")[:-4], "gzip", 400), (b"", "gzip", 400), (b"[1]", "br", 415)],
    ids=["plain", "not whole", "empty", "brotli"],
)
def test_a_body_of_another_encoding_than_its_header_says_is_rejected(body: bytes, encoding: str, status: int) -> None:
    with pytest.raises(Problem) as raised:
        decompressed(body, encoding)

    assert (raised.value.status, raised.value.kind) == (status, "bad_request")
