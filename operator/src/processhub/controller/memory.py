"""What the leader remembers of one hub between the rounds: a part for each stage, all forgotten with the Hub's uid."""

from __future__ import annotations

from processhub.api.hub import Hub
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.report.memory import ReportMemory
from processhub.core.acceptance import Refusal


class HubMemory:
    """The memories of the stages, and what was accepted of the Hub.

    ``used_epochs``: how many epochs of this term deleted hubs have used.
    """

    def __init__(self, uid: str, term: int, used_epochs: int = 0) -> None:
        self.uid = uid
        self.accepted: Hub | None = None  # as it was when its spec was accepted last
        self.refused_edit: Refusal | None = None  # why the present spec is refused
        self.observe = ObserveMemory(term, used_epochs)
        self.execute = ExecuteMemory()
        self.report = ReportMemory()
