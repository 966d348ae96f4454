"""Requests to children over HTTP: the headers, and the body of an answer that is not the child's own."""

from __future__ import annotations

import contextlib

import msgspec

EPOCH_HEADER = "X-Processhub-Epoch"  # set by members only: routed, and by what
ANSWER_HEADER = "X-Processhub-Answer"  # whose answer it is: the child's, whatever its status says
KEY_HEADER = "Idempotency-Key"


class ProblemBody(msgspec.Struct, frozen=True):
    """What matters of an RFC 9457 problem: ``code`` is for programs, ``detail`` for people."""

    code: str = ""
    detail: str = ""


def read_problem(body: bytes) -> ProblemBody:
    """The problem that a body tells; an empty one where it tells none."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(body, type=ProblemBody)
    return ProblemBody()
