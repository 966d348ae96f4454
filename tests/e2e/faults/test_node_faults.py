"""Each fault of a node, with all partition strategies at once: one active owner, no child lost, no state lost.

Each hub is named after its strategy and has 60 children, which write rows to files that the nodes share
(children/writer.py). rows.py says what a file that checks epochs would refuse of them. The hub `copies` keeps two
copies of each child.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from fleet import CHILDREN, COPIES, QUORATE, STRATEGIES, Fleet, Hit, Owners
from kube import LEASE_SECONDS, Kube, settles
from nodes import Span, api_server, clock, cut_off, killed, other_workers, paused
from rows import Findings

pytestmark = pytest.mark.timeout(900)
Figure = Callable[[str, str, str], None]
PAUSE_SECONDS = 60
CUT_SECONDS = 45
HEALED_SECONDS = 10
RESUMED_SECONDS = 1


def lasts(span: Span, seconds: float) -> None:
    """Keep the fault for this many seconds."""

    def check() -> None:
        assert clock() >= span.began + seconds

    settles(check, within=seconds + 1)


def take_over(fleet: Fleet, span: Span, hit: Hit) -> dict[str, float]:
    """Wait until the children of the node are active elsewhere; return the seconds that took, by hub."""
    return settles(lambda: fleet.taken_over(hit, span.began), within=LEASE_SECONDS + 60, every=1)


def all_there_again(fleet: Fleet) -> Owners:
    """Wait until each child of each hub has one active writer, on the recorded member."""
    return settles(fleet.owners, within=180, every=1)


def never_two(fleet: Fleet, hubs: Iterable[str] = STRATEGIES) -> None:
    """Assert that a file that checks epochs would refuse no row and take no rows of two active writers in turns."""
    for hub in hubs:
        wrong = {child_id: found for child_id, found in fleet.findings(hub).items() if found.double or found.stale}
        assert wrong == {}, hub


def stale_until(found: dict[str, Findings], span: Span, within: float) -> float:
    """Return the seconds from the fault's end to the last stale row, at most ``within``; 0 if there is none."""
    last = span.ended
    for child_id, findings in found.items():
        assert findings.double == [], child_id
        for row in findings.stale:
            assert span.began < row.time < span.ended + within, f"{child_id}: {row} of {span}"
            last = max(last, row.time)
    return last - span.ended


def test_children_of_a_killed_node_are_taken_over(fleet: Fleet, leaders_node: str, figure: Figure) -> None:
    fleet.create()
    hit = fleet.hit(leaders_node)

    with killed(hit.node) as span:
        took = take_over(fleet, span, hit)
    all_there_again(fleet)

    never_two(fleet)
    for hub, seconds in took.items():
        figure(
            "docker kill",
            hub,
            f"all active elsewhere after {seconds:.1f} s; none twice, {CHILDREN} of {CHILDREN} there",
        )


def test_children_of_a_node_that_is_paused_for_a_minute_are_taken_over(
    fleet: Fleet, leaders_node: str, figure: Figure
) -> None:
    fleet.create()
    hit = fleet.hit(leaders_node)

    with paused(hit.node) as span:
        took = take_over(fleet, span, hit)
        lasts(span, PAUSE_SECONDS)
    all_there_again(fleet)

    for hub, seconds in took.items():
        found = fleet.findings(hub)
        last = stale_until(found, span, within=RESUMED_SECONDS if hub in QUORATE else HEALED_SECONDS)
        stale = sum(len(findings.stale) for findings in found.values())
        said = f"all active elsewhere after {seconds:.1f} s; {stale} stale rows, the last {last:.2f} s after its end"
        figure(f"docker pause, {PAUSE_SECONDS} s", hub, said)


CUTS: dict[str, Callable[[Kube, str], list[str]]] = {
    "the API server": lambda kube, node: api_server(kube),
    "the API server and the other members": lambda kube, node: api_server(kube) + other_workers(kube, node),
}


@pytest.mark.parametrize("what", CUTS)
def test_children_of_a_node_that_is_cut_off_are_taken_over(
    fleet: Fleet, leaders_node: str, kube: Kube, figure: Figure, what: str
) -> None:
    fleet.create()
    hit = fleet.hit(leaders_node)

    with cut_off(hit.node, CUTS[what](kube, hit.node)) as span:
        took = take_over(fleet, span, hit)
        lasts(span, CUT_SECONDS)
    all_there_again(fleet)

    never_two(fleet, QUORATE)
    found = fleet.findings("divergence")
    last = stale_until(found, span, within=HEALED_SECONDS)
    twice = {child_id for child_id, findings in found.items() if findings.stale}
    assert twice == hit.lost["divergence"], (
        "with Divergence they run on while they are cut off, and only they run twice"
    )
    healed = f"{len(twice)} ran twice while cut off, the last until {last:.1f} s after its end"
    for hub, seconds in took.items():
        said = f"all active elsewhere after {seconds:.1f} s; {'none twice' if hub in QUORATE else healed}"
        figure(f"cut off from {what}, {CUT_SECONDS} s", hub, said)


def test_children_stay_on_a_node_that_is_cut_off_from_the_other_members(
    fleet: Fleet, leaders_node: str, kube: Kube, figure: Figure
) -> None:
    fleet.create()
    hit = fleet.hit(leaders_node)

    with cut_off(hit.node, other_workers(kube, hit.node)) as span:
        lasts(span, CUT_SECONDS)
        assert settles(fleet.owners) == hit.before, "no child is moved or restarted: the API server sees all members"
    assert all_there_again(fleet) == hit.before

    never_two(fleet)
    for hub in STRATEGIES:
        figure(f"cut off from the other members, {CUT_SECONDS} s", hub, "nothing moves, nothing restarts")


def test_children_of_a_drained_node_hand_their_state_over(
    fleet: Fleet, leaders_node: str, kube: Kube, figure: Figure
) -> None:
    fleet.create(migration={"strategy": "HotSwap"})
    hit = fleet.hit(leaders_node)
    asked = fleet.ask(leaders_node)
    settles(lambda: asked.rounds(least=3))
    began = clock()
    try:
        kube("drain", hit.node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=280s", timeout=290)
        drained = clock() - began
        after = all_there_again(fleet)
        over = len(asked.rounds())
        settles(lambda: asked.rounds(least=over + 3))
    finally:
        kube("uncordon", hit.node)
    rounds = asked.end()

    failures = [entry.first_failure for entry in rounds if entry.failed]
    assert failures == []
    never_two(fleet)
    for hub in STRATEGIES.keys() - {COPIES}:  # each copy has its own state
        forgot = {child_id: found.forgot for child_id, found in fleet.findings(hub).items() if found.forgot}
        assert forgot == {}, hub
    for hub, lost in hit.lost.items():
        assert all(after[hub][child_id].writer != hit.before[hub][child_id].writer for child_id in lost)
        said = f"{len(lost)} active ones moved; " + ("a copy was promoted" if hub == COPIES else "0 states lost")
        figure("kubectl drain, HotSwap", hub, said)
    requests = sum(entry.asked for entry in rounds)
    figure("kubectl drain, HotSwap", "all", f"drained after {drained:.0f} s; 0 of {requests} requests failed meanwhile")
