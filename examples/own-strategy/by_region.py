"""A user's own strategies, one of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from processhub.strategies import (
    Child,
    Distribution,
    Member,
    Migration,
    Move,
    Partition,
    Redundancy,
    Seen,
    Way,
)


class ByRegion(Distribution):
    """Places ids that begin with a to m on the first half of the members, all others on the second.

    A child never leaves its region; within it, members share children by a hash.
    """

    respects_load_cap = False  # a region may well have more children than the other

    def rank(self, child: Child, members: Sequence[Member]) -> list[str]:
        """The members of the child's region, best first. Raises ValueError for an id without a first letter."""
        if not child.id[0].isalpha():
            raise ValueError("an id begins with the letter of its region")
        half = (len(members) + 1) // 2
        region = members[:half] if child.id[0].lower() <= "m" else members[half:]
        return sorted((member.name for member in region), key=lambda name: crc32(f"{name} {child.id}".encode()))


class OneInThree(Redundancy):
    """Keeps one copy for every three members."""

    def copies(self, members: Sequence[Member]) -> int:
        """The number of copies, from the members that the hub is to have, whether they are ready or not."""
        return (len(members) + 2) // 3


class InRegion(Migration):
    """Takes state along, except for scratch work, which starts afresh. Children tagged ``busy`` stay for now."""

    def way(self, child: Child, move: Move) -> Way:
        """The mode of the move, by the child's tags. A busy child moves only if it must."""
        if "scratch" in child.tags:
            return Way.COLD
        return Way.LATER if "busy" in child.tags and move.by_choice else Way.HOT


class AllButOne(Partition):
    """Lets the hub survive the loss of one member."""

    def required(self, seen: Seen) -> int:
        """The number of required members, from those that the hub is to have."""
        return seen.wanted - 1
