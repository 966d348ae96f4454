"""The names of a hub's members, for a question about many children and for the sentence that answers it."""

from __future__ import annotations

from functools import cached_property

_NAMED = 10  # members: a hub may have hundreds


class MemberNames(frozenset[str]):
    """The members of a hub by name. Made once for all children: it costs as much as the hub has members."""

    @cached_property
    def some(self) -> str:
        """The first ones, and how many more there are; "" where there is none."""
        there = sorted(self)
        more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
        return ", ".join(there[:_NAMED]) + more
