"""The parts of aiohttp's server that the agent uses.

``aiohttp.web`` has many more, such as applications and static files, which would take 1.3 MiB of each member.
"""

from aiohttp.web_exceptions import HTTPException, HTTPRequestEntityTooLarge
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_routedef import RouteDef, get, post, put, route
from aiohttp.web_server import Server
from aiohttp.web_ws import WebSocketResponse

__all__ = [
    "BaseRequest",
    "HTTPException",
    "HTTPRequestEntityTooLarge",
    "RequestHandler",
    "RequestPayloadError",
    "Response",
    "RouteDef",
    "Server",
    "StreamResponse",
    "WebSocketResponse",
    "get",
    "post",
    "put",
    "route",
]
