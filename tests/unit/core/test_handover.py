"""Planned moves that carry the state over: each step, each loss in between, and whole lives of hubs at random.

``HandingHub`` has agents that quiesce, send and receive to the letter. A child's state is made at its first start; it
may be lost only with the last copy of it, or where a member is emptied and the state can't be had.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from planned_hub import PlannedHub, child, children_of, one_pod

from processhub.api.hub import HubSpec
from processhub.api.reasons import State
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import HubSnapshot, MemberView, OnRecord
from processhub.core.planning.handover import Step, goes_to, next_step
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment

SUM = "5eed"


def hot_spec() -> HubSpec:
    return msgspec.convert({"migration": {"strategy": "HotSwap"}}, HubSpec)


class HandingHub(PlannedHub):
    """A hub whose agents hand states over. ``unwilling`` children stay; ``cut`` members can't be reached."""

    def __init__(self, members: int = 3) -> None:
        super().__init__(members, hot_spec())
        self.quiet: set[tuple[str, str]] = set()  # (member, id) that is quiesced
        self.state: dict[tuple[str, str], str] = {}  # (member, id) → the uid whose state a running or quiet copy has
        self.gave: dict[tuple[str, str], str] = {}
        self.kept: dict[tuple[str, str], str] = {}
        self.got: dict[tuple[str, str], tuple[int, str]] = {}  # epoch of the waiting entry, uid
        self.born: set[str] = set()  # uids that have run
        self.unwilling: set[str] = set()
        self.cut: set[str] = set()
        self.lost_states: list[str] = []
        self.failing: set[tuple[str, str]] = set()  # (member, id) that does not come up
        self.finished: set[tuple[str, str]] = set()  # (member, id) that ended well and rests
        self.given_up: set[tuple[str, str]] = set()  # (member, id) that rests because it did not come up
        self.came_up: set[tuple[str, str]] = set()  # (member, id) that is not Running, but was
        self.deferred: frozenset[str] = frozenset()

    def change(self, name: str, **fields: Any) -> None:
        super().change(name, **fields)
        if fields.get("phase") is Phase.GONE or fields.get("ended"):
            for kept in (self.state, self.gave, self.kept, self.got):
                for key in [key for key in kept if key[0] == name]:
                    del kept[key]  # type: ignore[attr-defined]
            self.quiet = {key for key in self.quiet if key[0] != name}

    def snapshot(self, budget: int = 10**9) -> HubSnapshot:
        snapshot = super().snapshot(budget)
        record = {id_: tuple(self._told_of(place, id_) for place in places) for id_, places in snapshot.record.items()}
        return msgspec.structs.replace(snapshot, record=record, deferred=self.deferred)

    def _told_of(self, place: OnRecord, id_: str) -> OnRecord:
        key = (place.member, id_)
        epoch, _ = self.got.get(key, (0, ""))
        state = "" if key in self.quiet else place.state
        if state and key in self.failing | self.finished | self.given_up:
            state = State.FAILED if key in self.failing else State.STOPPED
        return msgspec.structs.replace(
            place,
            state=state,
            came_up=bool(state) and key in self.came_up | self.finished,
            gave=self.gave.get(key, ""),
            kept=self.kept.get(key, ""),
            got=SUM if epoch == place.entry.epoch and place.entry.wait else "",
        )

    def acknowledge(self, *names: str) -> None:
        for name in names or list(self.members):
            if self.members[name].phase is not Phase.LIVE:
                continue
            for id_ in list(self.running[name]):
                if not self._same(name, id_):
                    del self.running[name][id_]
                    self._forget(name, id_)
            for id_, places in self.record.items():
                if name in places and not places[name].wait:
                    self._act(name, id_, places[name])
                elif name in places:
                    self._look_for_state(name, id_, places[name])
            for key in [key for key in self.got if key[0] == name and name not in self.record.get(key[1], {})]:
                del self.got[key]
            self.change(name, possibly_running=frozenset(), settled=True)

    def _same(self, name: str, id_: str) -> bool:
        now, run = self.record.get(id_, {}).get(name), self.running[name][id_]
        same = now is not None and not now.wait and now.uid == run.uid and now.workload == run.workload
        return same and now is not None and now.started_with == run.started_with

    def _forget(self, name: str, id_: str) -> None:
        key = (name, id_)
        self.quiet.discard(key)
        for kept in (self.state, self.gave, self.kept):
            kept.pop(key, None)

    def _act(self, name: str, id_: str, entry: Assignment) -> None:
        key = (name, id_)
        if id_ not in self.running[name]:
            if entry.to:
                self.kept[key] = f"{entry.to.split(':')[1]}:stateless"
                return
            if entry.state and self.got.get((name, id_), (0, ""))[1] != entry.uid and self._sources(name, id_):
                self.kept[key] = f"{entry.epoch}:lost"
                return
            self._start(name, id_, entry)
        elif entry.to and not self.gave.get(key, "").startswith(entry.to.split(":")[1]):
            self._hand_over(name, id_, entry)
        elif not entry.to:
            self.quiet.discard(key)
            self.gave.pop(key, None)
            self.kept.pop(key, None)
        self.running[name][id_] = entry

    def _look_for_state(self, name: str, id_: str, entry: Assignment) -> None:
        """Say so where a source gave the state for this waiting entry, and it is not here (any more)."""
        sources = self._sources(name, id_)
        gave = any(self.gave.get((source, id_), "").startswith(f"{entry.epoch}:") for source in sources)
        if gave and self.got.get((name, id_), (0, ""))[0] != entry.epoch:
            self.kept[name, id_] = f"{entry.epoch}:lost"

    def _sources(self, name: str, id_: str) -> list[str]:
        """The members that are to hand the child over to this one."""
        return [
            source for source, entry in self.record.get(id_, {}).items() if goes_to(OnRecord(source, entry)) == name
        ]

    def _start(self, name: str, id_: str, entry: Assignment) -> None:
        _, uid = self.got.pop((name, id_), (0, ""))
        if entry.state and uid == entry.uid:
            self.state[name, id_] = uid
        elif entry.uid in self.born and entry.uid in self._copies(id_):
            self.lost_states.append(id_)
        self.state[name, id_] = entry.uid
        self.born.add(entry.uid)

    def _copies(self, id_: str) -> set[str]:
        held = {uid for (_, other), uid in self.state.items() if other == id_}
        return held | {uid for (_, other), (_, uid) in self.got.items() if other == id_}

    def _hand_over(self, name: str, id_: str, entry: Assignment) -> None:
        target, epoch, *must = entry.to.split(":")
        waiting = self.record.get(id_, {}).get(target)
        if id_ in self.unwilling and not must:
            self.kept[name, id_] = f"{epoch}:refused"
            return
        self.quiet.add((name, id_))
        there = target not in self.cut and self.members[target].phase is Phase.LIVE
        if there and waiting is not None and waiting.wait and waiting.epoch == int(epoch):
            self.got[target, id_] = (int(epoch), self.state[name, id_])
            self.gave[name, id_] = f"{epoch}:{SUM}"
        else:
            self.kept[name, id_] = f"{epoch}:failed"

    def acting(self, id_: str) -> list[str]:
        """The members on which it is more than a quiet copy."""
        return [name for name, runs in self.running.items() if id_ in runs and (name, id_) not in self.quiet]


