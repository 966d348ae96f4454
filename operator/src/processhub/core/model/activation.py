"""Views: which member may start which id by itself, and when the operator opens and closes them.

A view is a fixed set of members with their weights. While it is open, each id that is on no record belongs to one of
them, by the id and the view alone, and only that member may start it (docs/protocol.md, rules 26 to 33). The functions
are pure: the operator, the agents and the model check call the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Self

import msgspec
import xxhash

from processhub.api.slice import Activation

_WORD = 2**64 - 1
_NONE: Mapping[str, int] = {}


class ViewPhase(StrEnum):
    """What a member may do under a view: OPEN lets it start ids, CLOSING lets it start none."""

    OPEN = "Open"
    CLOSING = "Closing"


class View(msgspec.Struct, frozen=True):
    """A view: its number, the strategy, and the members in ordinal order (PerNode: by name) with their weights.

    ``number`` is taken from the epochs of the hub, so no view of a later leader has a lower one. ``workload`` is the
    hash of what is started. With Modulo a member that takes no children now is in it with weight 0, because the number
    of members decides.
    """

    number: int
    strategy: str
    members: tuple[tuple[str, int], ...]
    workload: str = ""

    @classmethod
    def ordered(cls, order: Activation, workload: str = "") -> Self:
        """The view that slice 0 of a member names."""
        return cls(order.view, order.strategy, tuple((known.name, known.weight) for known in order.members), workload)

    @property
    def starting(self) -> tuple[str, ...]:
        """The members that may start any id: those with a weight above 0."""
        return tuple(name for name, weight in self.members if weight > 0)

    def same_choice(self, other: View) -> bool:
        """Whether both views have each id started by the same member and in the same way."""
        return msgspec.structs.replace(self, number=other.number) == other


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What slice 0 of a member says about views, and what its member has proven.

    ``view`` is None where the slice says nothing, or somebody has deleted it. ``holder``: the Lease holder that the
    block of epochs was granted to. ``present``: the present holder of the Lease. ``answered``: the present holder has
    acknowledged slice 0 as it is, with a status that lists all that it has started by itself. ``gone``: the member is
    proven gone by a read of its Lease that was made after slice 0 was last written.
    """

    view: View | None = None
    phase: ViewPhase = ViewPhase.CLOSING
    holder: str = ""
    present: str = ""
    answered: bool = False
    gone: bool = False

    def is_of(self, view: View) -> bool:
        """Whether the slice names this view."""
        return self.view is not None and self.view.number == view.number

    def closes(self, view: View) -> bool:
        """Whether the slice says that this view closes."""
        return self.is_of(view) and self.phase is ViewPhase.CLOSING


class ViewStep(msgspec.Struct, frozen=True):
    """What the operator is to write into slice 0 of its members now, and what may be done meanwhile.

    ``current``: the view that is not closed yet, if any. ``open``: the view to open there. ``grant``: the members of
    ``open`` that get a new block of epochs. ``close``: the members whose slice 0 is to say that ``current`` closes.
    """

    current: View | None = None
    open: View | None = None
    grant: tuple[str, ...] = ()
    close: tuple[str, ...] = ()


def chosen_member(view: View, child_id: str) -> str:
    """The only member that may start the id by itself under this view; "" if the view has none."""
    if home := home_of(view, child_id):
        return home
    key = xxhash.xxh3_64_intdigest(child_id.encode())
    return max(((_score(key, name, weight), name) for name, weight in view.members if weight > 0), default=(0.0, ""))[1]


def home_of(view: View, child_id: str) -> str:
    """The member that Modulo has for the id by its number; "" with another strategy, or where that has weight 0."""
    if view.strategy != "Modulo" or not view.members:
        return ""
    is_number = child_id.isascii() and child_id.isdigit()
    number = int(child_id) if is_number else xxhash.xxh3_64_intdigest(child_id.encode())
    name, weight = view.members[number % len(view.members)]
    return name if weight > 0 else ""


