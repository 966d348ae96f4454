"""What the leader remembers of a hub between the rounds to report changes once; a new leader starts without it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.core.acceptance import Refusal
from processhub.core.model.plan import Unplaced


class Away(msgspec.Struct, frozen=True):
    """A member that was lost: who held its Lease, and the ids that were placed elsewhere since."""

    holder: str
    ids: set[str]


class ReportMemory:
    """What was reported of one hub in earlier rounds."""

    def __init__(self) -> None:
        self.phases: dict[str, str] = {}  # member → phase in the round before
        self.seen_live: set[str] = set()  # members
        self.away: dict[str, Away] = {}  # by member
        self.unplaced: dict[str, Unplaced] = {}  # by child's id
        self.refusals: Mapping[str, Refusal] = {}  # Child object's name → why it was refused in the round before
        self.first_started: dict[str, str] = {}  # child's uid → when it was seen to run, until its status says so
        self.strategy_failure = ""  # the text of the last Event about a custom strategy
        self.many_changes = False  # so many entries are under way that status writes are throttled
