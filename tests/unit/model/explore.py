"""Breadth-first search through all states, with the shortest path to a broken promise and a path to rest from each."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from msgspec.structs import replace

from processhub.core.model.membership import Phase

from .hub import ModelHub
from .rules import PromiseBrokenError, Rules
from .states import NO_ONE, State, canonical

_ROUNDS_TO_REST = 30


class Counterexample(AssertionError):  # noqa: N818
    """The steps that lead to a broken promise, one in each line."""


class Steps(Protocol):
    """A modelled hub: its first state, what may happen next, and what counts as the same situation."""

    def first(self) -> Any:
        """The state in which it begins."""

    def steps(self, state: Any) -> Iterable[tuple[str, Any]]:
        """All that may happen next. Raises PromiseBrokenError."""

    def canonical(self, state: Any) -> Any:
        """The same situation with its numbers renumbered."""


class Explored(dict[Any, "tuple[Any, str] | None"]):
    """The reached states, each with the state and the step before it."""

    def way_to(self, state: Any) -> list[str]:
        """Return the steps from the first state."""
        steps = []
        while (before := self[state]) is not None:
            state, step = before
            steps.append(step)
        return steps[::-1]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Run without the cycle collector: there are no cycles, and it would visit all states again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def explore(rules: Rules, limit: int = 5_000_000) -> Explored:
    """Return all states that a hub by these rules can reach. Raises Counterexample with a shortest path."""
    return explore_hub(ModelHub(rules), limit)


@_uncollected()
def explore_hub(hub: Steps, limit: int = 5_000_000) -> Explored:
    """Return all states that the hub can reach. Raises Counterexample with a shortest path."""
    first = hub.first()
    seen = Explored({first: None})
    queue = deque([first])
    while queue:
        state = queue.popleft()
        for step, raw in _steps(hub, state, seen):
            if raw in seen:
                continue  # as it is; renumbering takes longer than this look
            after = hub.canonical(raw)
            if after not in seen:
                seen[after] = (state, step)
                queue.append(after)
        if len(seen) > limit:
            raise RuntimeError(f"more than {limit} states")
    return seen


def _steps(hub: Steps, state: Any, seen: Explored) -> Iterator[tuple[str, Any]]:
    try:
        yield from hub.steps(state)
    except PromiseBrokenError as broken:
        raise Counterexample("\n".join([*seen.way_to(state), f"=> {broken}"])) from broken


@_uncollected()
def check_rest(rules: Rules, seen: Explored, *, returning: bool) -> int:
    """Check that without further faults the hub comes to rest in the desired state, from every state.

    ``returning``: whether dead and cut-off members return. Returns the number of states. Raises Counterexample.
    """
    hub = ModelHub(rules)
    good: set[State] = set()
    for start in seen:
        passed: list[State] = []
        state = start
        while state not in good:
            passed.append(state)
            if len(passed) > _ROUNDS_TO_REST:
                raise Counterexample("\n".join([*seen.way_to(start), "=> no rest", str(state)]))
            after = canonical(_fair_round(hub, state, returning=returning))
            if after == state:
                _check_at_rest(hub, state, seen.way_to(start), returning=returning)
                break
            state = after
        good.update(passed)
    return len(good)


def _fair_round(hub: ModelHub, state: State, *, returning: bool) -> State:
    """Every part takes its due step once; a deposed leader does nothing more, writes without a response are lost."""
    state = replace(state, operator=replace(state.operator, late=(), flying=(), former=()))
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
        state = hub.write(state)
    if not state.operator.leading:
        state = hub.take_over(state)
    for index in hub.indexes:
        state = hub.see_slice(hub.see_lease(state, index), index)
        if not returning and hub.may_end_hold(state, index):
            state = hub.end_hold(state, index)
    state = hub.plan(state)
    while state.operator.pending:
        state = hub.write(state)
    return state


def _check_at_rest(hub: ModelHub, state: State, way: list[str], *, returning: bool) -> None:
    views = hub.views(state)
    ready = [index for index, view in enumerate(views) if view.phase is Phase.LIVE and not view.draining]
    for id_, name in enumerate(hub.rules.ids):
        want = state.wanted[id_]
        runs = [
            (index, run.uid)
            for index in hub.indexes
            if (run := state.members[index].agent.runs[id_]) is not None
            and (returning or state.members[index].agent.connected)
        ]
        if want is None or want.suspended:
            expected = runs == []
        elif runs:
            expected = len(runs) == 1 and runs[0][1] == want.uid
        else:
            # Nowhere only if there is no possible member: for bound children, if their member is away.
            on_record = [index for index in hub.indexes if state.members[index].spec.entries[id_]]
            away = [want.node] if hub.rules.guided else on_record if hub.rules.pinned else []
            expected = not ready or (bool(away) and not set(away) & set(ready))
        if not expected:
            raise Counterexample("\n".join([*way, f"=> at rest {name} ({want}) runs as {runs}", str(state)]))
        if runs and returning and not all(state.members[index].spec.entries[id_] for index, _ in runs):
            raise Counterexample("\n".join([*way, f"=> at rest {name} runs off the record", str(state)]))
    if any(member.agent.nonce == NO_ONE for member in state.members) and returning:
        raise Counterexample("\n".join([*way, "=> a member did not come back"]))