def started(count: int = 30, members: int = 3) -> HandingHub:
    hub = HandingHub(members)
    hub.want(children_of(count))
    hub.rest()
    return hub


def test_a_join_moves_the_states_with_the_children() -> None:
    hub = started(60)
    hub.change("hub-3", joining=True)
    hub.rest()

    assert len(hub.on("hub-3")) > 5
    assert hub.lost_states == []
    assert not hub.quiet
    assert {entry.uid for runs in hub.running.values() for entry in runs.values()} == {
        child.uid for child in hub.children.values()
    }


def test_the_source_keeps_its_copy_until_the_target_runs() -> None:
    hub = HandingHub(2)
    hub.want([child("a")])
    hub.rest()
    (source,) = hub.acting("a")
    (target,) = set(hub.members) - {source}
    hub.change(source, draining=True)

    hub.write(plan(hub.snapshot()))  # begun
    hub.write(plan(hub.snapshot()))  # ordered
    assert goes_to(OnRecord(source, hub.record["a"][source])) == target
    hub.acknowledge(source, target)
    hub.write(plan(hub.snapshot()))  # committed
    assert hub.record["a"][target].state == SUM
    assert source in hub.record["a"]
    assert plan(hub.snapshot()).empty
    hub.acknowledge(target)
    hub.rest()

    assert hub.acting("a") == [target]
    assert set(hub.record["a"]) == {target}


