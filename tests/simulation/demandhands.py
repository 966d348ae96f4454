"""Callers, and users of a hub that starts children on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from memoryapi import Json

from .naming import CHILDREN, DEMANDED, HUB
from .world import World

if TYPE_CHECKING:
    from .hands import Hands


class DemandHands:
    """Callers and users, as far as children on demand are concerned."""

    def __init__(self, hands: Hands, world: World) -> None:
        self._hands, self._world = hands, world

    def acts(self) -> tuple[tuple[int, Callable[[], None]], ...]:
        """The acts, with their weights, besides requests for one id."""
        return (
            (5, self._ask_much),
            (5, self._ask_everywhere),
            (3, self._part_members),
            (2, self._edit_template),
            (1, self._end_demand),
            (3, self._stop_demanded),
            (3, self._move_demanded),
        )

    def ask(self) -> None:
        """Send a request for an id that may be unknown, or is a child's."""
        self._world.callers.call(
            self._hands.rng.choice((*DEMANDED, *DEMANDED, *CHILDREN, "s-0", "s-3")), self._hands.rng
        )

    def _ask_much(self) -> None:
        """Send many requests for one id, to any members."""
        name, rng = self._hands.rng.choice(DEMANDED), self._hands.rng
        for _ in range(rng.choice((5, 20))):
            self._hands.after(0.0, 1.0, lambda: self._world.callers.call(name, rng))

    def _ask_everywhere(self) -> None:
        """Send requests for all ids."""
        rng = self._hands.rng
        for name in DEMANDED:
            self._hands.after(0.0, 3.0, lambda name=name: self._world.callers.call(name, rng))

    def _part_members(self) -> None:
        """Cut two members off from each other."""
        pair, parted = frozenset(self._hands.rng.sample(self._hands.all_members, 2)), self._world.network.parted
        self._world.trace.fault("network", f"parts {' and '.join(sorted(pair))}")
        parted.add(pair)
        self._hands.after(1.0, 40.0, lambda: parted.discard(pair))

    def _edit_template(self) -> None:
        command = self._hands.next_command()
        change = self._hands.rng.choice(
            (
                self._edit_of_template(command),
                self._edit_of_template(command),
                {"ttlSeconds": self._hands.rng.choice((None, 5, 30))},
                {"idleSeconds": self._hands.rng.choice((None, 2, 10))},
                {"max": None},
            )
        )
        if self._template() is not None:
            self._world.edit(HUB, {"spec": {"onDemand": change}})

    def _edit_of_template(self, command: str) -> Json:
        """Change the workload; a local takeover is for processes only."""
        template = self._template() or {}
        if template.get("onOwnerLost") == "Local":
            return {"exec": {"command": [command]}}
        return self._hands.pods.edit(command)

    def _end_demand(self) -> None:
        """Take onDemand out of the hub, and soon put it back."""
        if (template := self._template()) is not None:
            self._world.edit(HUB, {"spec": {"onDemand": None}})
            self._hands.after(0.5, 20.0, lambda: self._put_back(template))

    def _put_back(self, template: Json) -> None:
        hub = self._world.server.objects.get(HUB)
        if hub is not None and hub["spec"]["partitionTolerance"]["strategy"] != "Divergence":
            template = {**template, "onOwnerLost": "Wait"}  # Local needs Divergence.
        self._world.edit(HUB, {"spec": {"onDemand": template}})

    def _template(self) -> Json | None:
        hub = self._world.server.objects.get(HUB)
        template: Json | None = hub["spec"].get("onDemand") if hub is not None else None
        return template

    def _stop_demanded(self) -> None:
        """Order the end of a child that a request has started."""
        epochs = self._world.epochs_on_demand()
        if epochs:
            name = self._hands.rng.choice(sorted(epochs))
            self._order_demanded("processhub.dev/stop", name, epochs[name])

    def _move_demanded(self) -> None:
        """Order a move of a child that a request has started."""
        if epochs := self._world.epochs_on_demand():
            member = self._hands.rng.choice(self._world.members)
            self._order_demanded("processhub.dev/move-to", self._hands.rng.choice(sorted(epochs)), member)

    def _order_demanded(self, annotation: str, name: str, value: object) -> None:
        orders = json.loads(self._world.server.objects[HUB]["metadata"].get("annotations", {}).get(annotation, "{}"))
        text = json.dumps(orders | {name: value})
        self._world.edit(HUB, {"metadata": {"annotations": {annotation: text}}})
