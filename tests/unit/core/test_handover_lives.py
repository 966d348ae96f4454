"""Random lives of hubs that hand over the state of their children."""

from __future__ import annotations

import msgspec
from handing_hub import HandingHub
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from planned_hub import child

from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan

MEMBERS = [f"hub-{number}" for number in range(4)]


IDS = [f"tenant/{number}" for number in range(6)]


members = st.sampled_from(MEMBERS)


ids = st.sampled_from(IDS)


class HandingLife(RuleBasedStateMachine):
    """Members join, leave, restart and are drained during handovers, and act at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = HandingHub(3)
        self.hub.want(child(id_) for id_ in IDS)
        self.uids = 0

    @rule(id_=ids)
    def child_made_anew(self, id_: str) -> None:
        self.uids += 1
        self.hub.want([child(id_, uid=f"u{self.uids}")])

    @rule(id_=ids)
    def child_deleted(self, id_: str) -> None:
        self.hub.children.pop(id_, None)
        self.hub.move_requests.pop(id_, None)

    @rule(id_=ids, tags=st.sampled_from([(), ("eu",)]), pinned=st.booleans())
    def child_edited(self, id_: str, tags: tuple[str, ...], pinned: bool) -> None:
        if present := self.hub.children.get(id_):
            self.hub.want([msgspec.structs.replace(present, tags=tags, pinned=pinned)])

    @rule(id_=ids, name=members)
    def move_asked_for(self, id_: str, name: str) -> None:
        if id_ in self.hub.children:
            self.hub.move_requests[id_] = name

    @rule(id_=ids, unwilling=st.booleans())
    def child_changes_its_mind(self, id_: str, unwilling: bool) -> None:
        (self.hub.unwilling.add if unwilling else self.hub.unwilling.discard)(id_)

    @rule(name=members, id_=ids, how=st.sampled_from(["failing", "finished", "given_up", "came_up", ""]))
    def child_fares(self, name: str, id_: str, how: str) -> None:
        for kind in ("failing", "finished", "given_up", "came_up"):
            getattr(self.hub, kind).discard((name, id_))
        if how:
            getattr(self.hub, how).add((name, id_))
        if how == "came_up":
            self.hub.failing.add((name, id_))

    @rule(id_=ids, suspended=st.booleans())
    def child_suspended_or_resumed(self, id_: str, suspended: bool) -> None:
        if present := self.hub.children.get(id_):
            self.hub.want([msgspec.structs.replace(present, suspended=suspended)])

    @rule(name=members)
    def member_lost(self, name: str) -> None:
        if name in self.hub.members:
            self.hub.change(name, phase=Phase.GONE, possibly_running=frozenset())

    @rule(name=members)
    def member_leaves(self, name: str) -> None:
        if name in self.hub.members and self.hub.members[name].phase is Phase.LIVE:
            self.hub.change(name, phase=Phase.HELD)

    @rule(name=members)
    def member_restarts(self, name: str) -> None:
        if name in self.hub.members and self.hub.members[name].phase is not Phase.GONE:
            self.hub.change(name, phase=Phase.HELD, ended=True)

    @rule(name=members)
    def member_there(self, name: str) -> None:
        joining = name not in self.hub.members or self.hub.members[name].joining
        self.hub.change(name, phase=Phase.LIVE, ended=False, joining=joining)

    @rule(name=members, draining=st.booleans())
    def member_drained_or_not(self, name: str, draining: bool) -> None:
        if name in self.hub.members:
            self.hub.change(name, draining=draining, wanted=not draining)

    @rule(names=st.sets(members))
    def some_members_act(self, names: set[str]) -> None:
        self.hub.acknowledge(*(names & self.hub.members.keys()) or ["hub-0"])

    @rule(budget=st.sampled_from([0, 1, 100]), times=st.integers(1, 3))
    def rounds_go(self, budget: int, times: int) -> None:
        for _ in range(times):
            self._write(self.hub.plan(budget))

    def _write(self, planned: Plan) -> None:
        self.hub.write(planned)
        self.hub.deferred |= set(planned.deferred)

    @rule()
    def time_passes(self) -> None:
        self.hub.deferred = frozenset()

    @invariant()
    def nothing_acts_twice(self) -> None:
        for id_ in IDS:
            assert len(self.hub.acting(id_)) <= 1, (id_, self.hub.acting(id_))

    @invariant()
    def no_state_is_lost_while_a_copy_of_it_is_there(self) -> None:
        assert self.hub.lost_states == []

    @precondition(lambda self: self.hub.members)
    @rule()
    def left_alone_it_comes_to_rest(self) -> None:
        hub = self.hub
        hub.unwilling, hub.deferred = set(), frozenset()
        hub.want(msgspec.structs.replace(each, suspended=False) for each in tuple(hub.children.values()))
        hub.acknowledge()
        for name, member in hub.members.items():
            if member.phase is not Phase.LIVE:
                hub.change(name, phase=Phase.GONE, possibly_running=frozenset(), settled=True)
        hub.rest(100, rounds=200)
        assert not hub.move_requests, "somebody asked for a move and got no answer"
        for id_, wanted in hub.children.items():
            entries = [entry for entry in hub.record.get(id_, {}).values() if not entry.to]
            assert all(entry.tags == wanted.tags for entry in entries), f"an edit of {id_} waits for ever"
        hub.failing, hub.given_up = set(), set()
        hub.rest(100, rounds=200)

        ready = {name for name, member in hub.members.items() if member.phase is Phase.LIVE and not member.draining}
        assert not hub.quiet
        for id_, wanted in hub.children.items():
            acting = [name in ready for name in hub.acting(id_)]
            assert not ready or acting == [True] or wanted.pinned, (id_, hub.acting(id_))


HandingLife.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


TestHandingLife = HandingLife.TestCase
