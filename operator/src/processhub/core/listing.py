"""Lists of names in messages: the first names, and the number of the others; and numbers of things."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from itertools import islice

NAMED = 10  # names in a message; a hub may have hundreds of members and thousands of children


def listed(names: Collection[str], most: int = NAMED) -> str:
    """The first ``most`` names in the given order, and how many others there are."""
    text = ", ".join(islice(names, most))
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def counted(number: int, one: str, many: str, of: str = "") -> str:
    """The number, and the words for one or for several: ``1 child is``, ``3 children are``, ``1 of 3 children is``."""
    return f"{number}{of and f' of {of}'} {one if number == 1 else many}"


def by_reason(reasons: Mapping[str, str]) -> str:
    """Names with their reasons, those with the same reason together: ``a, b (pinned); c (guided)``."""
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why, []).append(name)
    return "; ".join(f"{listed(names)} ({why})" for why, names in groups.items())


class MemberNames(frozenset[str]):
    """The names of a hub's members. They are made once for all children, because a large hub has many."""

    @cached_property
    def some(self) -> str:
        """The first names, and how many others there are; "" if there are none."""
        return listed(sorted(self))
