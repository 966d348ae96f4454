"""Requests to children over HTTP: the headers, and the body of an answer that does not come from the child."""

from __future__ import annotations

import contextlib

import msgspec

EPOCH_HEADER = "X-Processhub-Epoch"  # set by members only: the epoch by which the request was routed
ANSWER_HEADER = "X-Processhub-Answer"  # "child" if the answer is the child's own, whatever its status
KEY_HEADER = "Idempotency-Key"
# The headers of a request that are passed on to the child: the caller's key, and those by which traces are followed.
PASSED_HEADERS = (KEY_HEADER.lower(), "traceparent", "tracestate", "baggage", "x-request-id")


class ProblemBody(msgspec.Struct, frozen=True):
    """The fields of an RFC 9457 problem that are read: ``code`` is for programs, ``detail`` for people."""

    code: str = ""
    detail: str = ""


def read_problem(body: bytes) -> ProblemBody:
    """Parse a problem; returns an empty one if the body is not a problem."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(body, type=ProblemBody)
    return ProblemBody()
