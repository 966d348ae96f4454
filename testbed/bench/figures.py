"""The list of all figures by name, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from bench import activations, births, calls, changes, failover, handovers, losses, operatorstart, pure, starts, stress
from bench.lab import Lab
from bench.measure import Point, Topic, Value

Run = Callable[[Lab], Awaitable[Sequence[Value]]]


@dataclass(frozen=True)
class Figure:
    """A figure. ``run`` measures it once and cleans up after itself, up to ``repeats`` times.

    ``topic``: the part of docs/benchmarks.md for those of its values that name none themselves. Of them, those with a
    goal are rows of the table there, and those of ``points``, by name, have a place in the plot.
    """

    name: str
    title: str
    run: Run
    repeats: int = 3
    topic: Topic | Literal[""] = ""
    points: Mapping[str, Point] = field(default_factory=dict)

    def placed(self, values: Sequence[Value]) -> tuple[Value, ...]:
        """The values with their places in docs/benchmarks.md."""
        return tuple(
            value
            if value.topic or not self.topic
            else msgspec.structs.replace(
                value,
                topic=self.topic,
                listed=value.goal is not None,
                point=self.points.get(value.name, value.point),
            )
            for value in values
        )


def _pure(name: str, title: str, measure: Callable[[], Sequence[Value]]) -> Figure:
    async def run(_: Lab) -> Sequence[Value]:
        return measure()

    return Figure(name, title, run)


def _plan(count: int, members: int) -> Figure:
    return _pure(
        f"plan-{count}-{members}", f"plan(), {count:,} children × {members} members", pure.planning(count, members)
    )


def _start(count: int, kind: starts.Kind) -> Figure:
    title = f"{count:,} {kind} children by the client"
    return Figure(f"start-{count}-{kind}", title, lambda lab: starts.start_many(lab, count, kind))


def _births(count: int) -> Figure:
    title = f"one ChildSet of {count:,} python children, hub of 3"
    return Figure(f"births-{count}", title, lambda lab: births.give_birth(lab, count))


def _one(kind: starts.Kind) -> Figure:
    return Figure(f"one-{kind}", f"one {kind} child, idle hub of 3", lambda lab: starts.start_one(lab, kind), repeats=1)


def _told(kind: starts.Kind) -> Figure:
    title = f"{changes.CHANGES} changes of each sort to {kind} children, idle hub of 3"
    return Figure(f"told-{kind}", title, lambda lab: changes.tell(lab, kind), repeats=1)


def _kill(count: int, kind: starts.Kind) -> Figure:
    title = f"a node lost, hub of 3 with {count:,} {kind} children"
    return Figure(f"kill-{count}-{kind}", title, lambda lab: losses.lose_member(lab, count, kind))


def _promote(count: int, kind: starts.Kind) -> Figure:
    title = f"a node lost, hub of 3 with {count:,} {kind} children in two copies, one active"
    return Figure(f"promote-{count}-{kind}", title, lambda lab: losses.promote(lab, count, kind))


def _stress(members: int, count: int, combination: str) -> Figure:
    title = f"{count:,} children on {members} members, {combination}"
    return Figure(
        f"stress-{members}-{count}-{combination}", title, lambda lab: stress.stress(lab, members, count, combination)
    )


# All of them together take under 20 minutes on two cores; runs after the first are made while there is time.
FIGURES: tuple[Figure, ...] = (
    _plan(100_000, 100),
    _pure("moves", "moves on a join, 100,000 children, mean of 10 hubs", pure.moves),
    _pure("lookups", "look-ups in the client, 10,000 children", pure.lookups),
    *(_one(kind) for kind in starts.KINDS),
    *(_told(kind) for kind in starts.KINDS),
    *(_start(count, kind) for count in (1000, 5000) for kind in starts.KINDS),
    _births(10_000),
    _kill(5000, "python"),
    Figure(
        "handover-1000",
        "1,000 python children moved with their state",
        lambda lab: handovers.hand_over(lab, 1000),
        topic="moves",
    ),
    Figure(
        "operator-10000",
        "operator start with 10,000 children",
        lambda lab: operatorstart.start(lab, 10_000),
        topic="failover",
    ),
    Figure(
        "activations",
        "requests for new names, answered by python children, hub of 3",
        activations.activate,
        repeats=2,
        topic="activations",
    ),
    Figure("calls", "calls to 300 python children, hub of 3", calls.call, topic="calls"),
    Figure("failover", "the leader of two replicas is lost, hub of 3", failover.fail_over, repeats=1),
)
# These take an hour, so they are measured only when named.
MORE: tuple[Figure, ...] = (
    _plan(10_000, 10),
    _plan(10_000, 100),
    _plan(100_000, 10),
    _kill(5000, "exec"),
    _promote(1000, "python"),
    *(_stress(members, count, combination) for members, count in stress.SIZES for combination in stress.COMBINATIONS),
)
BY_NAME = {figure.name: figure for figure in (*FIGURES, *MORE)}


def chosen(only: str) -> list[Figure]:
    """The figures whose name is in the comma-separated list or begins with one of its items; FIGURES if it is empty.

    Raises ValueError with the known names.
    """
    if not only:
        return list(FIGURES)
    words = [word.strip() for word in only.split(",") if word.strip()]
    for word in words:
        if not any(_matches(name, word) for name in BY_NAME):
            raise ValueError(f"no figure {word!r}; there are {', '.join(BY_NAME)}")
    return [figure for figure in BY_NAME.values() if any(_matches(figure.name, word) for word in words)]


def _matches(name: str, word: str) -> bool:
    return name == word or name.startswith(f"{word}-")
