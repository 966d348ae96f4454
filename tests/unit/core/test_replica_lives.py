"""Random lives of hubs with several copies of each child."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from planned_copies import POD, replicated
from planned_hub import FIRST_EPOCH, child, hub_spec

from processhub.api.reasons import Role
from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import ChildPod
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment

MEMBERS = [f"hub-{number}" for number in range(5)]


IDS = [f"tenant/{number}" for number in range(6)]


members = st.sampled_from(MEMBERS)


ids = st.sampled_from(IDS)


@dataclass
class ModelPod:
    """A Pod of a child: its incarnation, and the role that it was given last."""

    id: str
    member: str
    uid: str
    run: int
    role: str = Role.PASSIVE  # the role of each at its start
    granted: bool = False  # its entry was active: from then on it may act

    def is_run_of(self, member: str, entry: Assignment) -> bool:
        return (self.member, self.uid, self.run) == (member, entry.uid, entry.started_with)


class ReplicatedLife(RuleBasedStateMachine):
    """One hub with standby copies; members act late, join, leave, restart, drain; factors and children change."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = replicated(2)
        self.hub.want(child(id_, workload=POD if id_ in IDS[:3] else "w", pod=id_ in IDS[:3]) for id_ in IDS[:4])
        self.hub.want([child(IDS[1], pinned=True), child(IDS[4], nodes=("hub-0", "hub-1"))])
        self.pods: list[ModelPod] = []
        self.uids = 0
        self.highest: dict[str, int] = {}

    @initialize()
    def all_run(self) -> None:
        """Start all children, because most faults need running ones."""
        self.hub.rest()
        self._make_pods()
        self.pods_are_told()
        for pod in self.pods:
            pod.granted = pod.role == Role.ACTIVE

    @rule(
        id_=ids,
        pinned=st.booleans(),
        nodes=st.sampled_from([(), (), ("hub-0", "hub-1"), ("hub-2", "hub-0")]),
        origin=members,
    )
    def child_created_or_made_anew(self, id_: str, pinned: bool, nodes: tuple[str, ...], origin: str) -> None:
        self.uids += 1
        self.hub.want([child(id_, uid=f"u{self.uids}", pinned=pinned, nodes=nodes, origin=origin)])

    @rule(id_=ids)
    def child_deleted(self, id_: str) -> None:
        self.hub.children.pop(id_, None)
        self.hub.move_requests.pop(id_, None)

    @rule(id_=ids, workload=st.sampled_from(["w", "w2", POD]))
    def child_edited(self, id_: str, workload: str) -> None:
        if present := self.hub.children.get(id_):
            self.hub.want([msgspec.structs.replace(present, workload=workload, pod=workload == POD)])

    @rule(id_=ids, suspended=st.booleans())
    def child_suspended_or_resumed(self, id_: str, suspended: bool) -> None:
        if present := self.hub.children.get(id_):
            self.hub.want([msgspec.structs.replace(present, suspended=suspended)])

    @precondition(lambda self: self._copies())
    @rule(id_=ids, number=st.integers(0, 4), forced=st.booleans(), acting=st.lists(st.sets(members), max_size=4))
    def suspended_drained_and_resumed(self, id_: str, number: int, forced: bool, acting: list[set[str]]) -> None:
        """A member of its copies is drained meanwhile; some members act, some rounds run with late reports."""
        places = sorted(self.hub.record.get(id_, {}))
        if not places or id_ not in self.hub.children:
            return
        self.child_suspended_or_resumed(id_, suspended=True)
        for names in acting:
            self.rounds_go(100, 1)
            self.some_members_act(names)
        self.hub.change(places[number % len(places)], draining=True, wanted=True, forced=forced)
        for names in acting[:2]:
            self.rounds_go(100, 1)
            self.some_members_act(names)
        self.child_suspended_or_resumed(id_, suspended=False)

    @rule(name=members)
    def member_lost(self, name: str) -> None:
        if name in self.hub.members:
            self.hub.change(name, phase=Phase.GONE, ended=False, possibly_running=frozenset())

    @rule(name=members, ended=st.booleans())
    def member_restarts(self, name: str, ended: bool) -> None:
        if name in self.hub.members and self.hub.members[name].phase is Phase.LIVE:
            self.hub.change(name, phase=Phase.HELD, ended=ended)

    @rule(name=members)
    def member_there(self, name: str) -> None:
        joining = name not in self.hub.members or self.hub.members[name].joining
        self.hub.change(name, phase=Phase.LIVE, ended=False, joining=joining)

    @rule(name=members, draining=st.booleans())
    def member_drained_or_not(self, name: str, draining: bool) -> None:
        if name in self.hub.members:
            self.hub.change(name, draining=draining, wanted=not draining, forced=False)

    @rule(
        name=members,
        forced=st.sampled_from([None, False, True, True]),
        acting=st.lists(st.sets(members), min_size=1, max_size=3),
    )
    def member_drained_by_hand_or_not(self, name: str, forced: bool | None, acting: list[set[str]]) -> None:
        """With ``forced`` None it is undrained. Then some members act, and some rounds run with late reports."""
        if name in self.hub.members:
            self.hub.change(name, draining=forced is not None, wanted=True, forced=bool(forced))
        for names in acting:
            self.rounds_go(100, 1)
            self.some_members_act(names)

    @rule(
        factor=st.sampled_from([1, 2, 3, "ClusterSize"]),
        model=st.sampled_from(["ActivePassive", "ActivePassive", "Singularity"]),
        strategy=st.sampled_from(
            ["ConsistentHashing", "RoundRobin", "LeastLoaded", "Modulo", "Local", "NotLocal"],
        ),
    )
    def hub_edited(self, factor: int | str, model: str, strategy: str) -> None:
        redundancy = {"strategy": "Replication", "replicationFactor": factor, "replicationModel": model}
        changed = strategy != self.hub.spec.distribution.strategy
        self.hub.spec = hub_spec(
            strategy=strategy, notLocalFallback="Local", redundancy={} if model == "Singularity" else redundancy
        )
        if changed:
            self.hub.resettle()

    @rule(id_=ids, name=members)
    def move_asked_for(self, id_: str, name: str) -> None:
        if id_ in self.hub.children:
            self.hub.move_requests[id_] = name

    @precondition(lambda self: self._copies())
    @rule(id_=ids, number=st.integers(0, 4), acting=st.lists(st.sets(members), max_size=4))
    def role_asked_for(self, id_: str, number: int, acting: list[set[str]]) -> None:
        """Request the role for an existing copy; then some members act, and some rounds run with late reports."""
        if id_ in self.hub.children and (places := sorted(self.hub.record.get(id_, {}))):
            self.hub.move_requests[id_] = places[number % len(places)]
        for names in acting:
            self.rounds_go(100, 1)
            self.some_members_act(names)

    @rule(names=st.sets(members))
    def some_members_act(self, names: set[str]) -> None:
        self.hub.acknowledge(*(names & self.hub.members.keys()) or ["hub-0"])
        self._make_pods()

    def _make_pods(self) -> None:
        """Create Pods that a member has been asked for and still has recorded."""
        for name, member in self.hub.members.items():
            for id_, entry in self.hub.running[name].items():
                if entry.workload != POD or member.dead or self.hub.record.get(id_, {}).get(name) != entry:
                    continue
                if not any(pod.id == id_ and (pod.member == name or not self._copies()) for pod in self.pods):
                    self.pods.append(ModelPod(id_, name, entry.uid, entry.started_with))
        self._tell_of_pods()

    @rule()
    def pods_are_told(self) -> None:
        """Give a Pod its role when an entry means the same incarnation."""
        for pod in self.pods:
            entry = self.hub.record.get(pod.id, {}).get(pod.member)
            if entry is not None and pod.is_run_of(pod.member, entry):
                pod.role = entry.role
        self._tell_of_pods()

    @precondition(lambda self: any(pod.role == Role.ACTIVE for pod in self.pods))
    @rule(number=st.integers(0, 11), ended=st.booleans())
    def member_of_an_active_pod_lost_or_restarts(self, number: int, ended: bool) -> None:
        acting = [pod.member for pod in self.pods if pod.role == Role.ACTIVE]
        name = acting[number % len(acting)]
        if ended:
            self.member_restarts(name, ended=True)
        else:
            self.member_lost(name)

    @rule(some=st.sets(ids))
    def pods_end(self, some: set[str]) -> None:
        """End Pods that are not wanted any more, as soon or as late as their nodes do."""
        self.pods = [pod for pod in self.pods if pod.id not in some or self._asked_for(pod)]
        self._tell_of_pods()

    @precondition(lambda self: self.pods)
    @rule(number=st.integers(0, 11))
    def pod_deleted_by_hand(self, number: int) -> None:
        del self.pods[number % len(self.pods)]
        self._tell_of_pods()

    def _copies(self) -> bool:
        return self.hub.spec.redundancy.strategy != "Singularity"

    def _asked_for(self, pod: ModelPod) -> bool:
        entry = self.hub.record.get(pod.id, {}).get(pod.member)
        return entry is not None and not entry.wait and pod.is_run_of(pod.member, entry)

    def _tell_of_pods(self) -> None:
        found: dict[str, tuple[ChildPod, ...]] = {}
        for pod in self.pods:
            found[pod.id] = (*found.get(pod.id, ()), ChildPod(pod.member, "a pod", str(pod.run), pod.role))
        self.hub.pods = found

    @rule()
    def quorum_lost_or_back(self) -> None:
        self.hub.partitioned = "" if self.hub.partitioned else "too few members are live"

    @rule()
    def leader_changes(self) -> None:
        self.hub.next_epoch = (self.hub.next_epoch // FIRST_EPOCH + 1) * FIRST_EPOCH
        for name in self.hub.members:
            self.hub.change(name, settled=False)

    @rule(budget=st.sampled_from([0, 1, 100]), times=st.integers(1, 3))
    def rounds_go(self, budget: int, times: int) -> None:
        for _ in range(times):
            planned = plan(self.hub.snapshot(budget))
            self._check(planned)
            self.hub.write(planned)
            for pod in self.pods:
                entry = self.hub.record.get(pod.id, {}).get(pod.member)
                if entry is not None and pod.is_run_of(pod.member, entry) and entry.role == Role.ACTIVE:
                    pod.granted = True

    def _check(self, planned: Any) -> None:
        for name, entries in planned.entries.items():
            for id_, entry in entries.items():
                if entry is None or entry.role != Role.ACTIVE or entry.wait:
                    continue
                # The right to be active is given only while no other copy may act on one.
                others = [
                    other
                    for other in self.hub.members
                    if other != name
                    and self.hub.running[other].get(id_) is not None
                    and self.hub.running[other][id_].role == Role.ACTIVE
                ]
                assert not others, f"{id_} is to be active on {name} while it may be on {others}"
                before = self.hub.record.get(id_, {}).get(name)
                if before is not None and (before.started_with, before.role) == (entry.started_with, entry.role):
                    continue  # it is active already
                acts = [pod for pod in self.pods if pod.id == id_ and pod.granted and not pod.is_run_of(name, entry)]
                if entry.workload == POD:
                    acts = [pod for pod in acts if pod.member != name]  # a Pod with the same name
                assert not acts, f"{id_} is to be active on {name} beside {acts}"
                assert entry.epoch >= self.highest.get(id_, 0)
                self.highest[id_] = entry.epoch

    @invariant()
    def no_id_is_active_twice(self) -> None:
        running = Counter(
            id_ for runs in self.hub.running.values() for id_, entry in runs.items() if entry.role == Role.ACTIVE
        )
        assert all(count == 1 for count in running.values()), running
        acting = Counter(pod.id for pod in self.pods if pod.role == Role.ACTIVE)
        assert all(count == 1 for count in acting.values()), self.pods

    @precondition(lambda self: self.hub.members)
    @rule(budget=st.sampled_from([1, 100]))
    def left_alone_it_comes_to_rest(self, budget: int) -> None:
        hub = self.hub
        hub.partitioned = ""
        hub.want(msgspec.structs.replace(each, suspended=False) for each in tuple(hub.children.values()))
        hub.acknowledge()
        for name, member in hub.members.items():
            if member.phase is not Phase.LIVE:
                hub.change(name, phase=Phase.GONE, ended=False, possibly_running=frozenset(), settled=True)
        for _ in range(10):
            hub.rest(budget, rounds=200)
            self.pods_end(set(IDS))
            self._make_pods()
            self.pods_are_told()
        assert plan(hub.snapshot(budget)).empty
        assert not hub.move_requests, "somebody asked for a move and got no answer"

        ready = {name for name, member in hub.members.items() if member.phase is Phase.LIVE and not member.draining}
        redundancy = hub.spec.redundancy
        factor = redundancy.replication_factor if redundancy.strategy == "Replication" else 1
        copies = len(ready) if factor == "ClusterSize" else min(int(factor), len(ready))
        for id_, wanted in hub.children.items():
            roles = hub.roles(id_)
            assert all(hub.running[name][id_].uid == wanted.uid for name in roles)
            assert all(hub.running[name][id_].workload == wanted.workload for name in roles)
            asleep = {name for name, member in hub.members.items() if member.draining and member.forced}
            assert not (wanted.bound and asleep & roles.keys()), f"{id_} has {roles}"
            if wanted.bound or not ready:
                # A Pod of a member that is gone may still be the active one, as long as it exists.
                actives = Counter(roles.values())[Role.ACTIVE]
                assert not roles or actives == 1 or (actives == 0 and hub.pods.get(id_)), f"{id_} has {roles}"
                able = ready & hub.record.get(id_, {}).keys()
                assert actives == 1 or not able or hub.pods.get(id_), f"{id_} is not active, with copies on {able}"
                continue
            assert set(roles) <= ready
            assert len(roles) == copies, f"{id_} has {roles}, {copies} are asked for"
            assert Counter(roles.values())[Role.ACTIVE] == 1
        assert all(id_ in hub.children for runs in hub.running.values() for id_ in runs)


ReplicatedLife.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


TestReplicatedLife = ReplicatedLife.TestCase
