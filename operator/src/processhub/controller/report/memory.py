"""The memory of the report stage: what was reported of a hub, so that each change is reported once.

A new leader starts without it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.api.hub import HookStatus, TlsStatus
from processhub.controller.report.unknownmembers import UnknownMembers
from processhub.core.acceptance import Refusal
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Unplaced
from processhub.core.model.podtrouble import Trouble


class Away(msgspec.Struct, frozen=True):
    """A lost member: the holder of its Lease, and the ids that were placed elsewhere since."""

    holder: str
    ids: set[str]


class Life(msgspec.Struct, frozen=True):
    """What the statuses of a member's children say because of the member, and not because of its slices."""

    phase: Phase
    restarting: bool
    holder: str  # Of its Lease: the reports in the slices count if they are this agent's.
    pod: str


class ReportMemory:
    """The memory of the report stage for one hub."""

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}  # By member, as in the round before.
        self.seen_live: set[str] = set()  # members
        self.away: dict[str, Away] = {}  # by member
        self.troubles: Mapping[str, Trouble] = {}  # Members that are not ready or can't report, with the cause.
        self.unplaced: dict[str, Unplaced] = {}  # by child's id
        self.refusals: Mapping[str, Refusal] = {}  # Child's object name → why it was refused in the round before.
        # Child's id → its object's uid, and when it was first seen to run, until its status has that.
        self.first_started: dict[str, tuple[str, str]] = {}
        self.looping: dict[str, int] = {}  # Child on demand that keeps ending → the announced run's epoch.
        self.strategy_failure = ""  # The text of the latest Event about a custom strategy.
        self.template = ""  # The digest of the pod template that members shall have.
        self.hooks: HookStatus | None = None  # For the Hub's status.
        self.tls: TlsStatus | None = None  # For the Hub's status.
        self.troubled: set[str] = set()  # Members whose children are to say something else than in the round before.
        self.unknown = UnknownMembers()
        self.many_changes = False  # Whether so many entries are under way that writes of status are throttled.

    def take_troubles(self, troubles: Mapping[str, Trouble]) -> None:
        """Take the causes that this round has found."""
        before, self.troubles = self.troubles, troubles
        names = before.keys() | troubles.keys()
        nothing = Trouble()
        self.troubled = {name for name in names if before.get(name, nothing).brief != troubles.get(name, nothing).brief}
