"""The memory of the report stage: what was reported of a hub, so that each change is reported once.

A new leader starts without it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.api.hub import HookStatus
from processhub.core.acceptance import Refusal
from processhub.core.model.plan import Unplaced


class Away(msgspec.Struct, frozen=True):
    """A lost member: the holder of its Lease, and the ids that were placed elsewhere since."""

    holder: str
    ids: set[str]


class ReportMemory:
    """The memory of the report stage for one hub."""

    def __init__(self) -> None:
        self.phases: dict[str, str] = {}  # Member → phase in the round before.
        self.seen_live: set[str] = set()  # members
        self.away: dict[str, Away] = {}  # by member
        self.unplaced: dict[str, Unplaced] = {}  # by child's id
        self.refusals: Mapping[str, Refusal] = {}  # Child's object name → why it was refused in the round before.
        self.first_started: dict[str, str] = {}  # Child's uid → when it was first seen to run, until its status has it.
        self.strategy_failure = ""  # The text of the latest Event about a custom strategy.
        self.template = ""  # The digest of the pod template that members shall have.
        self.hooks: HookStatus | None = None  # For the Hub's status.
        self.many_changes = False  # Whether so many entries are under way that writes of status are throttled.