def _sent(hub: HandingHub) -> tuple[str, str]:
    """Source and target of a child whose state is with both, and not committed yet."""
    hub.want([child("a")])
    hub.rest()
    (source,) = hub.acting("a")
    hub.change(source, draining=True)
    for _ in range(2):
        hub.write(plan(hub.snapshot()))
    target = goes_to(OnRecord(source, hub.record["a"][source]))
    hub.acknowledge()
    return source, target


def _committed(hub: HandingHub) -> tuple[str, str]:
    source, target = _sent(hub)
    hub.write(plan(hub.snapshot()))
    return source, target


def test_a_target_that_dies_after_the_commit_gives_the_child_back_with_its_state_and_a_newer_epoch() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    committed = hub.record["a"][target].epoch

    hub.change(target, phase=Phase.GONE)
    hub.write(plan(hub.snapshot()))

    assert target not in hub.record["a"]
    entry = hub.record["a"][source]
    assert entry.epoch > committed
    assert not entry.to
    hub.acknowledge(source)
    assert hub.acting("a") == [source]
    hub.rest()
    assert hub.lost_states == []


@pytest.mark.parametrize("ends", ["finished", "came_up"])
def test_a_child_that_ended_at_its_target_before_it_was_seen_to_run_leaves_its_source(ends: str) -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    # It rests by its policy; or it failed, but was up, and restarts without its source's copy.
    getattr(hub, ends).add((target, "a"))
    if ends == "came_up":
        hub.failing.add((target, "a"))

    hub.acknowledge()
    hub.rest()

    assert set(hub.record["a"]) == {target}
    assert (source, "a") not in hub.state


@pytest.mark.parametrize("ends", ["failing", "given_up"])
def test_a_child_that_never_came_up_at_its_target_is_started_there_with_its_state_by_an_edit(ends: str) -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    getattr(hub, ends).add((target, "a"))
    hub.acknowledge()
    hub.write(plan(hub.snapshot()))

    hub.want([child("a", workload="mended")])
    hub.write(plan(hub.snapshot()))

    entry = hub.record["a"][target]
    assert (entry.workload, entry.state) == ("mended", SUM)


def test_a_target_that_is_to_hand_the_child_back_has_taken_over() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.acknowledge(target)
    hub.change(source, draining=False)
    hub.change(target, draining=True)
    planned = plan(hub.snapshot())
    assert set(planned.entries) == {source, target}

    # The leader ends when it has written one of the two slices, and the target's agent restarts: it does not say any
    # more that it was up.
    hub.write(msgspec.structs.replace(planned, entries={target: planned.entries[target]}))
    hub.acknowledge()
    hub.rest()

    assert hub.acting("a") == [source]
    assert hub.lost_states == []


def begun_with_a_pod() -> tuple[PlannedHub, str, str]:
    """Hub, source and target of a move, of which the source has its order."""
    hub = PlannedHub(3, hot_spec())
    hub.want([child("a", pod=True)])
    hub.rest()
    (source,) = hub.record["a"]
    hub.pods["a"] = one_pod(source, hub.record["a"][source].started_with)
    target = next(name for name in hub.members if name != source)
    hub.move_requests["a"] = target
    hub.write(plan(hub.snapshot()))
    assert hub.record["a"][source].to
    return hub, source, target


@pytest.mark.parametrize("change", [{"phase": Phase.GONE}, {"draining": True}])
def test_a_pod_child_goes_on_where_it_is_when_its_target_is_none_any_more(change: dict[str, Any]) -> None:
    hub, source, target = begun_with_a_pod()
    hub.change(target, **change)

    hub.rest()

    assert set(hub.record["a"]) == {source}
    assert not hub.record["a"][source].to, "its own Pod is not in its way"


def test_a_child_that_does_not_come_up_at_its_target_leaves_its_state_with_its_source() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()

    assert plan(hub.snapshot()).entries == {}
    assert (source, "a") in hub.quiet
    hub.change(target, phase=Phase.GONE)
    hub.rest()

    assert hub.acting("a") == [source]
    assert hub.lost_states == []


def test_an_edit_of_a_child_that_does_not_come_up_at_its_target_starts_it_there_with_the_state() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()
    epoch = hub.record["a"][target].epoch

    hub.want([child("a", workload="mended")])
    hub.write(plan(hub.snapshot()))

    entry = hub.record["a"][target]
    assert (entry.workload, entry.state, entry.wait) == ("mended", SUM, False)
    assert entry.epoch > epoch
    assert source in hub.record["a"], "until it is up"


