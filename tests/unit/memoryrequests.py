"""Names, selectors and errors of requests to the API server in memory."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from memoryschemas import can_select

Json = dict[str, Any]


class Key(NamedTuple):
    """The place of an object."""

    plural: str
    namespace: str
    name: str


class Refused(Exception):  # noqa: N818 it is a response
    """An error response of the API server."""

    def __init__(self, code: int, reason: str, message: str = "", cause: str = "") -> None:
        super().__init__(message or f"{code} {reason}")
        self.code, self.reason, self.message = code, reason, message or reason
        self.details: Json = {"causes": [{"reason": cause}]} if cause else {}


def is_selected(item: Json, query: dict[str, str]) -> bool:
    """Return whether the selectors of a list or watch select the object."""
    if fields := query.get("fieldSelector"):
        for path, value in _fields(fields):
            if _field(item, path) != value:
                return False
    if terms := query.get("labelSelector"):
        labels = item["metadata"].get("labels") or {}
        return all(_has_label(labels, term) for term in terms.split(",") if term)
    return True


def check_selected(key: Key, query: dict[str, str]) -> None:
    """Raise Refused if the kind can't be selected by such a field."""
    for term in query.get("fieldSelector", "").split(","):
        if term and not can_select(key.plural, term.partition("=")[0]):
            raise Refused(400, "BadRequest", f"field label not supported: {term.partition('=')[0]}")


def status_of(refused: Refused) -> Json:
    """Return the body of the response."""
    return {
        "kind": "Status",
        "reason": refused.reason,
        "message": refused.message,
        "code": refused.code,
        "details": refused.details,
    }


@functools.cache
def _fields(selector: str) -> list[tuple[list[str], str]]:
    terms = [term.partition("=") for term in selector.split(",") if term]
    return [(path.split("."), value) for path, _, value in terms]


def _field(item: Json, path: list[str]) -> Any:
    for part in path:
        item = item.get(part, {})
    return item or ""


def _has_label(labels: dict[str, str], term: str) -> bool:
    name, equals, value = term.partition("=")
    assert not name.endswith("!"), "no part that is tested excludes labels"
    return labels.get(name) == value if equals else name in labels
