"""The children that this member is to run: the union of its own slices, kept current by a watch on the hub's slices."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

import msgspec

from processhub.agent.env import Environment
from processhub.agent.listeners import Listeners
from processhub.agent.registry.maderuns import MadeRuns, bytes_by_view, room_by_view
from processhub.agent.registry.namedids import NamedIds
from processhub.api.child import Exec, PodWorkload, Python
from processhub.api.naming import LABEL_HUB, label_value, slice_name
from processhub.api.slice import FORMAT, MAX_ENTRIES, MAX_REPORTS, RegistrySlice, Settings
from processhub.cluster.client import Client
from processhub.cluster.informer import Informer, version_of
from processhub.cluster.kinds import SLICES
from processhub.registry.grammar import Assignment, EntryError
from processhub.registry.slices import SliceView
from processhub.registry.workloads import decode_workload

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DesiredRun:
    """One child as this member is to run it; ``slice`` is the name of the slice that lists it."""

    assignment: Assignment
    workload: Exec | Python | PodWorkload | None  # None: the slice names a workload that this agent can't read
    slice: str
    term: int
    startable: bool  # not waiting, not of an earlier term, not granted to an earlier holder of the Lease
    # May be started again by the agent that has run it, whatever the term is (docs/protocol.md, rule 2).
    restartable: bool = True
    claim: str = ""  # the unreachable member whose entry this is, for a takeover (requests/localtakeover.py)
    view: int = 0  # the view under which this member has started it by itself, while it has no entry (activations.py)

    def same_run(self, other: DesiredRun) -> bool:
        """Whether a run that was started for ``other`` may continue for this one, without a restart."""
        mine, theirs = self.assignment, other.assignment
        # No epoch is given twice in a hub, so one that the entry names is that of the run, whoever asked for it.
        same = mine.uid == theirs.uid or mine.run == theirs.started_with
        return same and mine.started_with == theirs.started_with and self.workload == other.workload

    def inherits(self, other: DesiredRun) -> bool:
        """Whether a state of ``other`` is for this one: the object is the same, or has adopted its run."""
        return self.assignment.uid == other.assignment.uid or self.same_run(other)

    def has_state_of(self, other: DesiredRun) -> bool:
        """Whether the same state came with both by a handover."""
        mine, theirs = self.assignment, other.assignment
        return bool(mine.state) and (mine.uid, mine.state) == (theirs.uid, theirs.state)

    def begins(self, other: DesiredRun) -> bool:
        """Whether this one starts what has waited by ``other``, without a state that this entry names."""
        mine, theirs = self.assignment, other.assignment
        return theirs.wait and not mine.wait and not mine.state and mine.uid == theirs.uid

    def continues(self, other: DesiredRun) -> bool:
        """Whether the next run of an edited or suspended child may take up the state of a run for ``other``."""
        mine, theirs = self.assignment, other.assignment
        same = (mine.uid, mine.role, type(self.workload)) == (theirs.uid, theirs.role, type(other.workload))
        return same and isinstance(self.workload, Exec | Python)


class _OwnSlice:
    """One of this member's slices, parsed. Only entries whose text changed are parsed again."""

    def __init__(self) -> None:
        self._view = SliceView(keeps_unreadable=True)
        self.entries = self._view.entries
        self.workloads: dict[str, Exec | Python | PodWorkload] = {}
        self.workload_texts: dict[str, str] = {}
        self.room = 0  # bytes in the status for reports of children that are not on record
        self.on_demand = 0  # the number of entries of children that a request started
        self.term = 0
        self.version = 0  # the resourceVersion by which the present spec was first read
        self.holder = ""
        self.settings = Settings()

    def take(self, new: RegistrySlice) -> set[str]:
        """Parse the changed entries; returns the ids that may be affected."""
        spec = new.spec
        self.version = version_of(new.metadata.resource_version)
        self.settings = spec.settings
        change = self._view.update_entries(new)
        if change.entries:
            self.on_demand = sum(entry.on_demand for entry in self.entries.values())
        self.room = 0 if spec.order is None else room_by_view(spec)
        for child, error in change.unreadable:
            log.error("slice %s: %s: %s", new.metadata.name, child, error)
        touched = change.entries | self._take_workloads(new)
        if (spec.term, spec.holder) != (self.term, self.holder):
            touched |= self.entries.keys()
            self.term, self.holder = spec.term, spec.holder
        return touched

    def _take_workloads(self, new: RegistrySlice) -> set[str]:
        """Decode the changed workloads; returns the ids of the children that run them."""
        texts, touched = new.spec.workloads, set()
        for digest, text in texts.items():
            if self.workload_texts.get(digest) != text:
                try:
                    self.workloads[digest] = decode_workload(text)
                except EntryError as error:
                    log.error("slice %s: workload %s: %s", new.metadata.name, digest, error)
                    continue
                self.workload_texts[digest] = text
                touched |= {child for child, entry in self.entries.items() if entry.workload == digest}
        for digest in self.workloads.keys() - texts.keys():
            del self.workloads[digest], self.workload_texts[digest]
        return touched


