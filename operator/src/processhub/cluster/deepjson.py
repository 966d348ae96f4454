"""JSON that is nested too deeply to be decoded: an API server takes 10,000 levels, Python no more than some 900.

Whoever may create a Child may write that into ``args``. If an answer has such an object, what lies deeper than
``DEEPEST`` is cut out of the answer, so that the other objects can be read. The limit is far below 900, because what is
decoded is encoded again elsewhere, where less of the stack is left.
"""

from __future__ import annotations

import re
import secrets
from typing import TypeVar

import msgspec

T = TypeVar("T")
DEEPEST = 500  # levels that are kept
TOO_DEEP = "it is nested too deeply: write fewer lists and mappings within each other"
MARK = b'"nested too deeply %s"' % secrets.token_hex(16).encode()  # stands for what was cut out
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_STRINGS, _TOKEN = re.compile(_STRING, re.DOTALL), re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def decode(body: bytes, kind: type[T]) -> tuple[T, bool]:
    """Decode JSON; returns the value, and whether something was cut out. Raises msgspec.MsgspecError."""
    try:
        return msgspec.json.decode(body, type=kind), False
    except RecursionError:
        return msgspec.json.decode(shallow(body), type=kind), True


def is_deep(body: bytes) -> bool:
    """Whether the JSON is nested more deeply than DEEPEST, or something was cut out of it."""
    if MARK in body:
        return True
    # Nearly all objects have fewer brackets than that.
    return body.count(b"[") + body.count(b"{") > DEEPEST and _may_be_deep(body) and shallow(body) != body


def _may_be_deep(body: bytes) -> bool:
    """Whether the JSON may be nested more deeply than DEEPEST. It costs a tenth of a look at each bracket in turn."""
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    for _ in range(DEEPEST // 2):  # each turn takes one or two levels away, the innermost ones
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


def shallow(body: bytes) -> bytes:
    """The JSON with MARK in place of what is nested more deeply than DEEPEST."""
    parts: list[bytes] = []
    depth = copied = begin = 0
    for token in _TOKEN.finditer(body):
        if token[0] in b"[{":
            depth += 1
            if depth == DEEPEST + 1:
                begin = token.start()
        elif token[0] in b"]}":
            if depth == DEEPEST + 1:
                parts += [body[copied:begin], MARK]
                copied = token.end()
            depth -= 1
    return b"".join([*parts, body[copied:]])
