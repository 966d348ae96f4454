"""Local takeover: a child whose member can't be reached is started here (``onDemand.onOwnerLost: Local``).

Without this option a request waits until it is proven that the owner has ended. With it, the member that received the
request runs the child itself:

1. It starts the child under the epoch of the owner's entry, and reports that in its status (``claim``).
2. In its next round the operator writes an entry with a newer epoch for this member, and removes the owner's.
3. Until then, two copies run if the owner is alive but can't be reached from here. The owner's copy runs on for as
   long as the owner can't reach the API server.

The new copy starts without the owner's state.

A takeover ends when the registry names another owner or none, or when the owner answers before step 2. If a request of
this member may still be running at the owner (after 504 or 502), the child is not started here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

import msgspec

from processhub.agent.children.child import Child
from processhub.agent.env import Environment
from processhub.agent.listeners import Listeners
from processhub.agent.peers.link import PeerLink
from processhub.agent.registry import lookup
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.api.child import PodWorkload
from processhub.api.reasons import Role
from processhub.api.slice import RegistrySlice
from processhub.registry.grammar import Assignment, EntryError, parse_assignment
from processhub.registry.workloads import decode_workload

log = logging.getLogger(__name__)
_SILENT_SECONDS = 2.0  # a member that has not answered counts as lost for this time
_LOOK_SECONDS = 2.0  # how long a request waits at an owner before it is checked whether the owner answers at all
_UNSETTLED_MAX = 1000
_GRACE_SECONDS = 2.0  # how long the registry may name no owner, because it is being written


class LocalTakeover:
    """The children that this member has taken over.

    ``desired_changed`` notifies of what this member is to run beside the children in its slices. ``may_start()`` says
    whether its Lease is held.
    """

    def __init__(
        self,
        env: Environment,
        slices: SliceWatcher,
        peers: PeerLink,
        children: Mapping[str, Child],
        may_start: Callable[[], bool],
    ) -> None:
        self._env, self._slices, self._peers, self._children = env, slices, peers, children
        self._may_start = may_start
        self.desired_changed: Listeners[dict[str, DesiredRun | None]] = Listeners()
        self._made: dict[str, DesiredRun] = {}
        self._silent: dict[str, float] = {}  # by address: when the member failed to answer
        self._unsettled: dict[str, int] = {}  # by id: the owner's epoch at which a request may still be running
        self._watching: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def offered(self) -> bool:
        """Whether the hub allows members to start children whose owner is lost."""
        return self._slices.settings.on_owner_lost_local

    # For the router.

    def takeover_of(self, child_id: str, copies: list[RoutedCopy]) -> RoutedCopy | None:
        """The copy that a takeover has started, to be asked instead of the owner; None if there is none."""
        if not self.offered or len(copies) != 1:
            return None
        epoch = copies[0].epoch
        made = self._made.get(child_id)
        if made is not None and made.assignment.epoch == epoch:
            return RoutedCopy(self._env.member, self._env.address, Role.ACTIVE, epoch, wait=False, running=True)
        return lookup.takeover_of(self._slices.registry(), child_id, epoch)

    def silent(self, owner: RoutedCopy) -> bool:
        """Whether the owner failed to answer just now."""
        return self._loop.time() - self._silent.get(owner.address, float("-inf")) < _SILENT_SECONDS

    async def watch(self, owner: RoutedCopy, silent: asyncio.Event) -> None:
        """Set ``silent`` once the owner does not answer. This runs while a request waits at the owner."""
        while self.offered:
            await asyncio.sleep(_LOOK_SECONDS)
            if not await self._answers(owner):
                silent.set()
                return

    def unsettled(self, child_id: str, owner: RoutedCopy) -> None:
        """Record that a request may still run at this owner: while it is on record, the child is not started here."""
        if len(self._unsettled) >= _UNSETTLED_MAX:
            of_now = {known: {copy.epoch for copy in self._copies(known)} for known in self._unsettled}
            self._unsettled = {known: epoch for known, epoch in self._unsettled.items() if epoch in of_now[known]}
        self._unsettled[child_id] = owner.epoch

    async def take(self, child_id: str, owner: RoutedCopy) -> bool:
        """Start the child here if its owner is lost; returns whether requests for it go to this member now."""
        if child_id in self._made:
            return True
        if not self.offered or not owner.address or self._desired(child_id, owner) is None:
            return False
        if not self.silent(owner) and await self._answers(owner):
            return False
        if child_id in self._made:
            return True
        desired = self._desired(child_id, owner)  # read again: the registry may have changed
        if desired is None or lookup.takeover_of(self._slices.registry(), child_id, owner.epoch) is not None:
            return False
        log.warning("started here: its owner %s can't be reached", owner.member, extra={"child": child_id})
        self._made[child_id] = desired
        self.desired_changed.notify({child_id: desired})
        self._watch_owners()
        return True

    # The end of takeovers.

    def registry_changed(self, *_: object) -> None:
        """End takeovers if the registry names another owner, or this member itself."""
        for child_id, made in list(self._made.items()):
            child = self._children.get(child_id)
            if child is None or child.desired is None or not child.desired.claim:
                del self._made[child_id]  # the child is on record here, or has ended
            elif any(copy.epoch != made.assignment.epoch for copy in self._copies(child_id)):
                self._drop(child_id, "it is on record elsewhere")

    # Internal.

    def _copies(self, child_id: str) -> list[RoutedCopy]:
        return lookup.copies(self._slices.registry(), child_id)

    def _desired(self, child_id: str, owner: RoutedCopy) -> DesiredRun | None:
        """The child as its owner's entry lists it, or None if it must not be started here."""
        copies = self._copies(child_id)
        if len(copies) != 1 or (copies[0].member, copies[0].epoch) != (owner.member, owner.epoch):
            return None
        if child_id in self._children or not self._may_start() or self._unsettled.get(child_id) == owner.epoch:
            return None
        found = _entry(self._slices, child_id, owner.member)
        if found is None:
            return None
        entry, item = found
        if not entry.on_demand or entry.wait or entry.to or entry.role != Role.ACTIVE:
            return None
        with contextlib.suppress(EntryError, KeyError):
            workload = decode_workload(item.spec.workloads[entry.workload])
            if not isinstance(workload, PodWorkload):  # the operator creates Pods
                return DesiredRun(
                    assignment=msgspec.structs.replace(entry, state=""),
                    workload=workload,
                    slice=self._slices.first_slice,
                    term=self._slices.highest_term,
                    startable=True,
                    claim=owner.member,
                )
        return None

    async def _answers(self, owner: RoutedCopy) -> bool:
        if await self._peers.answers(owner.address):
            self._silent.pop(owner.address, None)
            return True
        self._silent[owner.address] = self._loop.time()
        return False

    def _drop(self, child_id: str, why: str) -> None:
        log.info("ended: %s", why, extra={"child": child_id})
        self._made.pop(child_id, None)
        child = self._children.get(child_id)
        if child is not None and child.desired is not None and child.desired.claim:
            self.desired_changed.notify({child_id: None})

    def _watch_owners(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = self._loop.create_task(self._look_after())

    async def _look_after(self) -> None:
        """End takeovers of children that are off the record for good, and of those whose owner answers again."""
        unaccounted: set[str] = set()
        while self._made:
            await asyncio.sleep(_GRACE_SECONDS)
            gone = {child_id for child_id in self._made if not self._copies(child_id)}
            for child_id in gone & unaccounted:
                self._drop(child_id, "it is not on record any more")
            unaccounted = gone
            for child_id in self._made.keys() - gone:
                owner = next(iter(self._copies(child_id)), None)
                made = self._made.get(child_id)
                if owner is None or made is None or owner.member != made.claim:
                    continue
                if await self._answers(owner) and child_id in self._made:
                    self._drop(child_id, f"{owner.member} answers again")


def _entry(slices: SliceWatcher, child_id: str, member: str) -> tuple[Assignment, RegistrySlice] | None:
    """The child's entry in a slice of the member, and that slice; None if there is none."""
    for item in slices.registry():
        text = item.spec.entries.get(child_id) if item.spec.member == member else None
        if text:
            with contextlib.suppress(EntryError):
                return parse_assignment(text), item
    return None
