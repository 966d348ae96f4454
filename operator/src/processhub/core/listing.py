"""Lists of names in sentences for people: the first ones, and how many more there are."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from itertools import islice

NAMED = 10  # a hub may have hundreds of members and thousands of children


def listed(names: Collection[str], most: int = NAMED) -> str:
    """The first ``most`` names in the order given, and how many are not named."""
    text = ", ".join(islice(names, most))
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


class MemberNames(frozenset[str]):
    """The members of a hub by name. Made once for all children: it costs as much as the hub has members."""

    @cached_property
    def some(self) -> str:
        """The first ones, and how many more there are; "" where there is none."""
        return listed(sorted(self))
