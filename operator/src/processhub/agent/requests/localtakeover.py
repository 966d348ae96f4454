"""Children whose member can't be reached, started here at once: ``onDemand.onOwnerLost: Local``.

With it a request does not wait until the owner is proven gone: the member that was asked runs the child itself, under
the epoch of the owner's entry, and says so in its status (``claim``). The operator puts it on record with a newer epoch
in the next round and takes it off the owner's. Until then there are two where the owner runs on out of sight, and for
as long as it can't reach the API server. Nothing of the owner's state is had.

A takeover ends when the record names another owner or none, and when the owner answers before it was put on record.
A member whose own request may be running at the owner yet (504, or 502) starts nothing beside that.
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
_SILENT_SECONDS = 2.0  # a member that has not answered counts as lost for so long
_LOOK_SECONDS = 2.0  # until it is looked whether an owner that lets a request wait is there at all
_UNSETTLED_MAX = 1000
_GRACE_SECONDS = 2.0  # for which the record may name no owner: it is being written


class LocalTakeover:
    """The children that this member has taken over.

    ``desired_changed`` notifies of what this member is to run beside its slices. ``may_start()`` says whether its Lease
    is held.
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
        self._silent: dict[str, float] = {}  # addresses that did not answer, and when
        self._unsettled: dict[str, int] = {}  # ids of which a request may be running yet, by the owner's epoch
        self._watching: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def offered(self) -> bool:
        """Whether the hub has members start children whose owner is lost."""
        return self._slices.settings.on_owner_lost_local

    # for the router

    def takeover_of(self, child_id: str, copies: list[RoutedCopy]) -> RoutedCopy | None:
        """The copy to ask instead of the owner on record, None where there is none."""
        if not self.offered or len(copies) != 1:
            return None
        epoch = copies[0].epoch
        made = self._made.get(child_id)
        if made is not None and made.assignment.epoch == epoch:
            return RoutedCopy(self._env.member, self._env.pod_ip, Role.ACTIVE, epoch, wait=False, running=True)
        return lookup.takeover_of(self._slices.registry(), child_id, epoch)

    def silent(self, owner: RoutedCopy) -> bool:
        """Whether the owner did not answer just now."""
        return self._loop.time() - self._silent.get(owner.address, float("-inf")) < _SILENT_SECONDS

    async def watch(self, owner: RoutedCopy, silent: asyncio.Event) -> None:
        """Set ``silent`` once the owner does not answer; for as long as a request waits there."""
        while self.offered:
            await asyncio.sleep(_LOOK_SECONDS)
            if not await self._answers(owner):
                silent.set()
                return

    def unsettled(self, child_id: str, owner: RoutedCopy) -> None:
        """A request may be running there yet: while this owner is on record, nothing is started here beside it."""
        if len(self._unsettled) >= _UNSETTLED_MAX:
            of_now = {known: {copy.epoch for copy in self._copies(known)} for known in self._unsettled}
            self._unsettled = {known: epoch for known, epoch in self._unsettled.items() if epoch in of_now[known]}
        self._unsettled[child_id] = owner.epoch

    async def take(self, child_id: str, owner: RoutedCopy) -> bool:
        """Start the child here where its owner is lost; whether it is to be asked here now."""
        if child_id in self._made:
            return True
        if not self.offered or not owner.address or self._desired(child_id, owner) is None:
            return False
        if not self.silent(owner) and await self._answers(owner):
            return False
        if child_id in self._made:
            return True
        desired = self._desired(child_id, owner)  # as the record is now
        if desired is None or lookup.takeover_of(self._slices.registry(), child_id, owner.epoch) is not None:
            return False
        log.warning("%s can't be reached: started here", owner.member, extra={"child": child_id})
        self._made[child_id] = desired
        self.desired_changed.notify({child_id: desired})
        self._watch_owners()
        return True

    # what becomes of them

    def registry_changed(self, *_: object) -> None:
        """The record may name another owner now, or this member itself."""
        for child_id, made in list(self._made.items()):
            child = self._children.get(child_id)
            if child is None or child.desired is None or not child.desired.claim:
                del self._made[child_id]  # it is on record here, or has ended
            elif any(copy.epoch != made.assignment.epoch for copy in self._copies(child_id)):
                self._drop(child_id, "it is on record elsewhere")

    # inside

    def _copies(self, child_id: str) -> list[RoutedCopy]:
        return lookup.copies(self._slices.registry(), child_id)

    def _desired(self, child_id: str, owner: RoutedCopy) -> DesiredRun | None:
        """The child as its owner's entry has it; None where it is not to be started here."""
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
            if not isinstance(workload, PodWorkload):  # its Pod is the operator's to make
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
        """End those that are off the record for good, and those whose owner is there again."""
        unaccounted: set[str] = set()
        while self._made:
            await asyncio.sleep(_GRACE_SECONDS)
            gone = {child_id for child_id in self._made if not self._copies(child_id)}
            for child_id in gone & unaccounted:
                self._drop(child_id, "it is on record no more")
            unaccounted = gone
            for child_id in self._made.keys() - gone:
                owner = next(iter(self._copies(child_id)), None)
                made = self._made.get(child_id)
                if owner is None or made is None or owner.member != made.claim:
                    continue
                if await self._answers(owner) and child_id in self._made:
                    self._drop(child_id, f"{owner.member} is there again")


def _entry(slices: SliceWatcher, child_id: str, member: str) -> tuple[Assignment, RegistrySlice] | None:
    """The child's entry in a slice of the member, and that slice."""
    for item in slices.registry():
        text = item.spec.entries.get(child_id) if item.spec.member == member else None
        if text:
            with contextlib.suppress(EntryError):
                return parse_assignment(text), item
    return None
