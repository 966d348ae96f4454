"""Hubs that keep several copies of a child: how many, which of them are active, and users who change that."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from memoryapi import Json

from .naming import HUB, members_of, taking

if TYPE_CHECKING:
    from .hands import Act, Hands
    from .world import World

_ONE: Json = {"strategy": "Singularity"}


def shares_work(seed: int) -> bool:
    """Whether the hub of this seed begins with several copies of each child that are all active."""
    return seed % 13 == 4


def sharing(spec: Json, rng: Random) -> None:
    """Let the hub of this spec keep copies that are all active: so many, or one on each member."""
    if rng.random() < 0.5:
        spec["redundancy"] = _replication("ActiveActive", rng)
    else:
        spec.pop("redundancy", None)
        spec["distribution"] = {"strategy": "ForEach"}
    spec["migration"].pop("strategy", None)


def _replication(model: str, rng: Random) -> Json:
    factor = rng.choice((2, 2, 3, "ClusterSize"))
    return {"strategy": "Replication", "replicationFactor": factor, "replicationModel": model}


def _is_on_each(hub: Json) -> bool:
    strategy: str = hub["spec"]["distribution"]["strategy"]
    return strategy == "ForEach"


def keeps_copies(hub: Json) -> bool:
    """Whether the hub may keep more than one copy of a child."""
    return hub["spec"].get("redundancy", _ONE)["strategy"] == "Replication" or _is_on_each(hub)


def all_active(hub: Json) -> bool:
    """Whether all copies of a child are active."""
    redundancy = hub["spec"].get("redundancy", _ONE)
    one = redundancy["strategy"] == "Replication" and redundancy.get("replicationModel") == "ActivePassive"
    return keeps_copies(hub) and not one


def factor_of(hub: Json) -> int:
    """How many copies the hub keeps of a child where there are enough members."""
    redundancy = hub["spec"].get("redundancy", _ONE)
    factor = redundancy.get("replicationFactor", 2) if redundancy["strategy"] == "Replication" else 1
    return len(members_of(hub)) if factor == "ClusterSize" or _is_on_each(hub) else int(factor)


def copies_of(hub: Json) -> int:
    """How many copies the hub keeps of a child on the members that take children now."""
    return max(1, min(factor_of(hub), len(taking(hub))))


class CopyHands:
    """Users who change which copies of a child are active, or let all members have one."""

    def __init__(self, hands: Hands, world: World, seed: int) -> None:
        self._hands, self._world, self.present = hands, world, shares_work(seed)

    def acts(self) -> tuple[Act, ...]:
        """The acts, with their weights."""
        return ((3, self._change), (2, self._place_on_each)) if self.present else ()

    def _change(self) -> None:
        rng = self._hands.rng
        kept = _replication(rng.choice(("ActiveActive", "ActiveActive", "ActivePassive")), rng)
        self._edit({"redundancy": rng.choice((kept, kept, _ONE))})

    def _place_on_each(self) -> None:
        strategy = self._hands.rng.choice(("ForEach", "ForEach", "ConsistentHashing", "LeastLoaded"))
        self._edit({"distribution": {"strategy": strategy}})

    def _edit(self, spec: Json) -> None:
        self._world.edit(HUB, {"spec": spec})
