"""The errors of requests to children. Standard library only, because actors get the same errors as the client.

Every error says whether the request may have run: after ``OutcomeUnknown`` and ``Timeout`` it may have, after all
others it did not.
"""

# ruff: noqa: N818 - the names are the problems' codes, as the contract has them

from __future__ import annotations

from typing import Any


class HubError(Exception):
    """The base of all errors of the client."""


class RequestFailed(HubError):
    """A request to a child failed. ``status`` is the HTTP status, ``code`` the problem's (``no_owner``, …).

    The class itself is raised if the child answered with an error status of its own (``child_error``).
    """

    def __init__(self, message: str, status: int = 0, code: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.retry_after = retry_after  # seconds; 0 if not given


class BadRequest(RequestFailed):
    """400 bad_request: the request is not valid. The message says why."""


class NotAllowed(RequestFailed):
    """401 or 403: the token is missing or not valid, or its account may not call this hub's children."""


class ChildNotFound(RequestFailed):
    """404 not_found: the hub has no such child, and no onDemand to start one."""


class Busy(RequestFailed):
    """429 busy: the child's queue is full, or the hub has onDemand.max children. Retry in ``retry_after`` seconds."""


class OutcomeUnknown(RequestFailed):
    """502 outcome_unknown: the request was handed to the child, and no answer came. It is never run twice."""


class NoOwner(RequestFailed):
    """503: the child had no running copy within leaseSeconds + requestSeconds (``no_owner``).

    Or the member that was asked can't reach the member that runs it (``unreachable``).
    """


class Partitioned(RequestFailed):
    """The hub has lost its quorum. Nothing new is placed or served until it is back (503 partitioned)."""


class Timeout(RequestFailed):
    """The deadline passed.

    For a start or stop, ``pending`` are the ids that were not done, and ``result`` (a Result) accounts for all. A
    request (504 timeout) may still be running.
    """

    def __init__(
        self,
        message: str,
        pending: tuple[str, ...] = (),
        result: Any = None,
        *,
        status: int = 0,
        code: str = "",
    ) -> None:
        super().__init__(message, status, code)
        self.pending = pending
        self.result = result


_BY_CODE: dict[str, type[RequestFailed]] = {
    "bad_request": BadRequest,
    "not_found": ChildNotFound,
    "busy": Busy,
    "outcome_unknown": OutcomeUnknown,
    "no_owner": NoOwner,
    "not_ready": NoOwner,
    "unreachable": NoOwner,
    "partitioned": Partitioned,
}


def request_error(status: int, code: str, detail: str, retry_after: float = 0.0) -> RequestFailed:
    """The error for a problem that a member answered with."""
    if code == "timeout":
        return Timeout(detail, status=status, code=code)
    kind = NotAllowed if status in (401, 403) else _BY_CODE.get(code, RequestFailed)
    return kind(detail, status, code, retry_after)
