"""Without more trouble a hub with views comes to rest: every declared child runs once, and a view is open."""

from __future__ import annotations

from msgspec.structs import replace

from ..explore import Counterexample, Explored
from .hub import ViewHub
from .states import HUB, NO_ONE, State

_ROUNDS = 30


def check_views_rest(hub: ViewHub, seen: Explored, *, returning: bool) -> int:
    """Check this from every state. ``returning``: whether dead and cut-off members come back. Raises Counterexample."""
    good: set[State] = set()
    for start in seen:
        passed: list[State] = []
        state = start
        while state not in good:
            passed.append(state)
            if len(passed) > _ROUNDS:
                raise Counterexample("\n".join([*seen.way_to(start), "=> no rest", str(state)]))
            after = hub.canonical(_fair_round(hub, state, returning=returning))
            if after == state:
                _check(hub, state, seen.way_to(start), returning=returning)
                break
            state = after
        good.update(passed)
    return len(good)


def _fair_round(hub: ViewHub, state: State, *, returning: bool) -> State:
    state = replace(state, operator=replace(state.operator, flying=()))
    for index in hub.indexes:
        for due in ("heal", "boot") if returning else ("lapse",):
            state = getattr(hub, due)(state, index) or state
        for due in ("take", "listed", "observe"):
            state = getattr(hub, due)(state, index) or state
        for id_ in hub.ids:
            state = hub.act(state, index, id_) or state
            state = hub.act(state, index, id_) or state
        state = hub.report(state, index) or state
    while state.operator.pending:
        state = hub.write(state, 0)
    if not state.operator.leading:
        state = hub.take_over(state)
    state = hub.plan(state)
    while state.operator.pending:
        state = hub.write(state, 0)
    return state


def _check(hub: ViewHub, state: State, way: list[str], *, returning: bool) -> None:
    there = [index for index in hub.indexes if returning or serves_on(state, index)]
    taking = tuple(index for index in there if not state.members[index].leaves)
    for id_, name in enumerate(hub.rules.ids):
        runs = [(index, run.uid) for index in there if (run := state.members[index].agent.runs[id_]) is not None]
        uid = state.declared[id_]
        expected = [uid] if uid and taking else [[], [HUB]]
        if [found for _, found in runs] not in (expected if isinstance(expected[0], list) else [expected]) and taking:
            raise Counterexample("\n".join([*way, f"=> at rest {name} ({uid}) runs as {runs}", str(state)]))
        if not all(state.members[index].slice.entries[id_] for index, _ in runs):
            raise Counterexample("\n".join([*way, f"=> at rest {name} runs off the record", str(state)]))
    open_to = tuple(index for index in hub.indexes if state.members[index].zero.open)
    if open_to != taking:
        raise Counterexample("\n".join([*way, f"=> at rest the view is open to {open_to}, not {taking}", str(state)]))


def serves_on(state: State, index: int) -> bool:
    """Whether the member is there for good: it is neither dead nor cut off."""
    agent = state.members[index].agent
    return agent.nonce != NO_ONE and agent.connected
