"""Users who change the quorum strategy to and from MajorityQuorum, and who reset the quorum."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from memoryapi import Json

from processhub.api.naming import ANNOTATION_QUORUM_RESET
from processhub.api.reasons import Reason

from .naming import HUB
from .world import World

if TYPE_CHECKING:
    from .hands import Act, Hands

_LOOK_SECONDS = 10.0
_LOOKS = 15  # shorter than the time in which the hub is to be at rest


class QuorumHands:
    """These users. Only a hub that began without fencing may lose it."""

    def __init__(self, hands: Hands, world: World, seed: int) -> None:
        self._hands, self._world, self._resets, self.present = hands, world, 0, seed % 13 == 12
        self._fenced = world.server.objects[HUB]["spec"]["partitionTolerance"]["strategy"] != "Divergence"

    def acts(self) -> tuple[Act, ...]:
        """The acts, with their weights."""
        return ((3, self._change), (2, self._reset), (2, self._change_and_reset)) if self.present else ()

    def mend(self) -> None:
        """From now on, reset the quorum where those that are live for good are too few for what it remembers."""
        if self.present:
            self._world.loop.apart(self._keep_quorate())

    async def _keep_quorate(self) -> None:
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_SECONDS)
            hub = self._world.server.objects.get(HUB)
            conditions = hub.get("status", {}).get("conditions", ()) if hub is not None else ()
            if any(each["type"] == "Quorate" and each["reason"] == Reason.PARTITIONED for each in conditions):
                self._reset()

    def _change(self) -> None:
        quorums: tuple[Json, ...] = (
            {"strategy": "MajorityQuorum"},
            {"strategy": "MajorityQuorum"},
            {"strategy": "StaticQuorum", "quorumSize": 2},
            {"strategy": "DynamicQuorum", "thresholdSeconds": 20},
            *(() if self._fenced else ({"strategy": "Divergence"},)),
        )
        hub = self._world.server.objects.get(HUB)
        local = hub is not None and (hub["spec"].get("onDemand") or {}).get("onOwnerLost") == "Local"
        if not local:  # that needs Divergence
            self._world.edit(HUB, {"spec": {"partitionTolerance": self._hands.rng.choice(quorums)}})

    def _reset(self) -> None:
        """Reset the quorum, as ``kubectl hub quorum reset`` does."""
        self._resets += 1
        order = {ANNOTATION_QUORUM_RESET: f"{self._resets}"}
        self._world.edit(HUB, {"metadata": {"annotations": order}})

    def _change_and_reset(self) -> None:
        self._change()
        self._hands.after(0.0, 5.0, self._reset)
