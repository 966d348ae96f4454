"""The built-in distribution strategies: which member a child goes to, and which children a joining member draws."""

from __future__ import annotations

from collections.abc import Mapping

from processhub.core.strategies.balancing import LeastLoaded, RoundRobin
from processhub.core.strategies.base import MemberSlot, PlacementView, Strategy
from processhub.core.strategies.hashing import ConsistentHashing, Local, Modulo, NotLocal

__all__ = ["BUILT_IN", "HASH", "LeastLoaded", "MemberSlot", "PlacementView", "Strategy", "strategy_of"]

HASH = ConsistentHashing()
# Guided children name their members, and ForEach places them on all. Any further decision follows the hash.
BUILT_IN: Mapping[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        HASH,
        ConsistentHashing("Guided"),
        ConsistentHashing("ForEach"),
        RoundRobin(),
        LeastLoaded(),
        Modulo(),
        Local(),
        NotLocal(),
    )
}


def strategy_of(name: str, more: Mapping[str, Strategy] | None = None) -> Strategy:
    """The strategy of this name, built-in or one of ``more``. Raises KeyError if there is none."""
    return BUILT_IN[name] if name in BUILT_IN else (more or {})[name]
