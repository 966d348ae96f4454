"""Strategies of a user's own, one of each kind."""

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
    """Ids that begin with a to m on the first half of the members, all others on the second.

    A child never leaves its region; within it, members share children by a hash.
    """

    respects_load_cap = False  # a region may well have more children than the other

    def rank(self, child: Child, members: Sequence[Member]) -> list[str]:
        """The region's members. An id without a first letter belongs nowhere, which is a mistake of its author's."""
        if not child.id[0].isalpha():
            raise ValueError("an id begins with the letter of its region")
        half = (len(members) + 1) // 2
        region = members[:half] if child.id[0].lower() <= "m" else members[half:]
        return sorted((member.name for member in region), key=lambda name: crc32(f"{name} {child.id}".encode()))


class OneInThree(Redundancy):
    """A copy for every three members."""

    def copies(self, members: Sequence[Member]) -> int:
        """Of the members that the hub shall have, whether they are ready or not."""
        return (len(members) + 2) // 3


class InRegion(Migration):
    """State goes along, but for scratch work, which starts afresh; what is tagged ``busy`` is let be."""

    def way(self, child: Child, move: Move) -> Way:
        """By the child's tags; a busy one goes where it must."""
        if "scratch" in child.tags:
            return Way.COLD
        return Way.LATER if "busy" in child.tags and move.by_choice else Way.HOT


class AllButOne(Partition):
    """The hub bears the loss of one member."""

    def required(self, seen: Seen) -> int:
        """Of the members that the hub shall have."""
        return seen.wanted - 1
