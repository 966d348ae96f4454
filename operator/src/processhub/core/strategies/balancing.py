"""Strategies that keep members level: RoundRobin by turns, LeastLoaded by what the members report."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np

from processhub.core.model.placement import NOWHERE, Scores
from processhub.core.model.snapshot import DesiredChild
from processhub.core.strategies.base import Indices, MemberSlot, Placed, PlacementView, Strategy

Height = Callable[[int, int], float]  # how full the seat of this index is with so many children


class RoundRobin(Strategy):
    """In order of arrival, each to the member after the one with the newest child; after a loss by the hash."""

    name = "RoundRobin"
    hash_after_loss = True
    by_turns = True
    levels = True

    def place(self, children: Sequence[DesiredChild], scene: PlacementView) -> Indices:
        """By turns over the seats with room under the cap, then over those with space."""
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        seats = scene.seats
        turn = next((index + 1 for index, seat in enumerate(seats) if seat.name == scene.last), 0)
        taken = [0] * len(seats)
        for position in range(len(children)):
            for room in (_room, _space):
                ahead = ((turn + step) % len(seats) for step in range(len(seats)))
                index = next((index for index in ahead if taken[index] < room(seats[index])), NOWHERE)
                if index != NOWHERE:
                    break
            if index == NOWHERE:
                break
            chosen[position] = index
            taken[index] += 1
            turn = index + 1
        return chosen

    def queue(self, scene: PlacementView) -> list[str]:
        """From the one whose turn it is."""
        names = [seat.name for seat in scene.seats]
        turn = names.index(scene.last) + 1 if scene.last in names else 0
        return [*names[turn:], *names[:turn]]

    def draw(self, placed: Placed, joiners: Sequence[str], scene: PlacementView) -> tuple[Indices, Scores]:
        """From the fullest, until each joiner has its share by weight."""
        seats = scene.seats
        return _level(placed, joiners, scene, lambda index, count: _per_weight(count, seats[index]))


class LeastLoaded(Strategy):
    """To the member with the lowest load; moves when a member joins, and where loads differ much for long.

    A member's load is the sum of its shares of the hub's children, CPU and memory (that of the children's processes),
    over its weight. CPU counts where the hub uses a tenth of a core a member, memory where it uses 32 MiB. A share is
    reckoned for the children that the member has now, from what it reported for those that it had then: one that left
    took the mean of its member with it, one that came adds the hub's mean.
    """

    name = "LeastLoaded"
    levels = True
    THRESHOLD = 0.25  # of the mean load: what the fullest and the emptiest may differ by

    def place(self, children: Sequence[DesiredChild], scene: PlacementView) -> Indices:
        """One after the other, each counted with those before it."""
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        height = loads(scene)
        added = [0] * len(scene.seats)
        position = 0
        for room in (_room, _space):
            heap = [
                (height(index, seat.children + added[index] + 1), index)
                for index, seat in enumerate(scene.seats)
                if added[index] < room(seat)
            ]
            heapq.heapify(heap)
            while position < len(children) and heap:
                index = heap[0][1]
                seat = scene.seats[index]
                chosen[position] = index
                position += 1
                added[index] += 1
                if added[index] < room(seat):
                    heapq.heapreplace(heap, (height(index, seat.children + added[index] + 1), index))
                else:
                    heapq.heappop(heap)
        return chosen

    def draw(self, placed: Placed, joiners: Sequence[str], scene: PlacementView) -> tuple[Indices, Scores]:
        """From the most loaded, as long as that stays the more loaded of the two."""
        return _level(placed, joiners, scene, loads(scene))

    def queue(self, scene: PlacementView) -> list[str]:
        """The least loaded first."""
        height, seats = loads(scene), scene.seats
        order = sorted(range(len(seats)), key=lambda index: (height(index, seats[index].children + 1), index))
        return [seats[index].name for index in order]

    def imbalance(self, scene: PlacementView) -> tuple[str, str] | None:
        """The most and the least loaded member where they differ by more than the threshold and a move would help."""
        height = loads(scene)
        open_seats = [(index, seat) for index, seat in enumerate(scene.seats) if seat.open and seat.weight > 0]
        if len(open_seats) < 2:
            return None
        heights = {index: height(index, seat.children) for index, seat in open_seats}
        fullest = max(heights, key=lambda index: (heights[index], -index))
        emptiest = min(heights, key=lambda index: (heights[index], index))
        mean = sum(heights.values()) / len(heights)
        giver, taker = scene.seats[fullest], scene.seats[emptiest]
        if heights[fullest] - heights[emptiest] <= self.THRESHOLD * mean or not giver.children or not taker.space:
            return None
        if height(fullest, giver.children - 1) < height(emptiest, taker.children + 1):
            return None  # one child would turn it round
        return giver.name, taker.name


def loads(scene: PlacementView) -> Height:
    """LeastLoaded's height of each seat, for any number of children on it."""
    seats = scene.seats
    reports = [(index, seat.usage) for index, seat in enumerate(seats) if seat.usage is not None]
    total = max(1, sum(seat.children for seat in seats))
    figures = []
    reported = sum(usage.children for _, usage in reports)
    for least, values in (
        (100, {index: usage.cpu for index, usage in reports}),
        (32, {index: usage.memory for index, usage in reports}),
    ):
        whole = sum(values.values())
        if reported and whole >= least * len(reports):
            figures.append((values, whole, whole / reported))
    then = {index: usage.children for index, usage in reports}

    def height(index: int, count: int) -> float:
        seat = seats[index]
        if seat.weight <= 0:
            return math.inf
        sum_of_shares = count / total
        had = then.get(index, 0)
        for values, whole, mean in figures:
            kept = min(1.0, count / had) if had else 0.0
            sum_of_shares += (values.get(index, 0) * kept + max(0, count - had) * mean) / whole
        return sum_of_shares / seat.weight

    return height


def _level(placed: Placed, joiners: Sequence[str], scene: PlacementView, height: Height) -> tuple[Indices, Scores]:
    """Child by child from the fullest seat to the emptiest joiner, as long as the first stays the fuller of the two."""
    chosen = np.full(len(placed), NOWHERE, dtype=np.int64)
    drawn = np.zeros(len(placed), dtype=np.float64)
    seats = scene.seats
    index_of = {seat.name: index for index, seat in enumerate(seats)}
    counts = [seat.children for seat in seats]
    came = [0] * len(seats)
    given: dict[int, list[int]] = {}
    for position in sorted(range(len(placed)), key=lambda position: placed[position][0].key):
        given.setdefault(index_of[placed[position][1]], []).append(position)
    number_of = {index_of[name]: number for number, name in enumerate(joiners)}
    givers = [(-height(index, counts[index] - 1), index, counts[index]) for index in given]
    takers = [
        (height(index, counts[index] + 1), index, counts[index])
        for index in number_of
        if seats[index].weight > 0 and seats[index].space > 0
    ]
    heapq.heapify(givers)
    heapq.heapify(takers)
    step = len(placed)
    while givers and takers:
        below, giver, seen = givers[0]
        if not given[giver]:
            heapq.heappop(givers)
            continue
        if seen != counts[giver]:
            heapq.heapreplace(givers, (-height(giver, counts[giver] - 1), giver, counts[giver]))
            continue
        above, taker, seen = takers[0]
        if came[taker] >= seats[taker].space:
            heapq.heappop(takers)
            continue
        if seen != counts[taker]:
            heapq.heapreplace(takers, (height(taker, counts[taker] + 1), taker, counts[taker]))
            continue
        if giver == taker or -below < above:
            break
        position = given[giver].pop()
        chosen[position] = number_of[taker]
        drawn[position] = step  # the first that is to go is drawn the most
        step -= 1
        counts[giver] -= 1
        counts[taker] += 1
        came[taker] += 1
    return chosen, drawn


def _room(seat: MemberSlot) -> int:
    return seat.room if seat.weight > 0 else 0


def _space(seat: MemberSlot) -> int:
    return seat.space if seat.weight > 0 else 0


def _per_weight(count: int, seat: MemberSlot) -> float:
    return count / seat.weight if seat.weight > 0 else math.inf
