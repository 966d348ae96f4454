"""Rendezvous placement: even, weighted, capped, reproducible, with few moves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from planned_hub import child_keys

from processhub.core.model.placement import (
    NOWHERE,
    Candidate,
    best,
    child_key,
    load_caps,
    place,
    rank,
    scores,
)

IDS = [f"tenant/{number}" for number in range(20_000)]
KEYS = child_keys(IDS)
_MASK = 2**64 - 1

names = st.lists(st.text("abcdefgh-0123456789", min_size=1, max_size=12), min_size=1, max_size=8, unique=True)
ids = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=60, unique=True)


def placed(members: list[Candidate], keys: np.ndarray = KEYS) -> list[str]:
    return [members[index].name for index in place(keys, members).tolist()]


def of(count: int, **weights: int) -> list[Candidate]:
    return [Candidate(f"hub-{number}", weights.get(f"hub_{number}", 1)) for number in range(count)]


def key_that_mixes_to(mixed: int, member: str) -> int:
    """Return the child key for which the SplitMix64 finaliser gives ``mixed`` at ``member``, by its inverse."""
    mixed ^= (mixed >> 31) ^ (mixed >> 62)
    mixed = mixed * pow(0x94D049BB133111EB, -1, 2**64) & _MASK
    mixed ^= (mixed >> 27) ^ (mixed >> 54)
    mixed = mixed * pow(0xBF58476D1CE4E5B9, -1, 2**64) & _MASK
    mixed ^= (mixed >> 30) ^ (mixed >> 60)
    return mixed ^ xxhash.xxh3_64_intdigest(member.encode())


@pytest.mark.parametrize(("members", "limit"), [(3, 1.03), (10, 1.08), (50, 1.25)])
def test_children_spread_evenly(members: int, limit: float) -> None:
    counts = Counter(placed(of(members)))

    assert len(counts) == members
    assert max(counts.values()) / (len(IDS) / members) < limit


def test_members_get_shares_of_the_children_by_weight() -> None:
    counts = Counter(placed(of(4, hub_0=3, hub_1=2)))

    shares = {name: count / len(IDS) for name, count in counts.items()}
    assert shares["hub-0"] == pytest.approx(3 / 7, abs=0.015)
    assert shares["hub-1"] == pytest.approx(2 / 7, abs=0.015)
    assert shares["hub-2"] == pytest.approx(1 / 7, abs=0.015)


def test_a_member_of_weight_zero_gets_no_child() -> None:
    counts = Counter(placed(of(3, hub_1=0)))

    assert set(counts) == {"hub-0", "hub-2"}


def test_with_only_zero_weights_no_child_is_placed() -> None:
    members = of(2, hub_0=0, hub_1=0)

    assert set(best(KEYS[:10], members).tolist()) == {NOWHERE}
    assert set(place(KEYS[:10], members).tolist()) == {NOWHERE}


def test_a_join_moves_only_the_new_members_share() -> None:
    before = placed(of(4))

    after = placed(of(5))

    moved = [(source, target) for source, target in zip(before, after, strict=True) if source != target]
    assert {target for _, target in moved} == {"hub-4"}
    assert len(moved) / len(IDS) == pytest.approx(1 / 5, abs=0.01)


def test_a_leave_moves_only_the_lost_members_children() -> None:
    before = placed(of(5))

    after = placed([member for member in of(5) if member.name != "hub-2"])

    moved = [source for source, target in zip(before, after, strict=True) if source != target]
    assert set(moved) == {"hub-2"}
    assert len(moved) == before.count("hub-2")


def test_a_raised_weight_moves_children_only_onto_that_member() -> None:
    before = placed(of(4))

    after = placed(of(4, hub_1=2))

    moved_to = {target for source, target in zip(before, after, strict=True) if source != target}
    assert moved_to == {"hub-1"}


@given(ids, names)
def test_the_order_of_members_and_children_does_not_matter(children: list[str], members: list[str]) -> None:
    forward = [Candidate(name) for name in members]
    backward = forward[::-1]

    one = best(child_keys(children), forward)
    other = best(child_keys(children[::-1]), backward)[::-1]

    assert [forward[index].name for index in one] == [backward[index].name for index in other]


@given(st.text(min_size=1), names)
def test_the_rank_starts_with_the_best_and_a_new_last_member_does_not_change_it(
    child_id: str, members: list[str]
) -> None:
    candidates = [Candidate(name) for name in members]

    ranking = [name for name, _ in rank(child_id, candidates)]

    assert ranking[0] == candidates[int(best(child_keys([child_id]), candidates)[0])].name
    without_last = [candidate for candidate in candidates if candidate.name != ranking[-1]]
    assert [name for name, _ in rank(child_id, without_last)] == ranking[:-1]


@given(ids, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=6))
def test_no_member_gets_more_than_its_room_and_none_waits_while_there_is_room(
    children: list[str], members: list[tuple[int, int]]
) -> None:
    candidates = [Candidate(f"m{number}", weight, room) for number, (weight, room) in enumerate(members)]

    chosen = Counter(place(child_keys(children), candidates).tolist())

    total_room = sum(room for weight, room in members if weight)
    assert all(chosen[index] <= room for index, (_, room) in enumerate(members))
    assert all(chosen[index] == 0 for index, (weight, _) in enumerate(members) if weight == 0)
    assert chosen[NOWHERE] == max(0, len(children) - total_room)


def test_a_full_member_keeps_the_children_with_the_highest_scores() -> None:
    members = [Candidate("a", room=100), Candidate("b")]
    keys = KEYS[:1000]

    chosen = place(keys, members)

    drawn = scores(keys, "a")
    wanting = np.flatnonzero(best(keys, [Candidate("a"), Candidate("b")]) == 0)
    kept = np.flatnonzero(chosen == 0)
    assert set(kept) <= set(wanting)
    assert drawn[kept].min() > drawn[np.setdiff1d(wanting, kept)].max()


def test_a_child_of_a_full_member_is_placed_on_its_next_best() -> None:
    members = [Candidate("a", room=0), Candidate("b"), Candidate("c")]

    chosen = place(KEYS[:500], members)

    expected = best(KEYS[:500], members[1:]) + 1
    assert chosen.tolist() == expected.tolist()


@given(st.integers(0, 100_000), st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.integers(100, 1000))
def test_the_caps_leave_room_for_all_children(total: int, weights: list[int], percent: int) -> None:
    named = {f"m{number}": weight for number, weight in enumerate(weights)}

    caps = load_caps(total, named, percent)

    assert caps.keys() == named.keys()
    assert all(caps[name] == 0 for name, weight in named.items() if weight == 0)
    if any(weights):
        assert sum(caps.values()) >= total
        share = {name: total * weight / sum(weights) for name, weight in named.items()}
        assert all(caps[name] <= share[name] * percent / 100 + 1 for name in named)


def test_the_cap_of_an_even_share_is_exact() -> None:
    assert load_caps(300, {"a": 1, "b": 1, "c": 1}, 100) == {"a": 100, "b": 100, "c": 100}
    assert load_caps(301, {"a": 1, "b": 1, "c": 1}, 125) == {"a": 126, "b": 126, "c": 126}
    assert load_caps(8, {"a": 3, "b": 1}, 100) == {"a": 6, "b": 2}


@pytest.mark.parametrize("mixed", [0, 1, 2**63, _MASK - 2**11, _MASK])
def test_a_score_is_finite_and_above_zero_at_both_ends_of_the_hash(mixed: int) -> None:
    keys = np.array([key_that_mixes_to(mixed, "hub-0")], dtype=np.uint64)

    drawn = scores(keys, "hub-0")

    assert np.isfinite(drawn).all()
    assert (drawn > 0).all()


_IN_A_PROCESS = """
import json, sys
import numpy as np
from processhub.core.model.placement import Candidate, child_key, place, scores
members = [Candidate(name, weight, 450) for name, weight in {("hub-0", 1), ("hub-1", 2), ("hub-2", 1), ("hub-3", 1)}]
keys = np.array([child_key(f"id-{n}") for n in range(1500)], dtype=np.uint64)
chosen = [members[i].name if i >= 0 else None for i in place(keys, members).tolist()]
json.dump([chosen, [score.hex() for score in scores(keys[:50], "hub-1", 2).tolist()]], sys.stdout)
"""


def test_placement_is_the_same_in_every_process_and_with_every_hash_seed() -> None:
    answers = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", _IN_A_PROCESS], env=environment, capture_output=True, check=True, timeout=60
        )
        answers.append(json.loads(done.stdout))

    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0][0])) == 4


def test_the_hash_is_pinned() -> None:
    """A changed hash would move nearly every child of every hub at the next join."""
    assert child_key("tenant/42") == xxhash.xxh3_64_intdigest(b"tenant/42")
    assert [name for name, _ in rank("tenant/42", of(5))] == ["hub-2", "hub-3", "hub-1", "hub-4", "hub-0"]
