"""What a caller of the client can catch. Each message names the object and the remedy."""

# ruff: noqa: N818 - the names are the API's reasons, as the contract has them

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from processhub.client.results import Result

_NAMED = 10  # ids that a message names before it counts the rest


class HubError(Exception):
    """Base of all errors of the client."""


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


class Partitioned(HubError):
    """The hub has lost its quorum: nothing new is placed until it is back."""


class NotSupportedYet(HubError):
    """The call belongs to a later version."""


class Timeout(HubError):
    """The deadline passed; ``pending`` are the ids that were not done, ``result`` accounts for all."""

    def __init__(self, message: str, pending: tuple[str, ...] = (), result: Result | None = None) -> None:
        super().__init__(message)
        self.pending = pending
        self.result = result


class ChildrenFailed(HubError):
    """Children that were waited for did not start; ``result.errors`` has each one's reason."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class ClientReason(StrEnum):
    """Reasons that only a client gives, beside the API's own."""

    NOT_FOUND = "NotFound"
    TIMEOUT = "Timeout"
    FORBIDDEN = "Forbidden"
    UNREACHABLE = "Unreachable"
    STATIC_CHILD = "StaticChild"
    NOT_SENT = "NotSent"


class ChildError(msgspec.Struct, frozen=True):
    """Why one child was not started or stopped: a reason of the API and a sentence."""

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def names(ids: Iterable[str]) -> str:
    """``a, b, c and 4990 more``."""
    listed = sorted(ids)
    more = len(listed) - _NAMED
    text = ", ".join(listed[:_NAMED])
    return f"{text} and {more} more" if more > 0 else text
