"""Spreading the copies of one child: each copy in another zone and on another node, if possible."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from processhub.core.model.snapshot import MemberView


def spread(
    members: Mapping[str, MemberView],
    ranked: Sequence[str],
    among: set[str],
    count: int,
    must: Collection[str],
    beside: Collection[str] = (),
) -> list[str]:
    """The members for ``count`` copies out of ``among``: in ``ranked`` order, each in another zone and on another node.

    Members in ``must`` are chosen first. Members in ``beside`` have copies already. If every zone, or every node, has a
    copy, the rank alone decides. For example, with h-0 and h-1 in zone a and h-2 in zone b, ranked in this order, two
    copies go to h-0 and h-2.
    """
    chosen = [name for name in ranked if name in must]
    left = [name for name in ranked if name in among and name not in must]
    while left and len(chosen) < count:
        taken = [members[name] for name in (*chosen, *beside)]
        zones, nodes = {member.zone for member in taken} - {""}, {member.node for member in taken} - {""}
        name = min(left, key=lambda name: (members[name].zone in zones, members[name].node in nodes))
        left.remove(name)
        chosen.append(name)
    return chosen
