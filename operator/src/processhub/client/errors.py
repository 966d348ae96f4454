"""The errors that a caller of the client can catch. Each message names the object and what to do."""

# ruff: noqa: N818 - the names are the API's reasons, as the contract has them

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from processhub.api.naming import natural_order
from processhub.client.results import ChildError, Result
from processhub.requesterrors import (
    BadRequest,
    Busy,
    ChildNotFound,
    HubError,
    NoOwner,
    NotAllowed,
    OutcomeUnknown,
    Partitioned,
    RequestFailed,
    Timeout,
)

__all__ = [
    "BadRequest",
    "Busy",
    "ChildError",
    "ChildMappingMismatch",
    "ChildNotFound",
    "ChildrenFailed",
    "ClientReason",
    "HubError",
    "HubNotFound",
    "InvalidChild",
    "InvalidHook",
    "MissingChildMapping",
    "NoChildren",
    "NoOwner",
    "NotAllowed",
    "OutcomeUnknown",
    "Partitioned",
    "RequestFailed",
    "Timeout",
    "Unreachable",
    "names",
]
_NAMED = 10  # ids that a message names; the others are counted


class HubNotFound(HubError):
    """There is no such hub. The message lists the existing ones."""


class Unreachable(HubError):
    """No cluster is configured, its API server does not answer, or it rejects the account."""


class NoChildren(HubError):
    """A call without any child."""


class InvalidChild(HubError):
    """A child that can't be sent: no id, an unknown field, a wrong type, or the same id twice."""


class MissingChildMapping(HubError):
    """The hub's strategy is Guided, and the children ``ids`` have no nodes."""

    def __init__(self, message: str, ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.ids = ids


class ChildMappingMismatch(HubError):
    """``child_mapping`` names ids that the call does not start: ``ids``."""

    def __init__(self, message: str, ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.ids = ids


class InvalidHook(HubError):
    """Hooks that can't be registered (a name that exists already, not valid, an unknown handler) or cancelled."""


class ChildrenFailed(HubError):
    """Children that were waited for did not start. ``result.errors`` has the reason of each."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class ClientReason(StrEnum):
    """Reasons that only a client gives, besides those of the API."""

    NOT_FOUND = "NotFound"
    """There is no child of that id, or it was deleted before it ran."""
    TIMEOUT = "Timeout"
    """The child was not running when the timeout was over."""
    FORBIDDEN = "Forbidden"
    """The account may not write Children in that namespace."""
    UNREACHABLE = "Unreachable"
    """The API server gave no answer. It is not known whether the Child was written."""
    STATIC_CHILD = "StaticChild"
    """The child is one of the hub's spec.children. Change the Hub instead."""
    CHILD_SET = "ChildSet"
    """The child belongs to a ChildSet. Change or scale that instead."""
    NOT_SENT = "NotSent"
    """The timeout was over before the child's turn. Nothing was written."""


def names(ids: Iterable[str]) -> str:
    """The ids as text, at most ten of them: ``a, b, c and 4990 more``."""
    listed = sorted(ids, key=natural_order)
    more = len(listed) - _NAMED
    text = ", ".join(listed[:_NAMED])
    return f"{text} and {more} more" if more > 0 else text
