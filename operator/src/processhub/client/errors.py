"""The errors that a caller of the client can catch. Each message names the object and the remedy."""

# ruff: noqa: N818 - the names are the API's reasons, as the contract has them

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

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
_NAMED = 10  # ids that a message names before it counts the rest


class HubNotFound(HubError):
    """There is no such hub; the message lists those there are."""


class Unreachable(HubError):
    """No cluster is configured, or its API server does not answer, or refuses the account."""


class NoChildren(HubError):
    """A call without a single child."""


class InvalidChild(HubError):
    """A child that can't be sent: no id, an unknown field, a wrong type, the same id twice."""


class MissingChildMapping(HubError):
    """The hub's strategy is Guided and children have no nodes; ``ids`` are theirs."""

    def __init__(self, message: str, ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.ids = ids


class ChildMappingMismatch(HubError):
    """``child_mapping`` names ids that the call does not start; ``ids`` are those."""

    def __init__(self, message: str, ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.ids = ids


class InvalidHook(HubError):
    """Hooks that can't be registered (a name that is taken, not valid, a handler that is not there) or cancelled."""


class ChildrenFailed(HubError):
    """Children that were waited for did not start; ``result.errors`` has each one's reason."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class ClientReason(StrEnum):
    """Reasons that only a client gives, beside the API's own."""

    NOT_FOUND = "NotFound"
    """There is no child of that id, or it was deleted before it ran."""
    TIMEOUT = "Timeout"
    """It was still on its way when the time was over."""
    FORBIDDEN = "Forbidden"
    """The account may not write Children in that namespace."""
    UNREACHABLE = "Unreachable"
    """The API server gave no answer; whether the Child was written is not known."""
    STATIC_CHILD = "StaticChild"
    """It is one of the hub's spec.children: change the Hub."""
    CHILD_SET = "ChildSet"
    """It belongs to a ChildSet: change or scale that."""
    NOT_SENT = "NotSent"
    """The time was over before its turn came: nothing was written."""


def names(ids: Iterable[str]) -> str:
    """The ids as text, ten of them at most: ``a, b, c and 4990 more``."""
    listed = sorted(ids)
    more = len(listed) - _NAMED
    text = ", ".join(listed[:_NAMED])
    return f"{text} and {more} more" if more > 0 else text
