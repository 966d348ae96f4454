"""Errors as HTTP answers: problem details of RFC 9457."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec

from processhub.agent import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
PROBLEM_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 RFC 9457's word
    """An error answer: HTTP status, last part of the problem type, and detail.

    ``retry_after`` is in whole seconds; ``allow`` lists the methods that a path has, for status 405.
    """

    def __init__(self, status: int, kind: str, detail: str, retry_after: int = 0, *, allow: str = "") -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.retry_after, self.allow = retry_after, allow


async def problems(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
    """Answer requests whose handler raises an error."""
    try:
        return await handler(request)
    except Problem as problem:
        return respond(problem)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status, "bad_request")
        detail, allow = f"{request.method} {request.path}: {error.reason}", error.headers.get("Allow", "")
        return respond(Problem(error.status, kind, detail, allow=allow))


def problem_body(problem: Problem) -> bytes:
    """The problem as JSON."""
    return msgspec.json.encode(
        {
            "type": f"https://processhub.dev/problems/{problem.kind}",
            "title": HTTPStatus(problem.status).phrase,
            "status": problem.status,
            "code": problem.kind,
            "detail": problem.detail,
        }
    )


def respond(problem: Problem) -> web.Response:
    """The HTTP response for a problem."""
    answer = web.Response(body=problem_body(problem), status=problem.status, content_type=PROBLEM_TYPE)
    if problem.retry_after:
        answer.headers["Retry-After"] = str(problem.retry_after)
    if problem.allow:
        answer.headers["Allow"] = problem.allow
    if problem.kind == "tls_required":
        answer.headers["Upgrade"] = "TLS/1.2, HTTP/1.1"
    if problem.status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer
