"""The planner over random lives of hubs: members join, leave, restart and drain, children are created, edited, deleted.

``PlannedHub`` carries plans out exactly; members acknowledge late or not at all between the rounds. After every round
no id may run on two members, and once the hub is left alone it comes to rest in the desired state.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from planned_hub import FIRST_EPOCH, PlannedHub, child, hub_spec, one_pod

from processhub.api.usage import Usage
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import DesiredChild
from processhub.core.strategies import BUILT_IN
from processhub.registry.grammar import Assignment

POD = "pod"  # the workload of a child that is a Pod
MEMBERS = [f"hub-{number}" for number in range(5)]
IDS = [f"tenant/{number}" for number in range(12)]

members = st.sampled_from(MEMBERS)
ids = st.sampled_from(IDS)
origins = st.sampled_from(["", *MEMBERS])


class HubLife(RuleBasedStateMachine):
    """One hub; the rules of the state machine are the actions of users, members and the cluster."""

    strategy = "ConsistentHashing"

    def __init__(self) -> None:
        super().__init__()
        self.hub = PlannedHub(3, hub_spec(cap_percent=150, max_children=8, strategy=self.strategy))
        self.hub.want(child(id_, workload=POD if id_ in IDS[:3] else "w") for id_ in IDS[:6])
        self.uids = 0
        self.highest: dict[str, int] = {}
        self.pods: dict[str, Assignment] = {}  # id → the entry for which its Pod was created

    # what happens

    @rule(id_=ids, pinned=st.booleans(), origin=origins)
    def child_created(self, id_: str, pinned: bool, origin: str) -> None:
        if id_ not in self.hub.children:
            self.uids += 1
            self.hub.want([child(id_, uid=f"u{self.uids}", pinned=pinned, origin=origin)])

    @rule(id_=ids, member=members)
    def guided_child_created_or_sent_elsewhere(self, id_: str, member: str) -> None:
        present = self.hub.children.get(id_)
        if present is None:
            self.uids += 1
            self.hub.want([child(id_, uid=f"u{self.uids}", nodes=(member,))])
        elif present.nodes:
            self.hub.want([msgspec.structs.replace(present, nodes=(member,))])

    @rule(id_=ids)
    def child_deleted(self, id_: str) -> None:
        self.hub.children.pop(id_, None)

    @rule(
        id_=ids, workload=st.sampled_from(["w", "w2", POD]), tags=st.sampled_from([(), ("eu",)]), pinned=st.booleans()
    )
    def child_edited(self, id_: str, workload: str, tags: tuple[str, ...], pinned: bool) -> None:
        present = self.hub.children.get(id_)
        if present is not None:
            edited = msgspec.structs.replace(present, workload=workload, tags=tags, pinned=pinned and not present.nodes)
            self.hub.want([edited])

    @rule(some=st.sets(ids, max_size=4), suspended=st.booleans())
    def children_suspended_or_resumed(self, some: set[str], suspended: bool) -> None:
        for id_ in some & self.hub.children.keys():
            self.hub.want([msgspec.structs.replace(self.hub.children[id_], suspended=suspended)])

    @precondition(lambda self: self.pods)
    @rule(number=st.integers(0, 11), workload=st.sampled_from(["w", "w2"]), lost=st.booleans())
    def child_with_a_pod_edited_or_its_member_lost(self, number: int, workload: str, lost: bool) -> None:
        id_ = sorted(self.pods)[number % len(self.pods)]
        if lost:
            self.member_lost(next(iter(self.hub.record.get(id_, {})), "hub-0"))
        elif present := self.hub.children.get(id_):
            self.hub.want([msgspec.structs.replace(present, workload=workload)])

    @rule(id_=ids)
    def child_recreated(self, id_: str) -> None:
        present = self.hub.children.get(id_)
        if present is not None:
            self.uids += 1
            self.hub.want([msgspec.structs.replace(present, uid=f"u{self.uids}")])

    @rule(name=members)
    def member_lost(self, name: str) -> None:
        if name in self.hub.members:
            self.hub.change(name, phase=Phase.GONE, possibly_running=frozenset())

    @rule(name=members)
    def member_restarts(self, name: str) -> None:
        if name in self.hub.members and self.hub.members[name].phase is Phase.LIVE:
            self.hub.change(name, phase=Phase.HELD)

    @rule(name=members)
    def member_there(self, name: str) -> None:
        self.hub.change(name, phase=Phase.LIVE, joining=name not in self.hub.members or self.hub.members[name].joining)

    @rule(name=members, draining=st.booleans())
    def member_drained_or_not(self, name: str, draining: bool) -> None:
        if name in self.hub.members:
            self.hub.change(name, draining=draining, wanted=not draining, forced=False)

    @rule(name=members, force=st.booleans())
    def member_ordered_away(self, name: str, force: bool) -> None:
        if name in self.hub.members:
            self.hub.change(name, draining=True, wanted=True, forced=force)

    @rule(name=members, weight=st.integers(1, 3))
    def weight_changed(self, name: str, weight: int) -> None:
        if name in self.hub.members:
            self.hub.change(name, weight=weight)
            self.hub.resettle()

    @rule(
        strategy=st.sampled_from(sorted(BUILT_IN.keys() - {"ForEach"})), fallback=st.sampled_from(["Pending", "Local"])
    )
    def strategy_changed(self, strategy: str, fallback: str) -> None:
        spec = hub_spec(cap_percent=150, max_children=8, strategy=strategy, notLocalFallback=fallback)
        self.hub.resettle(spec)

    @rule(name=members, cpu=st.integers(0, 4000), memory=st.integers(0, 4000), count=st.integers(0, 8))
    def load_reported(self, name: str, cpu: int, memory: int, count: int) -> None:
        if name in self.hub.members:
            self.hub.change(name, usage=Usage(cpu=cpu, memory=memory, children=count))

    @rule(id_=ids, name=st.sampled_from([*MEMBERS, "hub-9"]))
    def move_asked_for(self, id_: str, name: str) -> None:
        if id_ in self.hub.children:
            self.hub.move_requests[id_] = name

    @rule(names=st.sets(members))
    def some_members_act(self, names: set[str]) -> None:
        self.hub.acknowledge(*(names & self.hub.members.keys()) or ["hub-0"])
        self._make_pods()

    def _make_pods(self) -> None:
        """Create Pods where a member has been asked to, and still has the entry."""
        for name, member in self.hub.members.items():
            if member.phase is Phase.LIVE:
                for id_, entry in self.hub.running[name].items():
                    if entry.workload == POD and self._owner(id_) == (entry.uid, entry.epoch):
                        self.pods.setdefault(id_, entry)
        self._tell_of_pods()

    @rule(some=st.sets(ids))
    def pods_end(self, some: set[str]) -> None:
        """End Pods that are not wanted any more, as soon or as late as their nodes do."""
        for id_ in some & self._left_over():
            del self.pods[id_]
        self._tell_of_pods()

    def _left_over(self) -> set[str]:
        return {id_ for id_, entry in self.pods.items() if self._owner(id_) != _run(entry)}

    def _tell_of_pods(self) -> None:
        self.hub.pods = {id_: one_pod("", entry.epoch) for id_, entry in self.pods.items()}

    def _owner(self, id_: str) -> tuple[str, int] | None:
        return next((_run(entry) for entry in self.hub.record.get(id_, {}).values() if not entry.wait), None)

    @rule()
    def quorum_lost_or_back(self) -> None:
        self.hub.partitioned = "" if self.hub.partitioned else "too few members are live"

    @rule()
    def leader_changes(self) -> None:
        self.hub.next_epoch = (self.hub.next_epoch // FIRST_EPOCH + 1) * FIRST_EPOCH
        for name in self.hub.members:
            self.hub.change(name, settled=False)

    @rule(budget=st.sampled_from([0, 1, 3, 100]), times=st.integers(1, 3))
    def rounds_go(self, budget: int, times: int) -> None:
        for _ in range(times):
            planned = self.hub.plan(budget)
            self._check(planned, budget)
            self.hub.write(planned)

    # what must hold

    def _check(self, planned: Plan, budget: int) -> None:
        hub = self.hub
        drains_and_joins = [move for move in planned.moves if not move.why.endswith("was lost")]
        assert len(drains_and_joins) <= budget
        written = [
            (entry.epoch, name, id_, entry)
            for name, entries in planned.entries.items()
            for id_, entry in entries.items()
            if entry is not None
        ]
        for _, name, id_, entry in sorted(written, key=lambda item: item[:3]):
            # A new epoch is above all earlier ones of the id; the same epoch is only for the same run in place.
            before = hub.record.get(id_, {}).get(name)
            in_place = before is not None and (before.epoch, before.uid) == (entry.epoch, entry.uid)
            assert in_place or entry.epoch > self.highest.get(id_, 0)
            self.highest[id_] = max(entry.epoch, self.highest.get(id_, 0))
            assert entry.asleep or not hub.partitioned, f"{id_} gets an entry on {name} while the hub is partitioned"
            assert entry.uid == hub.children[id_].uid
            assert entry.wait or not hub.children[id_].suspended, f"{id_} is to start though it is suspended"
            if not entry.wait:
                pod = self.pods.get(id_)
                assert pod is None or _run(pod) == _run(entry), f"{id_} is to start beside its pod"
                others = [other for other in hub.members if other != name and self._may_run(other, id_)]
                assert not others, f"{id_} is to start on {name} while it may run on {others}"
        for move in planned.moves:
            assert not hub.children[move.id].pinned or move.why == "its nodes were changed"
            target = hub.members[move.target]
            assert target.phase is Phase.LIVE
            assert not target.draining
            assert target.joining or not move.why.endswith(("joined", "weights"))
        placed = Counter(
            name
            for name, entries in planned.entries.items()
            for id_, entry in entries.items()
            if entry is not None and name not in hub.record.get(id_, {})
        )
        for name in placed:
            on_record = sum(name in places for places in hub.record.values())
            assert on_record + placed[name] - self._leaving(planned, name) <= hub.spec.members.max_children

    def _leaving(self, planned: Plan, name: str) -> int:
        """Return the member's entries that are being removed, or whose child already has one elsewhere."""
        going = {move.id for move in planned.moves if move.source == name}
        going |= {id_ for id_, entry in planned.entries.get(name, {}).items() if entry is None}
        going |= {id_ for id_, places in self.hub.record.items() if name in places and len(places) > 1}
        return len(going)

    def _may_run(self, name: str, id_: str) -> bool:
        return self.hub.members[name].phase is not Phase.GONE and id_ in self.hub.running[name]

    @invariant()
    def no_id_runs_twice(self) -> None:
        running = Counter(id_ for name in self.hub.members for id_ in self.hub.running[name])
        assert all(count == 1 for count in running.values()), running

    @invariant()
    def no_member_has_a_child_twice_and_only_one_owner_is_on_record(self) -> None:
        for id_, places in self.hub.record.items():
            owners = [name for name, entry in places.items() if not entry.wait]
            assert len(owners) <= 1, f"{id_} is on record with {owners}"
            assert len(places) - len(owners) <= 1

    @precondition(lambda self: self.hub.members)
    @rule(budget=st.sampled_from([1, 100]))
    def left_alone_it_comes_to_rest(self, budget: int) -> None:
        hub = self.hub
        hub.partitioned = ""
        hub.acknowledge()
        for name, member in hub.members.items():
            if member.phase is not Phase.LIVE:
                # A leader that took over waits for held members; they return or are gone in the end.
                hub.change(name, phase=Phase.GONE, possibly_running=frozenset(), settled=True)
        plans = hub.rest(budget, rounds=150)
        self._make_pods()
        while left_over := self._left_over():
            self.pods_end(left_over)
            plans += hub.rest(budget, rounds=150)
        note(f"{len(plans)} rounds to rest")

        at_rest = hub.plan()
        where = hub.where()
        ready = {name for name, member in hub.members.items() if member.phase is Phase.LIVE and not member.draining}
        full = all(self._held_by(name) >= hub.spec.members.max_children for name in ready)
        assert where.keys() <= hub.children.keys()
        for id_, wanted in hub.children.items():
            if wanted.suspended:
                assert id_ not in where
            elif id_ in where:
                assert hub.running[where[id_]][id_].uid == wanted.uid
                assert hub.running[where[id_]][id_].workload == wanted.workload
                kept = full or self._kept_from(wanted, ready)
                assert wanted.bound or where[id_] in ready or kept, f"{id_} stays on {where[id_]}"
                assert not wanted.nodes or where[id_] == wanted.nodes[0] or wanted.nodes[0] not in ready
            else:
                assert id_ in at_rest.unplaced, f"{id_} runs nowhere and nobody says why"
                kept = full or self._kept_from(wanted, ready)
                assert wanted.bound or kept, f"{id_} runs nowhere though there is room on {ready}"

        assert not hub.move_requests, "somebody asked for a move and got no answer"

        # A restart of the operator moves nothing.
        hub.next_epoch = (hub.next_epoch // FIRST_EPOCH + 1) * FIRST_EPOCH
        assert hub.plan().empty

    def _held_by(self, name: str) -> int:
        """Return how many children the member runs or reserves room for."""
        return sum(name in places for places in self.hub.record.values())

    def _kept_from(self, wanted: DesiredChild, ready: set[str]) -> bool:
        """Return whether NotLocal alone keeps the child from the ready members with room."""
        hub, distribution = self.hub, self.hub.spec.distribution
        open_ = {name for name in ready if self._held_by(name) < hub.spec.members.max_children}
        never = distribution.strategy == "NotLocal" and distribution.not_local_fallback == "Pending"
        return never and open_ <= {wanted.origin}


def _run(entry: Assignment) -> tuple[str, int]:
    return entry.uid, entry.epoch


def _lives(strategy: str, examples: int) -> type:
    """Return the tests of hubs that start with this strategy."""
    life: Any = type(f"{strategy}Life", (HubLife,), {"strategy": strategy})
    case = life.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    return case


TestHubLife = _lives("ConsistentHashing", 60)
TestRoundRobinLife = _lives("RoundRobin", 20)
TestLeastLoadedLife = _lives("LeastLoaded", 20)
TestModuloLife = _lives("Modulo", 20)
TestLocalLife = _lives("Local", 20)
TestNotLocalLife = _lives("NotLocal", 20)
