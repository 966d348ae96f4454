"""The error answers of the API server, as exceptions that a caller can catch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp.client_exceptions import UnixClientConnectorError

from processhub.api.meta import brief

_REFUSAL_BYTES = 500


class ApiError(Exception):
    """The API server answered with an error; ``status`` is the HTTP code, ``reason`` the Status object's reason."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def outcome_unknown(self) -> bool:
        """Whether a write with this answer may have been stored, or may still be.

        An answer of 4xx says that it was not. With 5xx, a time-out or no answer it may have been stored, and it still
        may be while the API server works on the request.
        """
        return self.status == 0 or self.status == 408 or self.status >= 500

    @property
    def refusal(self) -> str:
        """The API server's words in one line, cut where they are long, for a field of another object."""
        return brief(" ".join(self.message.split()), _REFUSAL_BYTES)


class NotFoundError(ApiError):
    """404: there is no such object (or no such kind)."""


class ConflictError(ApiError):
    """409: the object changed, or its uid or resourceVersion is not the expected one."""


class AlreadyExistsError(ConflictError):
    """409 on create: an object of that name is there already."""


class GoneError(ApiError):
    """410: the resourceVersion is too old, and the client must list again."""


class StaleListError(ApiError):
    """A list is older than what was seen before it. The API server does not answer this; an informer finds it."""


class InvalidError(ApiError):
    """422 or 400 (500 by server-side apply): the schema, CEL or an admission policy rejected the object."""


class ForbiddenError(ApiError):
    """401 or 403: the account may not do this."""


class NamespaceTerminatingError(ForbiddenError):
    """403 on create: the namespace is being deleted."""


class UnavailableError(ApiError):
    """429 or 5xx: the server is overloaded or not ready; ``retry_after`` is in seconds (0 if not given)."""

    retry_after: float = 0.0


class ConnectionFailedError(ApiError):
    """There was no answer, so the outcome of a write is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "ConnectionFailed", message)


class UnreadableError(ConnectionFailedError):
    """The answer is an object that this program can't read. If it answers a write, its outcome is unknown."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: UnavailableError,
}


# Server-side apply answers like this, with 500, if a field of the body is not in the schema.
_NOT_OF_THE_SCHEMA = ("failed to create typed patch object", "failed to convert new object")


def reason_of(error: BaseException) -> str:
    """Why a connection could not be made or broke, in the system's words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"the certificate of {error.host}:{error.port} is not accepted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0  # negative ones are those of name resolution, with a text of their own
        text = os.strerror(number) if number > 0 else error.os_error.strerror or error.os_error
        place = error.path if isinstance(error, UnixClientConnectorError) else f"{error.host}:{error.port}"
        return f"no connection to {place}: {text}"
    if isinstance(error, aiohttp.ClientHttpProxyError):  # its text has the password of the proxy
        proxy = error.request_info.real_url
        return f"the proxy {proxy.host}:{proxy.port} answered {error.status}: {error.message}"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer within the time limit"
    return str(error) or type(error).__name__


def api_error(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The exception for an HTTP answer of 400 and above; ``body`` is a Status object if the server sent one."""
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        answer = {}
    reason = str(answer.get("reason", ""))
    message = str(answer.get("message", "")) or body[:300].decode(errors="replace") or f"HTTP {status}"
    details = answer.get("details")
    causes = details.get("causes", ()) if isinstance(details, dict) else ()
    kind = _BY_STATUS.get(status)
    if message.startswith(_NOT_OF_THE_SCHEMA):
        kind = InvalidError
    elif reason == "AlreadyExists":
        kind = AlreadyExistsError
    elif any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        kind = NamespaceTerminatingError
    elif kind is None:
        kind = UnavailableError if status >= 500 else ApiError
    error = kind(status, reason, message)
    if isinstance(error, UnavailableError) and retry_after and retry_after.isdecimal():
        error.retry_after = float(retry_after)
    return error


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Raise ConnectionFailedError for an unreadable answer (a proxy's page, half an answer): unknown outcome."""
    try:
        yield
    except msgspec.MsgspecError as error:
        raise ConnectionFailedError(
            f"an answer about {what} can't be read: it is none of a Kubernetes API server; is there a proxy on the way?"
        ) from error
