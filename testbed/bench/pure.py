"""Figures that need no cluster: the planner, moves on a join, the client's look-ups."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from bench.measure import Point, Value
from processhub.api.hub import Hub as HubObject
from processhub.api.hub import HubSpec
from processhub.api.meta import ObjectMeta
from processhub.api.slice import RegistrySlice, SliceSpec, SliceStatus
from processhub.client.hub import Hub
from processhub.client.session import Session
from processhub.core.model.membership import Phase
from processhub.core.model.placement import child_key
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment, Report
from processhub.registry.grammar import format_assignment as spec_entry
from processhub.registry.grammar import format_report as status_entry

_UNLIMITED = 10**9
_SLICE = 1000


def snapshot(count: int, members: int, hub: str = "hub") -> HubSnapshot:
    """A hub with ``count`` children, none of them placed yet."""
    children = {
        child_id: DesiredChild(id=child_id, uid=f"uid-{child_id}", key=child_key(child_id), workload="w")
        for child_id in (f"tenant/{index}" for index in range(count))
    }
    spec = msgspec.convert({"members": {"maxChildren": 1_000_000}}, HubSpec)
    views = tuple(MemberView(name=f"{hub}-{ordinal}") for ordinal in range(members))
    return HubSnapshot(spec=spec, members=views, children=children, record={}, next_epoch=10**9, move_budget=_UNLIMITED)


def placed(before: HubSnapshot, step: Plan) -> HubSnapshot:
    """The snapshot with the placements of a first plan recorded."""
    record = {
        child_id: (OnRecord(member, entry),)
        for member, entries in step.entries.items()
        for child_id, entry in entries.items()
        if entry is not None
    }
    return msgspec.structs.replace(before, record=record, next_epoch=step.next_epoch)


def joined(before: HubSnapshot, name: str) -> HubSnapshot:
    """The snapshot with one more member, which joins."""
    return msgspec.structs.replace(before, members=(*before.members, MemberView(name=name, joining=True)))


def lost(before: HubSnapshot) -> HubSnapshot:
    """The snapshot with its first member gone."""
    first, *others = before.members
    gone = msgspec.structs.replace(first, phase=Phase.GONE)
    return msgspec.structs.replace(before, members=(gone, *others))


def planning(count: int, members: int) -> Callable[[], Sequence[Value]]:
    """Seconds for plan(): all children new, nothing to do, a join, a loss."""

    def measure() -> Sequence[Value]:
        fresh = snapshot(count, members)
        first, all_new = _timed(fresh)
        steady = placed(fresh, first)
        quiet, nothing = _timed(steady)
        assert quiet.empty, "a settled hub has nothing to change"
        _, join = _timed(joined(steady, f"hub-{members}"))
        _, loss = _timed(lost(steady))
        goal = 1.0 if (count, members) == (100_000, 100) else None
        seconds = {"all new": all_new, "nothing to do": nothing, "a join": join, "a loss": loss}
        return [
            Value(
                name=name, unit="s", samples=(took,), goal=goal, topic="moves", listed=bool(goal) and name == "a join"
            )
            for name, took in seconds.items()
        ]

    return measure


def _timed(given: HubSnapshot) -> tuple[Plan, float]:
    begun = time.perf_counter()
    made = plan(given)
    return made, time.perf_counter() - begun


def moves(count: int = 100_000, hubs: int = 10, sizes: Iterable[int] = (3, 10, 100)) -> Sequence[Value]:
    """How many children a join moves, relative to 1/(n + 1) of them; the mean over hubs of different names.

    A single hub differs by chance: by 3 % if a hundredth of 100,000 children moves.
    """
    values = []
    for size in sizes:
        ratios = []
        for index in range(hubs):
            fresh = snapshot(count, size, hub=f"hub{index}")
            steady = placed(fresh, plan(fresh))
            moved = plan(joined(steady, f"hub{index}-{size}")).moves
            assert all(move.target == f"hub{index}-{size}" for move in moved), "a join moves onto the joiner only"
            ratios.append(len(moved) * (size + 1) / count)
        name, mean = f"{size} → {size + 1} members", sum(ratios) / hubs
        values += [
            Value(name=f"{name}, moved ÷ ideal", unit="×", samples=(mean,), goal=1.02, topic="moves"),
            Value(
                name=f"{name}, moved",
                unit="%",
                samples=(100 * mean / (size + 1),),
                topic="moves",
                listed=False,
                point=Point(series="ConsistentHashing", x=size),
            ),
        ]
    return values


def lookups(count: int = 10_000, rounds: int = 1_000_000) -> Sequence[Value]:
    """Look-ups a second, in random order, in a registry as the watch fills it."""
    hub = registry(count)
    ids = [f"tenant/{index}" for index in range(count)]
    order = random.Random(1).choices(ids, k=rounds)  # noqa: S311 an order, no secret
    asked: Mapping[str, Callable[[str], Any]] = {
        "child_lookup": hub.child_lookup,
        "get_pid": hub.get_pid,
        "is_alive": hub.is_alive,
    }
    values = []
    for name, ask in asked.items():
        begun = time.perf_counter()
        for child_id in order:
            ask(child_id)
        rate = rounds / (time.perf_counter() - begun) / 1e6
        values.append(
            Value(
                name=name,
                unit="M/s",
                samples=(rate,),
                goal=2.0,
                better="higher",
                topic="calls",
                listed=name == "child_lookup",
            )
        )
    return values


def registry(count: int) -> Hub:
    """A client whose registry holds ``count`` running children."""
    metadata = ObjectMeta(name="hub", namespace="bench", uid="hub-uid")
    session = Session(cast("Any", None), "bench", HubObject(metadata=metadata))
    for first in range(0, count, _SLICE):
        session.registry.put(_slice(first, min(count, first + _SLICE)))
    return Hub.attached(session)


def _slice(first: int, end: int) -> RegistrySlice:
    ids = [f"tenant/{index}" for index in range(first, end)]
    entries = {child_id: spec_entry(Assignment(uid=f"uid-{child_id}", epoch=1, workload="w")) for child_id in ids}
    reports = {
        child_id: status_entry(Report(uid=f"uid-{child_id}", epoch=1, state="Running", pid=4711)) for child_id in ids
    }
    text = '{"exec":{"command":["sleep","infinity"]}}'
    return RegistrySlice(
        metadata=ObjectMeta(name=f"hub.hub-0.{first // _SLICE}", namespace="bench", uid=f"slice-{first}"),
        spec=SliceSpec(hub="hub", hub_uid="hub-uid", member="hub-0", term=1, workloads={"w": text}, entries=entries),
        status=SliceStatus(observed_generation=1, holder="pod/1", entries=reports),
    )
