"""Which member a child belongs to: weighted rendezvous hashing, with a cap on the load.

Every member has a score for every child, and the child goes to the member with the highest score:

    child   h-0    h-1    h-2         after h-1 has left
    a       0.61   2.90   1.70   h-1  h-2
    b       3.20   0.75   1.10   h-0  h-0   (its best member is still there)

So only the children of a member that leaves move, and a member that joins takes children only from members with a lower
score.

Rendezvous (highest random weight) hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
1998; weights by the logarithm method: Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005. The cap
follows Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2018.

A child is hashed once (xxh3 of its id); a member's hash is mixed in by the finaliser of SplitMix64 (Steele, Lea and
Flood, 2014), so a score costs no hashing. Nothing depends on the process, its hash seed or the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Scores = NDArray[np.float64]

NOWHERE = -1  # the index that means "no member has room"


class Candidate(msgspec.Struct, frozen=True):
    """A member that may take children; ``weight`` 0 takes none. ``room`` limits how many more it may take."""

    name: str
    weight: int = 1
    room: int | None = None


def child_key(child_id: str) -> int:
    """The 64-bit hash of a child's id."""
    return xxhash.xxh3_64_intdigest(child_id.encode())


def scores(keys: Keys, member: str, weight: int = 1) -> Scores:
    """The scores of the children at ``member``; the member with the highest score gets the child. Shape (n,).

    Scores are above 0, except that a weight of 0 scores 0. Doubling a weight doubles the share.
    """
    if weight <= 0:
        return np.zeros(len(keys), dtype=np.float64)
    mixed = keys ^ np.uint64(xxhash.xxh3_64_intdigest(member.encode()))
    with np.errstate(over="ignore"):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    # 52 random bits, moved off both ends, are uniform in (0, 1). With 53 bits, the largest value would round to 1 and
    # score -inf.
    uniform = ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return np.asarray(-weight / np.log(uniform), dtype=np.float64)


def rank(child_id: str, members: Sequence[Candidate]) -> list[tuple[str, float]]:
    """``(member, score)`` of one child, best first. The first k do not depend on members that rank behind them."""
    keys = np.array([child_key(child_id)], dtype=np.uint64)
    drawn = [(member.name, float(scores(keys, member.name, member.weight)[0])) for member in members]
    return sorted(drawn, key=lambda pair: (-pair[1], pair[0]))


def best(keys: Keys, members: Sequence[Candidate]) -> NDArray[np.int64]:
    """The index of the highest-scoring member for each child, or NOWHERE if all weights are 0. Shape (n,)."""
    return place(keys, [Candidate(member.name, member.weight) for member in members])


def place(keys: Keys, members: Sequence[Candidate]) -> NDArray[np.int64]:
    """The index of each child's member, with no member above its room; NOWHERE if none has room. Shape (n,)."""
    room = [member.room if member.room is not None else len(keys) for member in members]
    return place_scored(
        np.arange(len(keys)),
        [member.name for member in members],
        [places if member.weight > 0 else 0 for places, member in zip(room, members, strict=True)],
        lambda rows, index: scores(keys[rows], members[index].name, members[index].weight),
    )


def place_scored(
    rows: NDArray[np.int64],
    names: Sequence[str],
    room: Sequence[int],
    score: Callable[[NDArray[np.int64], int], Scores],
) -> NDArray[np.int64]:
    """The index of each row's member, with no member above its room; NOWHERE if none has room. Shape (n,).

    ``score(rows, index)`` returns the scores of these rows at one member; a score of 0 excludes the member. If a member
    is full, it keeps the rows that score highest there. The others go to their next best member that has room.
    """
    chosen = np.full(len(rows), NOWHERE, dtype=np.int64)
    left = list(room)
    waiting = np.arange(len(rows))
    # Ordered by name, so that a tie (one in 2**52) does not depend on the order of members.
    order = sorted(range(len(names)), key=lambda index: names[index])
    while len(waiting):
        open_members = [index for index in order if left[index] > 0]
        picked = np.full(len(waiting), NOWHERE, dtype=np.int64)
        top = np.zeros(len(waiting), dtype=np.float64)
        for index in open_members:
            drawn = score(rows[waiting], index)
            better = drawn > top
            picked[better] = index
            top[better] = drawn[better]
        left_over = []
        for index in open_members:
            here = np.flatnonzero(picked == index)
            mine = waiting[here]
            if len(mine) > left[index]:
                strongest = np.argsort(-top[here], kind="stable")
                left_over.append(mine[strongest[left[index] :]])
                mine = mine[strongest[: left[index]]]
            chosen[mine] = index
            left[index] -= len(mine)
        waiting = np.sort(np.concatenate(left_over)) if left_over else np.empty(0, dtype=np.int64)
    return chosen


def load_caps(total: int, weights: Mapping[str, int], cap_percent: int) -> dict[str, int]:
    """The most children each member may have at a placement: its share of ``total`` × the cap, rounded up.

    For example, 10 children, weights 1 and 3 and a cap of 125 percent give 4 and 10.
    """
    sum_of_weights = sum(weights.values())
    if sum_of_weights <= 0:
        return dict.fromkeys(weights, 0)
    return {
        name: ceil(total * weight * cap_percent / (100 * sum_of_weights)) if weight > 0 else 0
        for name, weight in weights.items()
    }
