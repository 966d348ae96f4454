"""Names, selectors and errors of requests to the API server in memory."""

from __future__ import annotations

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
    labels = item["metadata"].get("labels") or {}
    fields = [term.partition("=") for term in query.get("fieldSelector", "").split(",") if term]
    return all(_field(item, name) == value for name, _, value in fields) and all(
        _has_label(labels, term) for term in query.get("labelSelector", "").split(",") if term
    )


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


def _field(item: Json, path: str) -> Any:
    for part in path.split("."):
        item = item.get(part, {})
    return item or ""


def _has_label(labels: dict[str, str], term: str) -> bool:
    name, equals, value = term.partition("=")
    assert not name.endswith("!"), "no part that is tested excludes labels"
    return labels.get(name) == value if equals else name in labels
