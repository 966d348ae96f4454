"""A hub for planner tests: what is desired, what is recorded, what runs; plans are carried out exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from processhub.api.hub import HubSpec
from processhub.api.reasons import Reason, Role, State
from processhub.core.model.membership import Phase
from processhub.core.model.placement import Candidate, Keys, best, child_key
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import ChildPod, DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.planner import plan
from processhub.core.planning.steady import SteadyChildren
from processhub.registry.grammar import Assignment, Report, format_end

FIRST_EPOCH = 10**9


def child_keys(ids: Iterable[str]) -> Keys:
    """Return the hashes of many ids, in order."""
    return np.array([child_key(child_id) for child_id in ids], dtype=np.uint64)


def hub_spec(
    cap_percent: int = 125,
    max_children: int = 10_000,
    on_join: bool = True,
    strategy: str = "ConsistentHashing",
    redundancy: dict[str, Any] | None = None,
    **distribution: Any,
) -> HubSpec:
    return msgspec.convert(
        {
            "members": {"maxChildren": max_children},
            "distribution": {
                "strategy": strategy,
                "loadCapPercent": cap_percent,
                "rebalance": {"onJoin": on_join},
                **distribution,
            },
            "redundancy": redundancy or {},
        },
        HubSpec,
    )


def child(child_id: str, uid: str = "", **fields: Any) -> DesiredChild:
    return DesiredChild(
        id=child_id,
        uid=uid or f"uid-{child_id}",
        key=child_key(child_id),
        workload=fields.pop("workload", "w"),
        **fields,
    )


def children_of(count: int) -> list[DesiredChild]:
    return [child(f"tenant/{number}") for number in range(count)]


def one_pod(member: str, run: int = 0, role: str = Role.ACTIVE) -> tuple[ChildPod, ...]:
    """Return the only Pod of a child."""
    return (ChildPod(member, "hub-0123 on node-1", str(run), role),)


class PlannedHub:
    """The state between plans. At ``acknowledge`` agents follow their orders; until then stopped children may run."""

    def __init__(self, members: int | Iterable[MemberView] = 3, spec: HubSpec | None = None) -> None:
        if isinstance(members, int):
            members = [MemberView(name=f"hub-{number}") for number in range(members)]
        self.spec = spec or hub_spec()
        self.members = {member.name: member for member in members}
        self.children: dict[str, DesiredChild] = {}
        self.record: dict[str, dict[str, Assignment]] = {}
        self.running: dict[str, dict[str, Assignment]] = {name: {} for name in self.members}
        self.next_epoch = FIRST_EPOCH
        self.formed = True
        self.partitioned = ""
        self.pods: dict[str, tuple[ChildPod, ...]] = {}
        self.move_requests: dict[str, str] = {}
        self.answers: dict[str, str] = {}
        self.last_placed = ""
        self.states: dict[tuple[str, str], str] = {}  # (id, member) → a report that differs from the real state
        self.ended: dict[tuple[str, int], Report] = {}  # (id, epoch) → the last report of a run that has ended for good
        self.steady = SteadyChildren()
        self._places: dict[str, tuple[OnRecord, ...]] = {}

    def want(self, children: Iterable[DesiredChild]) -> None:
        self.children.update({child.id: child for child in children})

    def change(self, name: str, **fields: Any) -> None:
        """Change a member, or add one."""
        member = self.members.get(name) or MemberView(name=name)
        self.members[name] = msgspec.structs.replace(member, **fields)
        self.running.setdefault(name, {})
        if fields.get("phase") is Phase.GONE or fields.get("ended"):
            self.running[name] = {}

    def snapshot(self, budget: int = 10**9) -> HubSnapshot:
        members = []
        for name, member in self.members.items():
            left = {id_ for id_, entry in self.running[name].items() if not self._told(name, id_, entry)}
            members.append(msgspec.structs.replace(member, possibly_running=member.possibly_running | left))
        return HubSnapshot(
            spec=self.spec,
            members=tuple(members),
            children=dict(self.children),
            record={
                id_: tuple(
                    OnRecord(name, entry, self._state(name, id_, entry), end=self._end(id_, entry))
                    for name, entry in places.items()
                )
                for id_, places in self.record.items()
                if places
            },
            next_epoch=self.next_epoch,
            move_budget=budget,
            formed=self.formed,
            partitioned=self.partitioned,
            pods=self.pods,
            move_requests=self.move_requests,
            last_placed=self.last_placed,
        )

    def plan(self, budget: int = 10**9, **more: Any) -> Plan:
        """Return the plan for the present state, which is the same with and without what earlier plans know.

        ``more``: fields of the snapshot.
        """
        snapshot, before = self.snapshot(budget), self._places
        # What is on record as before is the same object, as in the operator.
        self._places = {id_: before[id_] if before.get(id_) == now else now for id_, now in snapshot.record.items()}
        snapshot = msgspec.structs.replace(snapshot, record=self._places, **more)
        planned = plan(snapshot)
        assert plan(snapshot, steady=self.steady) == planned
        return planned

    def resettle(self, spec: HubSpec | None = None) -> None:
        """Strategy or weights were changed: all members count as joining, as in the operator."""
        self.spec = spec or self.spec
        for name in self.members:
            self.change(name, joining=True, resettles=True)

    def _told(self, name: str, id_: str, entry: Assignment) -> bool:
        now = self.record.get(id_, {}).get(name)
        demoted = now is not None and entry.role == Role.ACTIVE and now.role == Role.PASSIVE
        return now is not None and now.uid == entry.uid and not demoted and not now.wait

    def _state(self, name: str, id_: str, entry: Assignment) -> str:
        if (id_, name) in self.states:
            return self.states[id_, name]
        run = self.running[name].get(id_)
        return State.RUNNING if run is not None and run.started_with == entry.started_with else ""

    def _end(self, id_: str, entry: Assignment) -> str:
        report = self.ended.get((id_, entry.started_with))
        return format_end(report) if report is not None else ""

    def end(self, id_: str, state: State = State.STOPPED) -> str:
        """Let the run of a child end for good, as its member reports it; return that member."""
        ((name, run),) = [(name, run[id_]) for name, run in self.running.items() if id_ in run]
        reason = Reason.COMPLETED if state is State.STOPPED else Reason.RESTARTS_EXCEEDED
        self.ended[id_, run.started_with] = Report(uid=run.uid, epoch=run.epoch, state=state, reason=reason)
        del self.running[name][id_]
        return name

    def write(self, planned: Plan) -> None:
        """Write the plan; nobody has acted on it yet."""
        self.next_epoch, self.last_placed = planned.next_epoch, planned.last_placed
        self.answers.update(planned.move_results)
        self.move_requests = {id_: name for id_, name in self.move_requests.items() if id_ not in planned.move_results}
        for name, entries in planned.entries.items():
            for id_, entry in entries.items():
                places = self.record.setdefault(id_, {})
                if entry is None:
                    places.pop(name, None)
                else:
                    places[name] = entry
        for name, joining in planned.joining.items():
            self.change(name, joining=joining)

    def acknowledge(self, *names: str) -> None:
        """Let these members (all live ones by default) run exactly what their slices say."""
        for name in names or self.members:
            if self.members[name].phase is not Phase.LIVE:
                continue
            self.running[name] = {
                id_: places[name]
                for id_, places in self.record.items()
                if name in places and not places[name].wait and not self.partitioned
                if not places[name].ended and (id_, places[name].started_with) not in self.ended
            }
            self.change(name, possibly_running=frozenset(), settled=True)

    def step(self, budget: int = 10**9) -> Plan:
        """Run one round: plan, write, and let all members act."""
        planned = self.plan(budget)
        self.write(planned)
        self.acknowledge()
        return planned

    def rest(self, budget: int = 10**9, rounds: int = 50) -> list[Plan]:
        """Run rounds until a plan is empty; return the other plans. Fails if the hub does not come to rest."""
        plans = []
        for _ in range(rounds):
            planned = self.step(budget)
            if planned.empty:
                return plans
            plans.append(planned)
        raise AssertionError(f"no rest after {rounds} rounds; the last plan was {plans[-1]}")

    def where(self) -> dict[str, str]:
        """Return id → the member that runs it; fails if two do."""
        found: dict[str, str] = {}
        for name, running in self.running.items():
            for id_ in running:
                assert id_ not in found, f"{id_} runs on {found[id_]} and {name}"
                found[id_] = name
        return found

    def roles(self, id_: str) -> dict[str, str]:
        """Return the members that run it, with its role there."""
        return {name: running[id_].role for name, running in self.running.items() if id_ in running}

    def on(self, name: str) -> set[str]:
        return set(self.running[name])

    def epoch(self, id_: str) -> int:
        (entry,) = self.record[id_].values()
        return entry.epoch


LOOSE = hub_spec(cap_percent=1000)


def drawn_to(hub: PlannedHub, *, among: list[str] | None = None) -> dict[str, str]:
    """Return id → the member with the highest rank for it, regardless of the cap."""
    names = among or list(hub.members)
    weights = {name: member.weight for name, member in hub.members.items()}
    candidates = [Candidate(name, weights.get(name, 1)) for name in names]
    chosen = best(child_keys(hub.children), candidates)
    return {id_: names[index] for id_, index in zip(hub.children, chosen.tolist(), strict=True)}


def resting(members: int = 3, children: int = 60, **spec: int) -> PlannedHub:
    hub = PlannedHub(members, hub_spec(**{"cap_percent": 1000, **spec}))
    hub.want(children_of(children))
    hub.rest()
    return hub


def first_on(hub: PlannedHub, name: str) -> str:
    return min(hub.on(name))


def drawn_onto(hub: PlannedHub, joiner: str) -> str:
    """Return a child of ``hub`` for which a member of this name would rank above its current one."""
    with_joiner = drawn_to(hub, among=[*hub.members, joiner])
    return next(id_ for id_, name in sorted(with_joiner.items()) if name == joiner)


def hub_of(strategy: str, members: int = 3, **spec: object) -> PlannedHub:
    return PlannedHub(members, hub_spec(strategy=strategy, **spec))  # type: ignore[arg-type]
