"""What the API server answers when it refuses, as exceptions a caller can catch."""

from __future__ import annotations

from typing import Any

import msgspec


class ApiError(Exception):
    """The API server refused; ``status`` is the HTTP code, ``reason`` the Status object's reason."""

    def __init__(self, status: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}

    @property
    def outcome_unknown(self) -> bool:
        """Whether a write that was answered so may have been stored, or may be stored yet.

        An answer of 4xx is the API server's word that it was not. With 5xx, a time-out or no answer at all it may have
        been, and for as long as the API server works on a request it may still be.
        """
        return self.status == 0 or self.status == 408 or self.status >= 500


class NotFoundError(ApiError):
    """404: there is no such object (or no such kind)."""


class ConflictError(ApiError):
    """409: the object changed, or its uid or resourceVersion is not the expected one."""


class AlreadyExistsError(ConflictError):
    """409 on create: an object of that name is there already."""


class GoneError(ApiError):
    """410: the resourceVersion is too old; list again."""


class InvalidError(ApiError):
    """422 or 400 (500 by server-side apply): the schema, CEL or an admission policy refused the object."""


class ForbiddenError(ApiError):
    """401 or 403: the account may not do this."""


class NamespaceTerminatingError(ForbiddenError):
    """403 on create: the namespace is being deleted."""


class UnavailableError(ApiError):
    """429 or 5xx: overloaded or not ready; ``retry_after`` is in seconds (0 where not said)."""

    retry_after: float = 0.0


class ConnectionFailedError(ApiError):
    """No answer; whether a write took place is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "ConnectionFailed", message)


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


# Server-side apply answers so, with 500, where a field of the body is not of the schema.
_NOT_OF_THE_SCHEMA = ("failed to create typed patch object", "failed to convert new object")


def api_error(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The exception for an HTTP answer of 400 and above; ``body`` is a Status object where the server sent one."""
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        answer = {}
    reason = str(answer.get("reason", ""))
    message = str(answer.get("message", "")) or body[:300].decode(errors="replace") or f"HTTP {status}"
    details = answer.get("details")
    details = details if isinstance(details, dict) else {}
    kind = _BY_STATUS.get(status)
    if message.startswith(_NOT_OF_THE_SCHEMA):
        kind = InvalidError
    elif reason == "AlreadyExists":
        kind = AlreadyExistsError
    elif any(cause.get("reason") == "NamespaceTerminating" for cause in details.get("causes", ())):
        kind = NamespaceTerminatingError
    elif kind is None:
        kind = UnavailableError if status >= 500 else ApiError
    error = kind(status, reason, message, details)
    if isinstance(error, UnavailableError) and retry_after and retry_after.isdigit():
        error.retry_after = float(retry_after)
    return error
