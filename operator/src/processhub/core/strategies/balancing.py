"""Strategies that balance members: RoundRobin takes turns, LeastLoaded uses the loads that the members report."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np

from processhub.core.model.placement import NOWHERE, Scores
from processhub.core.model.snapshot import DesiredChild
from processhub.core.strategies.base import Indices, MemberSlot, Placed, PlacementView, Strategy

Height = Callable[[int, int], float]  # (index of a member, its number of children) → how full the member is then


class RoundRobin(Strategy):
    """RoundRobin: each child goes to the member after the one with the newest child; after a loss, the hash decides."""

    name = "RoundRobin"
    hash_after_loss = True
    by_turns = True
    balances = True

    def place(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """Choose members in turn: first those with room under the load cap, then those with space."""
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        slots = view.slots
        turn = next((index + 1 for index, slot in enumerate(slots) if slot.name == view.last), 0)
        taken = [0] * len(slots)
        for position in range(len(children)):
            for room in (_room, _space):
                ahead = ((turn + step) % len(slots) for step in range(len(slots)))
                index = next((index for index in ahead if taken[index] < room(slots[index])), NOWHERE)
                if index != NOWHERE:
                    break
            if index == NOWHERE:
                break
            chosen[position] = index
            taken[index] += 1
            turn = index + 1
        return chosen

    def queue(self, view: PlacementView) -> list[str]:
        """The members in turn, beginning with the next one."""
        names = [slot.name for slot in view.slots]
        turn = names.index(view.last) + 1 if view.last in names else 0
        return [*names[turn:], *names[:turn]]

    def draw(self, placed: Placed, joiners: Sequence[str], view: PlacementView) -> tuple[Indices, Scores]:
        """Draw children of the fullest members, until each joining member has its share by weight."""
        slots = view.slots
        return _balance(placed, joiners, view, lambda index, count: _per_weight(count, slots[index]))


class LeastLoaded(Strategy):
    """Each child goes to the least loaded member. Children move when a member joins, or when loads differ for long.

    A member's load is the sum of its shares of the hub's children, CPU and memory (as used by the children's
    processes), divided by its weight. CPU is considered if the hub uses at least a tenth of a core for each member,
    memory if it uses at least 32 MiB for each. The shares are computed for the present children from the last report: a
    child that left is subtracted at its member's mean, a child that came is added at the hub's mean.

    For example, with equal weights and 10 children in the hub:

        member   children   CPU           memory        load
        h-0      4 of 10    3 of 4 cores  1 of 2 GiB    0.40 + 0.75 + 0.50 = 1.65
        h-1      6 of 10    1 of 4 cores  1 of 2 GiB    0.60 + 0.25 + 0.50 = 1.35

    The next child goes to h-1, although h-1 has more children.
    """

    name = "LeastLoaded"
    balances = True
    by_usage = True
    # The difference between the fullest and the emptiest member that is tolerated, as a part of the mean load.
    THRESHOLD = 0.25

    def place(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """Choose the least loaded member for each child in turn, counting the children placed before it."""
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        height = loads(view)
        added = [0] * len(view.slots)
        position = 0
        for room in (_room, _space):
            heap = [
                (height(index, slot.children + added[index] + 1), index)
                for index, slot in enumerate(view.slots)
                if added[index] < room(slot)
            ]
            heapq.heapify(heap)
            while position < len(children) and heap:
                index = heap[0][1]
                slot = view.slots[index]
                chosen[position] = index
                position += 1
                added[index] += 1
                if added[index] < room(slot):
                    heapq.heapreplace(heap, (height(index, slot.children + added[index] + 1), index))
                else:
                    heapq.heappop(heap)
        return chosen

    def draw(self, placed: Placed, joiners: Sequence[str], view: PlacementView) -> tuple[Indices, Scores]:
        """Draw children of the most loaded members, each as long as its member stays the more loaded of the two."""
        return _balance(placed, joiners, view, loads(view))

    def queue(self, view: PlacementView) -> list[str]:
        """The members, the least loaded first."""
        height, slots = loads(view), view.slots
        order = sorted(range(len(slots)), key=lambda index: (height(index, slots[index].children + 1), index))
        return [slots[index].name for index in order]

    def imbalance(self, view: PlacementView) -> tuple[str, str] | None:
        """The most and the least loaded member, if they differ by more than the threshold and a move would help."""
        height = loads(view)
        open_slots = [(index, slot) for index, slot in enumerate(view.slots) if slot.open and slot.weight > 0]
        if len(open_slots) < 2:
            return None
        heights = {index: height(index, slot.children) for index, slot in open_slots}
        fullest = max(heights, key=lambda index: (heights[index], -index))
        emptiest = min(heights, key=lambda index: (heights[index], index))
        mean = sum(heights.values()) / len(heights)
        source, target = view.slots[fullest], view.slots[emptiest]
        if heights[fullest] - heights[emptiest] <= self.THRESHOLD * mean or not source.children or not target.space:
            return None
        if height(fullest, source.children - 1) < height(emptiest, target.children + 1):
            return None  # moving one child would reverse the imbalance
        return source.name, target.name


def loads(view: PlacementView) -> Height:
    """The load of each member by LeastLoaded, for any number of children on it."""
    slots = view.slots
    reports = [(index, slot.usage) for index, slot in enumerate(slots) if slot.usage is not None]
    total = max(1, sum(slot.children for slot in slots))
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
        slot = slots[index]
        if slot.weight <= 0:
            return math.inf
        sum_of_shares = count / total
        had = then.get(index, 0)
        for values, whole, mean in figures:
            kept = min(1.0, count / had) if had else 0.0
            sum_of_shares += (values.get(index, 0) * kept + max(0, count - had) * mean) / whole
        return sum_of_shares / slot.weight

    return height


def _balance(placed: Placed, joiners: Sequence[str], view: PlacementView, height: Height) -> tuple[Indices, Scores]:
    """Choose children of the fullest members for the emptiest joiners, while the former stay the fuller ones."""
    chosen = np.full(len(placed), NOWHERE, dtype=np.int64)
    drawn = np.zeros(len(placed), dtype=np.float64)
    slots = view.slots
    index_of = {slot.name: index for index, slot in enumerate(slots)}
    counts = [slot.children for slot in slots]
    came = [0] * len(slots)
    given: dict[int, list[int]] = {}
    for position in sorted(range(len(placed)), key=lambda position: placed[position][0].key):
        given.setdefault(index_of[placed[position][1]], []).append(position)
    number_of = {index_of[name]: number for number, name in enumerate(joiners)}
    sources = [(-height(index, counts[index] - 1), index, counts[index]) for index in given]
    targets = [
        (height(index, counts[index] + 1), index, counts[index])
        for index in number_of
        if slots[index].weight > 0 and slots[index].space > 0
    ]
    heapq.heapify(sources)
    heapq.heapify(targets)
    step = len(placed)
    while sources and targets:
        below, source, seen = sources[0]
        if not given[source]:
            heapq.heappop(sources)
            continue
        if seen != counts[source]:
            heapq.heapreplace(sources, (-height(source, counts[source] - 1), source, counts[source]))
            continue
        above, target, seen = targets[0]
        if came[target] >= slots[target].space:
            heapq.heappop(targets)
            continue
        if seen != counts[target]:
            heapq.heapreplace(targets, (height(target, counts[target] + 1), target, counts[target]))
            continue
        if source == target or -below < above:
            break
        position = given[source].pop()
        chosen[position] = number_of[target]
        drawn[position] = step  # the first to go has the highest score
        step -= 1
        counts[source] -= 1
        counts[target] += 1
        came[target] += 1
    return chosen, drawn


def _room(slot: MemberSlot) -> int:
    return slot.room if slot.weight > 0 else 0


def _space(slot: MemberSlot) -> int:
    return slot.space if slot.weight > 0 else 0


def _per_weight(count: int, slot: MemberSlot) -> float:
    return count / slot.weight if slot.weight > 0 else math.inf