def _score(key: int, member: str, weight: int) -> float:
    """The score of rendezvous hashing as in placement.scores, of one child. Agents do without numpy."""
    mixed = key ^ xxhash.xxh3_64_intdigest(member.encode())
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    mixed ^= mixed >> 31
    return -weight / math.log(((mixed >> 12) + 0.5) * 2.0**-52)


def current_view(standings: Mapping[str, Standing]) -> View | None:
    """The newest view that any slice 0 names."""
    views = [standing.view for standing in standings.values() if standing.view is not None]
    return max(views, key=lambda view: view.number, default=None)


def is_closed(view: View, standings: Mapping[str, Standing]) -> bool:
    """Whether no member can start anything under the view any more, and all that was started is known."""
    return all(_has_closed(view, standings.get(name)) for name, _ in view.members)


def _has_closed(view: View, standing: Standing | None) -> bool:
    if standing is None:
        return True  # it is gone: the operator deletes slice 0 of such members, and of no others
    return standing.closes(view) and (standing.answered or standing.gone)


def view_step(wanted: View | None, standings: Mapping[str, Standing], *, ready: bool) -> ViewStep:
    """What is to be written now, so that the view of ``wanted`` is open in the end.

    ``wanted``: the view that the hub should have, with the number that a new one gets; None if it should have none.
    ``ready``: whether an id that is on no record runs nowhere once no view is open: no write is unsettled, every
    removal is proven, and all that members have started by themselves has an entry.
    """
    current = current_view(standings)
    if current is not None and not is_closed(current, standings):
        if wanted is not None and wanted.same_choice(current) and not is_closing(current, standings):
            return ViewStep(current, current, grant=_to_be_granted(current, standings))
        return ViewStep(current, close=_to_be_closed(current, standings))
    if wanted is None or not ready:
        return ViewStep()
    return ViewStep(wanted, wanted, grant=tuple(name for name, _ in wanted.members if name in standings))


def is_closing(view: View, standings: Mapping[str, Standing]) -> bool:
    """Whether the slice of any member says that the view closes."""
    return any(standing.closes(view) for standing in standings.values())


def _to_be_granted(view: View, standings: Mapping[str, Standing]) -> tuple[str, ...]:
    """The members of an open view that have no block of epochs for the present holder of their Lease."""
    there = ((name, standings[name]) for name, _ in view.members if name in standings)
    return tuple(name for name, it in there if it.present and not (it.is_of(view) and it.holder == it.present))


def _to_be_closed(view: View, standings: Mapping[str, Standing]) -> tuple[str, ...]:
    """The members whose slice 0 does not say yet that the view closes."""
    return tuple(name for name, _ in view.members if name in standings and not standings[name].closes(view))


def shares(
    limit: int, counts: Mapping[str, int], members: Sequence[str], granted: Mapping[str, int] = _NONE
) -> dict[str, int]:
    """How many children on demand each member of a view may have. The sum over all members never exceeds ``limit``.

    ``counts``: how many each member of the hub has on record, whether it is in the view or not. A member keeps what it
    has. What is left is divided evenly, and the first members get one more. If they have more than ``limit``, the last
    shares are below what the member has, so that it starts none until enough have ended. ``granted``: the shares that
    members of the view have already. They stay, and the others get theirs of the rest.
    """
    others = [name for name in members if name not in granted]
    outside = sum(count for name, count in counts.items() if name not in granted and name not in others)
    room = max(0, limit - sum(granted.values()) - outside)
    left = room - sum(counts.get(name, 0) for name in others)
    if left < 0:
        found = {}
        for name in others:
            found[name] = min(room, counts.get(name, 0))
            room -= found[name]
        return found
    each, more = divmod(left, len(others)) if others else (0, 0)
    return {name: counts.get(name, 0) + each + (position < more) for position, name in enumerate(others)}