@pytest.mark.parametrize(
    "fields", [{"tags": ("eu",)}, {"metadata": (("k", "v"),)}, {"restart_policy": "Temporary"}, {"idle_seconds": 5}]
)
def test_an_edit_that_restarts_nothing_reaches_a_child_that_does_not_come_up_at_its_target(
    fields: dict[str, Any],
) -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()
    before = hub.record["a"][target]

    hub.want([child("a", **fields)])
    hub.rest()

    assert hub.record["a"][target] == msgspec.structs.replace(before, **fields)
    assert source in hub.record["a"], "until it is up"


def test_a_member_that_is_emptied_does_not_wait_for_a_child_that_does_not_come_up_at_its_target() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.failing.add((target, "a"))

    hub.acknowledge()
    hub.rest()

    assert set(hub.record["a"]) == {target}
    assert hub.state[target, "a"], "which has the state"
    assert (source, "a") not in hub.state


def test_a_target_to_be_emptied_where_the_child_does_not_come_up_gives_it_back_once_it_has_ended_there() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()

    hub.change(target, draining=True)
    hub.write(plan(hub.snapshot()))
    assert set(hub.record["a"]) == {source}
    hub.acknowledge(source)
    assert plan(hub.snapshot()).empty
    assert hub.acting("a") == [target]
    hub.acknowledge(target)
    hub.rest()

    assert hub.acting("a") == [source]
    assert hub.lost_states == []


@pytest.mark.parametrize("back", [True, False])
def test_a_child_that_does_not_come_up_at_its_target_goes_where_it_is_asked_for_with_its_state(back: bool) -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()
    wanted = source if back else next(name for name in hub.members if name not in (source, target))

    hub.move_requests = {"a": wanted}
    hub.write(plan(hub.snapshot()))
    assert set(hub.record["a"]) == {source}
    assert hub.answers == ({"a": ""} if back else {})
    hub.acknowledge()
    hub.rest()

    assert hub.acting("a") == [wanted]
    assert hub.answers == {"a": ""}
    assert hub.lost_states == []


def test_a_request_that_is_refused_leaves_a_child_that_does_not_come_up_at_its_target() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    hub.failing.add((target, "a"))
    hub.change(source, draining=False)
    hub.acknowledge()
    third = next(name for name in hub.members if name not in (source, target))
    hub.change(third, draining=True)

    hub.move_requests = {"a": third}
    hub.rest()

    assert hub.answers == {"a": f"member {third} is drained"}
    assert set(hub.record["a"]) == {source, target}


def test_a_target_that_was_taken_for_gone_and_is_back_holds_its_source_up_until_it_has_answered() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.acknowledge(target)
    # Its removal is written; by the Lease, read again then, it is back: the rest of the plan is withheld.
    hub.quiet.add((source, "a"))
    del hub.record["a"][target]
    hub.change(target, possibly_running=frozenset({"a"}))

    planned = plan(hub.snapshot())

    assert planned.entries == {}
    assert "not yet been seen to stop" in planned.unplaced["a"].message
    hub.acknowledge(target)
    hub.rest()
    assert len(hub.acting("a")) == 1
    assert hub.lost_states == []


def _restart(hub: HandingHub, name: str) -> None:
    """The member's agent ends with all that it had, and is back (onRestart Hold)."""
    hub.change(name, phase=Phase.HELD, ended=True)
    hub.write(plan(hub.snapshot()))
    hub.change(name, phase=Phase.LIVE, ended=False)


@pytest.mark.parametrize("committed", [True, False])
def test_a_target_that_restarts_without_the_state_is_sent_it_again(committed: bool) -> None:
    hub = HandingHub(2)
    source, target = _committed(hub) if committed else _sent(hub)
    epoch = hub.record["a"][target].epoch

    _restart(hub, target)
    hub.acknowledge(target)
    assert hub.acting("a") == [], "it is not started afresh while the source has its state"
    hub.write(plan(hub.snapshot()))
    assert hub.record["a"][target].wait
    assert hub.record["a"][target].epoch > epoch
    assert (source, "a") in hub.quiet, "the source has its copy"

    hub.rest()
    assert hub.acting("a") == [target]
    assert set(hub.record["a"]) == {target}
    assert hub.lost_states == []


def test_a_target_that_restarts_when_its_source_is_lost_starts_afresh() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)

    hub.change(source, phase=Phase.GONE)
    _restart(hub, target)
    hub.rest()

    assert hub.acting("a") == [target]


