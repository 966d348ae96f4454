"""The children that a plan leaves as they are, so that the next plan of the hub does not look at each of them again.

Nearly all children of a hub are on record as specified, on a member that takes children. Whether one is follows from
the child, its entry and the standing of its member. Two snapshots have the same objects for what has not changed, so
one comparison of all objects, which no line of Python takes part in, finds the few children to look at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from itertools import compress, filterfalse
from operator import is_not
from typing import TypeVar

from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import HubSnapshot

V = TypeVar("V")


class SteadyChildren:
    """The steady children of one hub, as the latest plan has found them. It makes plans faster, and never different."""

    def __init__(self) -> None:
        self._before: HubSnapshot | None = None
        self._others: Set[str] = frozenset()  # The children of that snapshot that are not steady.
        self._load: Counter[str] = Counter()  # By member, how many are.

    def forget(self) -> None:
        """Forget them all, so that the next plan looks at each child."""
        self._before = None

    def since(self, snapshot: HubSnapshot) -> tuple[Iterable[str], Counter[str]]:
        """The ids of the children to look at, in order, and the number of all others by member: these are steady."""
        before, children = self._before, snapshot.children
        if before is None or _standings(before) != _standings(snapshot):
            return children, Counter()
        found = _changed(before.children, children) | _changed(before.record, snapshot.record) | self._others
        found |= snapshot.claims.keys()
        load = self._load.copy()
        for child_id in found:
            if child_id in before.children and child_id not in self._others:
                load[before.record[child_id][0].member] -= 1
        return filter(found.__contains__, children), load

    def keep(self, snapshot: HubSnapshot, others: Set[str], load: Counter[str]) -> None:
        """Take what a plan has found: the children that are not steady, and by member the number of those that are."""
        self._before, self._others, self._load = snapshot, others, load


def _standings(snapshot: HubSnapshot) -> dict[str, tuple[Phase, bool]]:
    return {member.name: (member.phase, member.draining) for member in snapshot.members}


def _changed(before: Mapping[str, V], now: Mapping[str, V]) -> set[str]:
    """The keys that are new or gone, or have another object."""
    found = set(compress(now, map(is_not, now.values(), map(before.get, now))))
    if len(before) + sum(key not in before for key in found) > len(now):
        found.update(filterfalse(now.__contains__, before))
    return found