class SliceWatcher:
    """Watches the hub's slices and notifies of changes.

    The listeners are notified in this order:

    - ``settings_changed``: changed settings, from the own slice with the highest term whose spec was written last. The
      hub counts as partitioned while any own slice says so.
    - ``desired_changed``: ``{id: DesiredRun or None}`` for the changes in this member's own slices, at once.
    - ``settings_changed`` once more where the hub is partitioned no longer: until then nothing may start, because an
      entry of the slice before may be gone in this one.
    - ``own_changed``: each changed own slice (None if it was deleted) and its name.
    - ``registry_changed``: each changed slice of the hub, before and after the change. It comes after all others.

    ``read_on`` is notified after each part of the watch: the slices of others may be read as far as this member's own.

    ``made`` is what this member has started by itself and is not on record yet (requests/activation.py), by id.
    ``named`` has the ids that are on record.

    ``rewound`` is notified when etcd was restored to an earlier time, so that what is known here has never happened.
    """

    def __init__(self, client: Client, env: Environment, identity: str) -> None:
        self.desired_changed: Listeners[dict[str, DesiredRun | None]] = Listeners()
        self.own_changed: Listeners[RegistrySlice | None, str] = Listeners()
        self.settings_changed: Listeners[Settings] = Listeners()
        self.registry_changed: Listeners[RegistrySlice | None, RegistrySlice | None] = Listeners()
        self.read_on: Listeners[()] = Listeners()
        self.rewound: Listeners[()] = Listeners()
        self._env, self._identity = env, identity
        self._own: dict[str, _OwnSlice] = {}
        self.made: MadeRuns[DesiredRun] = MadeRuns()
        self.named = NamedIds(env.member)
        self.informer: Informer[RegistrySlice] = Informer(
            client,
            SLICES,
            self._changed,
            namespace=env.namespace,
            labels=f"{LABEL_HUB}={label_value(env.hub)}",
            on_rewound=self.rewound.notify,
            on_seen=self.read_on.notify,
        )
        self._settings = (-1, Settings())  # and the term that they are of
        self._listed = 0  # the version of the latest list that was read beside the watch
        self.highest_term = 0

    @property
    def settings(self) -> Settings:
        """The hub's settings."""
        return self._settings[1]

    @cached_property
    def first_slice(self) -> str:
        """The name of this member's slice 0."""
        return slice_name(self._env.hub, self._env.member, 0)

    @property
    def ready(self) -> bool:
        """Whether the registry was listed and this member's slice 0 is in it."""
        return self.informer.synced.is_set() and self.first_slice in self._own

    def registry(self) -> Iterable[RegistrySlice]:
        """All slices of the hub."""
        return (item for item in self.informer.items.values() if self._of_this_hub(item))

    def own_slice(self, name: str) -> RegistrySlice | None:
        """The present version of this member's slice of that name, or None."""
        return self.informer.items.get((self._env.namespace, name))

    @property
    def reads_others_as_own(self) -> bool:
        """Whether the slices of others were read up to the present specs of this member's own.

        The answer to a write of this member may show its own slice before the watch has come so far.
        """
        return all(map(self.has_read, self._own))

    def has_read(self, name: str) -> bool:
        """Whether all slices were read up to the present spec of this own slice.

        Until then another own slice may be gone, and what runs by it is not reported as ending.
        """
        own = self._own.get(name)
        return own is not None and own.version <= self.informer.seen

    def count_on_demand(self) -> int:
        """The number of this member's entries of children that a request started."""
        return sum(own.on_demand for own in self._own.values())

    def count_children(self) -> int:
        """The number of children that this member has: by its entries, and by itself."""
        return len(self.made) + sum(len(own.entries) for own in self._own.values())

    def may_report(self, child: str) -> bool:
        """Whether the status of slice 0 has room for one more child that is not on record."""
        own = self._own.get(self.first_slice)
        few = len(self.made) < MAX_REPORTS - MAX_ENTRIES
        return own is not None and few and self.made.bytes + bytes_by_view(child) <= own.room

    def make(self, child: str, made: DesiredRun) -> None:
        """Run a child that is not on record."""
        self.made[child] = made
        self.desired_changed.notify({child: self._resolve(child)})

    def end_made(self, view: int | None, also: Collection[str] = ()) -> None:
        """End what this member has started by itself under other views than this, and ``also`` these children."""
        changes = self._forget_made(view)
        for child in also:
            if self.made.pop(child, None) is not None:
                changes.add(child)
        if changes:
            self.desired_changed.notify({child: self._resolve(child) for child in sorted(changes)})

    def _forget_made(self, view: int | None) -> set[str]:
        over = {child for child, made in self.made.items() if made.view != view}
        for child in over:
            del self.made[child]
        return over

    def member_count(self) -> int:
        """The number of members of the hub that have slices."""
        return len({item.spec.member for item in self.registry()})

    async def refresh(self) -> None:
        """Read a consistent list of the slices from the API server, and act on it before returning.

        Raises ApiError, also where the list is older than what was seen.
        """
        items, version = await self.informer.read()
        present = set()
        for item in items:
            present.add(item.metadata.key)
            if isinstance(item, RegistrySlice):
                self.informer.put(item)
        for name in list(self._own):
            key = (self._env.namespace, name)
            known = self.informer.items.get(key)
            # The watch will report the deletion too; until then nothing may be started from the slice. A slice that is
            # newer than the list was created meanwhile.
            if key not in present and (
                known is None or version_of(known.metadata.resource_version) <= version_of(version)
            ):
                self._drop(name)
        self._listed = version_of(version)

    def _of_this_hub(self, item: RegistrySlice) -> bool:
        return item.spec.hub == self._env.hub and item.spec.hub_uid == self._env.hub_uid

    def _changed(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        item = new or old
        if item is None:
            return
        self.named.take(item.metadata.name, new if new is not None and self._of_this_hub(new) else None)
        if not self._of_this_hub(item):
            return
        self._act_on(item, old, new)
        self.registry_changed.notify(old, new)

    def _act_on(self, item: RegistrySlice, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        mine = item.spec.member == self._env.member
        if new is None:
            if mine:
                self._drop(item.metadata.name)
            return
        changes: set[str] = set()
        if new.spec.term > self.highest_term:
            self.highest_term = new.spec.term
            for own in self._own.values():
                changes |= own.entries.keys()
        # One that is older than the list and was not in it is gone: the watch shows what it once was.
        mine = mine and (new.metadata.name in self._own or version_of(new.metadata.resource_version) > self._listed)
        if mine:
            if new.spec.format > FORMAT:
                log.error("slice %s is of format %d, this agent knows %d", new.metadata.name, new.spec.format, FORMAT)
                return
            own = self._own.setdefault(new.metadata.name, _OwnSlice())
            if old is None or old.metadata.generation != new.metadata.generation:
                changes |= own.take(new)
                if new.metadata.name == self.first_slice and self.made:
                    changes |= self._forget_made(new.spec.order.view if new.spec.order else None)
            self._take_settings()
        if changes:
            # Sorted, so that children start in the same order in each run of the same program.
            self.desired_changed.notify({child: self._resolve(child) for child in sorted(changes)})
        if mine:
            self._end_partition()
            self.own_changed.notify(new, new.metadata.name)

    def _drop(self, name: str) -> None:
        own = self._own.pop(name, None)
        if own is not None:
            changes = own.entries.keys() | (self._forget_made(None) if name == self.first_slice else set())
            self._take_settings()
            self.desired_changed.notify({child: self._resolve(child) for child in sorted(changes)})
            self._end_partition()
            self.own_changed.notify(None, name)

    def _take_settings(self) -> None:
        """Apply the settings of the slices, except that the hub is partitioned no longer.

        They are written one after the other. A slice that is still to be written, or deleted, has the settings of
        before.
        """
        newest = max(self._own.values(), key=lambda own: (own.term, own.version), default=None)
        term, settings = self._settings
        if newest is not None and newest.term >= term:
            term, settings = newest.term, newest.settings
        partitioned = self.settings.partitioned or any(own.settings.partitioned for own in self._own.values())
        self._set_settings(term, msgspec.structs.replace(settings, partitioned=partitioned))

    def _end_partition(self) -> None:
        """Let children start again where no own slice says any longer that the hub is partitioned."""
        if self._own and not any(own.settings.partitioned for own in self._own.values()):
            term, settings = self._settings
            self._set_settings(term, msgspec.structs.replace(settings, partitioned=False))

    def _set_settings(self, term: int, settings: Settings) -> None:
        before, self._settings = self.settings, (term, settings)
        if settings != before:
            self.settings_changed.notify(settings)

    def _resolve(self, child: str) -> DesiredRun | None:
        """The entry with the highest (term, epoch) among the own slices, or what was made; None without either."""
        best: DesiredRun | None = None
        for name, own in self._own.items():
            entry = own.entries.get(child)
            if entry is None:
                continue
            if best is not None and (own.term, entry.epoch) <= (best.term, best.assignment.epoch):
                continue
            # Granted to another agent of this member: the operator is about to place its children elsewhere.
            may_run = not entry.wait and own.holder in ("", self._identity)
            best = DesiredRun(
                assignment=entry,
                workload=own.workloads.get(entry.workload),
                slice=name,
                term=own.term,
                startable=own.term >= self.highest_term and may_run,
                restartable=may_run,
            )
        made = self.made.get(child)
        if made is None or (best is not None and best.assignment.epoch >= made.assignment.epoch):
            self.made.pop(child, None)  # it is on record: from here on its entry decides
            return best
        return made
