"""The list of all figures by name, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench import births, changes, handovers, losses, operatorstart, pure, starts, stress
from bench.lab import Lab
from bench.measure import Value

Run = Callable[[Lab], Awaitable[Sequence[Value]]]


@dataclass(frozen=True)
class Figure:
    """A figure. ``run`` measures it once and cleans up after itself. ``cluster``: it needs a cluster."""

    name: str
    title: str
    run: Run
    cluster: bool = True


def _pure(name: str, title: str, measure: Callable[[], Sequence[Value]]) -> Figure:
    async def run(_: Lab) -> Sequence[Value]:
        return measure()

    return Figure(name, title, run, cluster=False)


def _start(count: int, kind: starts.Kind) -> Figure:
    title = f"{count:,} {kind} children by the client"
    return Figure(f"start-{count}-{kind}", title, lambda lab: starts.start_many(lab, count, kind))


def _births(count: int) -> Figure:
    title = f"one ChildSet of {count:,} python children, hub of 3"
    return Figure(f"births-{count}", title, lambda lab: births.give_birth(lab, count))


def _one(kind: starts.Kind) -> Figure:
    return Figure(f"one-{kind}", f"one {kind} child, idle hub of 3", lambda lab: starts.start_one(lab, kind))


def _told(kind: starts.Kind) -> Figure:
    title = f"20 changes of each sort to {kind} children, idle hub of 3"
    return Figure(f"told-{kind}", title, lambda lab: changes.tell(lab, kind))


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


FIGURES: tuple[Figure, ...] = (
    *(
        _pure(
            f"plan-{count}-{members}", f"plan(), {count:,} children × {members} members", pure.planning(count, members)
        )
        for count in (10_000, 100_000)
        for members in (10, 100)
    ),
    _pure("moves", "moves on a join against the ideal, 100,000 children, mean of 10 hubs", pure.moves),
    _pure("lookups", "look-ups in the client, 10,000 children", pure.lookups),
    *(_one(kind) for kind in starts.KINDS),
    *(_told(kind) for kind in starts.KINDS),
    *(_start(count, kind) for count in (1000, 5000) for kind in starts.KINDS),
    _births(10_000),
    *(_kill(5000, kind) for kind in starts.KINDS),
    _promote(1000, "python"),
    Figure("handover-1000", "1,000 python children moved with their state", lambda lab: handovers.hand_over(lab, 1000)),
    Figure("operator-10000", "operator start with 10,000 children", lambda lab: operatorstart.start(lab, 10_000)),
)
# These take half an hour, so they are measured only when named.
STRESS: tuple[Figure, ...] = tuple(
    _stress(members, count, combination) for members, count in stress.SIZES for combination in stress.COMBINATIONS
)
BY_NAME = {figure.name: figure for figure in (*FIGURES, *STRESS)}


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
