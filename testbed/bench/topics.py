"""The parts of docs/benchmarks.md: what each is about, and what its plot shows."""

from __future__ import annotations

from dataclasses import dataclass

from bench.measure import Topic

IDEAL_JOIN = "ideal: 100 ÷ (members + 1)"


@dataclass(frozen=True)
class Part:
    """A part of the page. ``about``: its first sentences. ``x``, ``y``: the axes of its plot.

    ``spread``: the plot shows the samples of its values as shares, instead of lines through their results.
    """

    topic: Topic
    title: str
    about: str
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    spread: bool = False


PARTS: tuple[Part, ...] = (
    Part(
        "starts",
        "Starts",
        "The time from the first request until all children run, in a client that watches the registry.",
        "children",
        "seconds until all run",
        log_x=True,
        log_y=True,
    ),
    Part(
        "activations",
        "Activations",
        "Requests for names that do not run yet. Each is answered by the child that was started for it.",
        "callers at once",
        "new names a second",
        log_x=True,
        log_y=True,
    ),
    Part(
        "calls",
        "Calls",
        "Requests to children that run, over HTTP to a member.",
        "callers at once",
        "answers a second",
        log_x=True,
        log_y=True,
    ),
    Part(
        "moves",
        "Moves and losses",
        "A member joins and takes its share, or a member is lost and the others take its children.",
        "members before the join",
        "children moved, %",
        log_x=True,
        log_y=True,
    ),
    Part(
        "failover",
        "Failover",
        "The leader of the operator is lost, and a child is created at that moment. All other children run on.",
        "seconds until the new child runs",
        "share of the trials, %",
        spread=True,
    ),
)