def test_a_member_that_restarts_with_a_child_that_came_with_its_state_starts_it_afresh() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.acknowledge()
    hub.rest()
    assert source not in hub.record["a"]
    assert hub.record["a"][target].state == SUM

    _restart(hub, target)
    hub.acknowledge(target)

    assert hub.acting("a") == [target]


def test_a_target_that_restarts_and_is_lost_then_leaves_the_child_to_its_source() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)

    _restart(hub, target)
    hub.acknowledge(target)
    hub.write(plan(hub.snapshot()))
    hub.change(target, phase=Phase.GONE)
    hub.write(plan(hub.snapshot()))
    hub.acknowledge(source)
    assert hub.acting("a") == [source]

    hub.rest()
    assert hub.lost_states == []


def test_a_source_that_dies_after_it_sent_the_state_leaves_it_to_the_target() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    hub.change(source, phase=Phase.GONE)
    hub.rest()

    assert hub.acting("a") == [target]
    assert hub.lost_states == []


def test_a_child_that_does_not_want_to_go_stays_and_is_let_alone_for_a_while() -> None:
    hub = started(40)
    hub.unwilling = set(hub.children)
    before = hub.where()
    hub.change("hub-3", joining=True)

    deferred: set[str] = set()
    for _ in range(6):
        planned = hub.step()
        deferred |= set(planned.deferred)
        hub.deferred = frozenset(deferred)

    assert deferred
    assert hub.where() == before
    assert hub.members["hub-3"].joining, "they are asked again later"
    assert all(not entry.to for places in hub.record.values() for entry in places.values())


def test_an_emptied_member_does_not_ask() -> None:
    hub = started(20)
    hub.unwilling = set(hub.children)
    hub.change("hub-0", draining=True)
    hub.rest()

    assert not hub.on("hub-0")
    assert hub.lost_states == []


LIVE, DRAINING = MemberView(name="s"), MemberView(name="s", draining=True)
ORDERED = "t:7"


@pytest.mark.parametrize(
    ("to", "words", "member", "step"),
    [
        ("", {}, LIVE, Step.ORDER),
        ("t:6", {}, LIVE, Step.ORDER),
        (ORDERED, {}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "7:aa"}, LIVE, Step.WAIT),
        (ORDERED, {"got": "aa"}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "7:aa", "got": "bb"}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "6:aa", "got": "aa"}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "7:aa", "got": "aa"}, LIVE, Step.COMMIT),
        (ORDERED, {"gave": "7:aa", "lost": "7:lost"}, LIVE, Step.AGAIN),
        (ORDERED, {"gave": "7:aa", "lost": "6:lost"}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "7:aa", "got": "aa", "lost": "7:lost"}, LIVE, Step.COMMIT),
        (ORDERED, {"kept": "6:refused"}, LIVE, Step.WAIT),
        (ORDERED, {"kept": "7:refused"}, LIVE, Step.DEFER),
        (ORDERED, {"kept": "7:failed"}, LIVE, Step.DEFER),
        (ORDERED, {"kept": "7:stateless"}, LIVE, Step.COLD),
        (ORDERED, {}, DRAINING, Step.ORDER),
        (ORDERED + ":must", {"kept": "7:failed"}, DRAINING, Step.COLD),
        (ORDERED, {"gave": "7:aa"}, MemberView(name="s", phase=Phase.GONE), Step.COLD),
        (ORDERED, {"gave": "7:aa"}, MemberView(name="s", phase=Phase.HELD, ended=True), Step.COLD),
        (ORDERED, {"gave": "7:aa"}, None, Step.COLD),
    ],
)
def test_the_commit_needs_both_words_for_one_epoch_and_one_checksum(
    to: str, words: dict[str, str], member: MemberView | None, step: Step
) -> None:
    waiting = Assignment(uid="u", epoch=7, workload="w", wait=True)
    target = OnRecord("t", waiting, got=words.get("got", ""), kept=words.get("lost", ""))
    entry = Assignment(uid="u", epoch=3, workload="w", to=to)
    source = OnRecord("s", entry, gave=words.get("gave", ""), kept=words.get("kept", ""))

    assert next_step(source, member, target).step is step


MEMBERS = [f"hub-{number}" for number in range(4)]
IDS = [f"tenant/{number}" for number in range(6)]
members = st.sampled_from(MEMBERS)
ids = st.sampled_from(IDS)


class HandingLife(RuleBasedStateMachine):
    """Members come, go, restart and are drained in the midst of handovers, and act when they like."""

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
            self._write(plan(self.hub.snapshot(budget)))

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
