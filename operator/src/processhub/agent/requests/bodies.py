"""The bodies of callers' requests to children: JSON, of limited size. gzip and deflate are undone here.

The server leaves compressed bodies as they are, because a stream passes them on to the child unchanged.
"""

from __future__ import annotations

import zlib

import msgspec

from processhub.agent import web
from processhub.agent.peers.line import BODY_MAX
from processhub.agent.problems import Problem

_ENCODINGS = ("gzip", "x-gzip", "deflate")


def room_for(request: web.BaseRequest) -> int:
    """The bytes that the body of the request may take here. A compressed one may take the most that any may."""
    if request.content_length is None or _encoding(request):
        return BODY_MAX
    return min(request.content_length, BODY_MAX)


async def read_json(request: web.BaseRequest) -> bytes:
    """The body of a request. Raises Problem if it is not JSON, and HTTPException if it is too large."""
    body = await _read(request)
    if encoding := _encoding(request):
        body = decompressed(body, encoding)
    try:
        msgspec.json.decode(body)
        return body
    except msgspec.DecodeError:
        pass
    except RecursionError:
        raise Problem(400, "bad_request", "the body is nested too deeply") from None
    raise Problem(400, "bad_request", 'the body is not JSON; send a JSON value, for example {"op": "get"}')


def decompressed(body: bytes, encoding: str) -> bytes:
    """The body without its Content-Encoding. Raises Problem, and HTTPException if the result is too large."""
    if encoding not in _ENCODINGS:
        raise Problem(415, "bad_request", f"Content-Encoding {encoding} is not known here; send gzip, deflate or none")
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by what it begins with
    try:
        plain = stream.decompress(body, BODY_MAX + 1)
    except zlib.error:
        plain = b""
    if len(plain) > BODY_MAX:
        raise web.HTTPRequestEntityTooLarge(BODY_MAX, len(plain))
    if not stream.eof or stream.unused_data:
        raise Problem(400, "bad_request", f"the body is not {encoding}, as its Content-Encoding says, or not whole")
    return plain


def _encoding(request: web.BaseRequest) -> str:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


async def _read(request: web.BaseRequest) -> bytes:
    """The body as it was sent. Most bodies have come with the headers, and are not waited for."""
    if request.content.is_eof():
        body: bytes = request.content.read_nowait()
        if len(body) <= BODY_MAX:
            return body
    return await request.read()
