"""The memory of the hubs between the rounds: a part for each stage, dropped with the Hub's uid."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.api.hub import Hub, HubSpec
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.lead.notedterm import Noted
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.report.memory import ReportMemory
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.core.acceptance import Refusal
from processhub.core.model.plan import Plan
from processhub.core.planning.steady import SteadyChildren


class LastRound(msgspec.Struct, frozen=True, kw_only=True):
    """A round that has left nothing to do until ``due`` (monotonic seconds), or until something changes.

    ``hub``: the Hub with the spec that the round followed. ``refusal``: why a part of the latest spec is not followed.
    ``quorum``: judges the quorum until then, None where a custom strategy does.
    """

    hub: Hub
    observation: Observation
    plan: Plan
    refusal: Refusal | None
    quorum: QuorumWatch | None
    due: float


class HubMemory:
    """The memories of the stages for one hub, and its last accepted spec.

    ``used_epochs``: how many epochs of this term deleted hubs have used.
    """

    def __init__(self, uid: str, term: int, used_epochs: int = 0) -> None:
        self.uid = uid
        self.noted = Noted()
        self.accepted: Hub | None = None  # As it was when its spec was last accepted.
        self.refused_edit: Refusal | None = None  # Why the present spec is not accepted.
        # A spec, the mark of the Hub's annotation of hooks, and the spec with the hooks of both.
        self.hooks: tuple[HubSpec, str, HubSpec] | None = None
        self.last: LastRound | None = None  # The last round, if it has left nothing to do (quietrounds.py).
        self.steady = SteadyChildren()  # As the latest plan has found them.
        self.observe = ObserveMemory(term, used_epochs)
        self.execute = ExecuteMemory()
        self.report = ReportMemory()


class Memories:
    """The memories of all hubs. ``term_generations``: slice's uid → the generation with this leader's ``term``."""

    def __init__(self, term: int, term_generations: Mapping[str, int]) -> None:
        self._term, self._term_generations = term, term_generations
        self._of: dict[HubKey, HubMemory] = {}
        # By deleted hubs. A hub re-created under the same name continues from there (docs/protocol.md, rule 3).
        self._used_epochs = 0

    def of(self, hub: Hub, state: HubState) -> HubMemory:
        """The memory of this Hub. The memory of an earlier Hub of its name is dropped."""
        key = hub.metadata.key
        memory = self._of.get(key)
        if memory is None or memory.uid != hub.metadata.uid:
            self.forget(key)
            state.forget_unanswered()
            memory = self._of[key] = HubMemory(hub.metadata.uid, self._term, self._used_epochs)
            memory.observe.settling.term_generations = self._term_generations
        return memory

    def forget(self, key: HubKey) -> None:
        """Drop the memory of a deleted hub."""
        if memory := self._of.pop(key, None):
            memory.execute.close()
            self._used_epochs = max(self._used_epochs, memory.observe.epochs.used)

    def close(self) -> None:
        """Drop all memories, and end what runs for them beside the rounds."""
        for key in list(self._of):
            self.forget(key)
