"""Turns in which no member has a fault: what runs is left alone, and with HotSwap a child starts with what it left."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from memoryapi import Json
from memoryrequests import Key

from processhub.api.reasons import GroupReason

from .childpods import PodRun
from .copies import keeps_copies
from .edits import edits
from .machines import Run
from .naming import CHILDREN, DEMANDED, HUB, is_bound, members_of, taking
from .world import World

if TYPE_CHECKING:
    from .hands import Act, Hands

_PUT_OFF_SECONDS = 120.0  # longer than a move is put off that has failed
_HANDS_OVER: Json = {
    "migration": {"strategy": "HotSwap", "onRestart": None, "handoverTimeoutSeconds": 15},
    "timeouts": {"leaseSeconds": 15, "stopSeconds": 10},
}


class Calm:
    """A turn in which only replicas of the operator have faults.

    Either the users' acts are such that all processes run on, or children are moved, edited and suspended, and none may
    lose the state that it has handed over. Nor may one where nothing has faults and members are replaced one by one:
    each child that is not bound to its member is asked for its state then.
    """

    def __init__(self, hands: Hands, world: World, seed: int) -> None:
        self._hands, self._world, rng = hands, world, Random(f"{seed}/calm")
        spec = world.server.objects[HUB]["spec"]
        copies = keeps_copies(world.server.objects[HUB])
        keeps = not copies and not hands.pods.share
        self._in_order = keeps and hands.rolls.present and self._spares_one()
        self._moves = self._in_order or (keeps and rng.random() < 0.6)
        self._left: dict[tuple[str, str], tuple[bytes, str]] = {}  # a child and its uid → what it left last, and where
        self._up: set[Run] = set()  # those that are up for their agent: one that was stopped before is started again
        self._suspends = rng.random() < 0.5  # else members leave; a suspended child loses its place and state then
        # Members with LeastLoaded take children from each other by and by.
        quiet = spec["distribution"]["strategy"] != "LeastLoaded"
        self._origins = spec["distribution"]["strategy"] == "NotLocal"
        self.possible = self._in_order or (edits(seed) and not hands.rolls.present and (self._moves or quiet))

    def prepare(self) -> None:
        """Edit the Hub so that children hand over their state, if they are to be moved."""
        if self._moves:
            self._world.edit(HUB, {"spec": _HANDS_OVER})

    async def begin(self) -> None:
        """Wait for moves that were put off. From then on check each start and end of a process."""
        ends = self._world.loop.time() + _PUT_OFF_SECONDS
        # What only its origin could take waits on a member that is drained.
        while self._balance() == GroupReason.REBALANCING and not self._origins:
            if self._world.loop.time() > ends:
                self._world.trace.break_promise(f"moves are due {_PUT_OFF_SECONDS:g} s after the hub came to rest")
                return
            await asyncio.sleep(1.0)
        self._world.trace.note("seed", "a calm turn begins")
        self._up |= {run for run in self._world.checks.runs if isinstance(run, Run)}
        self._world.checks.followers.append(self._keeps_state if self._moves else self._runs_on)

    @property
    def acts(self) -> tuple[Act, ...]:
        """The acts of the turn, with their weights."""
        hands = self._hands
        if self._in_order:
            return hands.acts_in_order()
        if not self._moves:
            return (*hands.acts_on_operators(), *hands.edits.quiet_acts())
        return (*hands.acts_on_operators(), *hands.acts_that_move(suspend=self._suspends))

    def _spares_one(self) -> bool:
        """Whether the hub has its quorum, and a member that takes children, without any one of its members."""
        hub = self._world.server.objects[HUB]
        required = hub.get("status", {}).get("quorum", {}).get("required", 0)
        return bool(required < len(members_of(hub)) and len(taking(hub)) > 1)

    def _balance(self) -> str:
        status = self._world.server.objects[HUB].get("status", {})
        return next((each["reason"] for each in status.get("conditions", ()) if each["type"] == "Balanced"), "")

    def _stays(self, run: Run) -> bool:
        """Whether a Child says that the child waits for its member, or is another one than the run's.

        Nobody is asked for its state then.
        """
        child = self._world.server.objects.get(Key("children", "ns", run.child_id))
        return child is not None and (is_bound(child) or child["metadata"]["uid"] != run.desired.assignment.uid)

    def _runs_on(self, run: Run | PodRun, what: str) -> None:
        if run.child_id not in DEMANDED:
            self._world.trace.break_promise(f"child {run.child_id} of a calm hub {what} on {run.where}")

    def _keeps_state(self, run: Run | PodRun, what: str) -> None:
        if run.child_id not in CHILDREN or not isinstance(run, Run):
            return
        key = run.child_id, run.uid
        if what.startswith("starts"):
            left, where = self._left.get(key, (run.state, run.where))
            if self._in_order and where != run.where and self._stays(run):
                return  # It was edited on a member that was to be replaced, and its state ended with that.
            if run.state != left:
                self._world.trace.break_promise(
                    f"child {run.child_id} starts on {run.where} with {run.state!r}, and had left {left!r}"
                )
        elif what == "is up":
            self._left.pop(key, None)
            self._up.add(run)
        elif self._in_order and not run.runs and run in self._up and not run.was_asked and not self._stays(run):
            self._world.trace.break_promise(
                f"child {run.child_id} ends on {run.where}, and was not asked for its state"
            )
        elif not run.runs and run.left:
            self._left[key] = run.left, run.where
        elif not run.runs and run.was_up:
            self._left.pop(key, None)
