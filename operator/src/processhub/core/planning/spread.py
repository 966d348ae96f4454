"""Which members get the copies of one child: each copy in another zone and on another node, where there is one."""

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
    """The members for ``count`` copies, of ``among``: as ``ranked``, each in another zone and on another node.

    Those in ``must`` are chosen first; those in ``beside`` have copies already. Where every zone, or every node, has a
    copy, the rank alone decides.
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
