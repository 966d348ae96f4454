"""A thin informer: it lists and watches a kind, and keeps the decoded objects in a dict.

Each new list is compared with the known objects, so a deletion that was missed (after a 410) is noticed. A list that
fails removes nothing.

A list is a consistent read, so it is never older than what was seen before it. If one is, either the API server has
made a mistake, or etcd was restored to an earlier time and what was seen has never happened. A mistake does not last.
So such a list is refused, and if all lists are older for ``REWOUND_SECONDS``, the later one is taken to be true.

Where etcd was restored to a time that was seconds ago, its revisions may have caught up. A custom resource has another
spec under the same generation then. So it has where the API server drops fields that an older CRD does not have: each
object is read once more to distinguish the two (rewinds.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from processhub.api.meta import ObjectMeta
from processhub.api.wording import wrong
from processhub.cluster.client import Client
from processhub.cluster.decoding import Undecodable, WatchEvent
from processhub.cluster.errors import ApiError, GoneError, NotFoundError, StaleListError, UnavailableError
from processhub.cluster.kinds import Kind
from processhub.cluster.rewinds import Rewinds, Staleness, contradicts, is_back
from processhub.cluster.source import Source

T = TypeVar("T")
Key = tuple[str, str]
log = logging.getLogger(__name__)

# No API server answers with older objects for so long: a consistent read takes 3 s at most, or fails.
REWOUND_SECONDS = 15.0
_BACKOFF_MIN, _BACKOFF_MAX = 0.1, 10.0
_RETRY_AFTER_MAX = 30.0  # however long the answer, or a proxy on the way, asks to wait
_STALE_AGAIN_SECONDS = 1.0  # until the list after one that is older than what was seen
_WORKS_AFTER_SECONDS = 1.0  # a watch that lasts for so long works, also if there is nothing to deliver


def version_of(resource_version: str) -> int:
    """A resourceVersion as a number. Versions are comparable within one kind (officially since Kubernetes 1.35)."""
    return int(resource_version or 0)


class _Pause:
    """The pauses of an informer: short after a watch that worked, else longer each time.

    A list that can be read is not enough: the account may not watch, or a proxy may end each watch at once. Large lists
    one after the other would load the API server.
    """

    def __init__(self) -> None:
        self._backoff = _BACKOFF_MIN
        self._began: float | None = None  # when the watch began
        self._seen = 0

    def watch_begins(self, now: float, seen: int) -> None:
        """Take the time and the version from which on a watch is open."""
        self._began, self._seen = now, seen

    def after_failure(self, now: float, seen: int) -> float:
        """The seconds to wait after a list or a watch that failed."""
        self._worked(now, seen)
        self._began = None
        return self._next()

    def after_watch(self, now: float, seen: int) -> float:
        """The seconds to wait after a watch that the server has ended, before it is continued."""
        return 0.0 if self._worked(now, seen) else self._next()

    def _worked(self, now: float, seen: int) -> bool:
        """Whether the watch has delivered something, or has lasted; the pauses are short again then."""
        worked = self._began is not None and (seen > self._seen or now - self._began >= _WORKS_AFTER_SECONDS)
        if worked:
            self._backoff = _BACKOFF_MIN
        return worked

    def _next(self) -> float:
        seconds = self._backoff * random.uniform(0.5, 1.0)  # noqa: S311 jitter only
        self._backoff = min(2 * self._backoff, _BACKOFF_MAX)
        return seconds


class Informer(Generic[T]):
    """Keeps ``items`` equal to the API server's objects, and notifies of changes.

    ``on_change(old, new)`` is called for each change, in order: ``old`` is None for a new object, ``new`` is None for a
    deleted one. ``on_broken(metadata, item)`` is called for an object that does not fit its struct; the item is None
    when an object is deleted of which no version did. ``on_reconnect()`` is called when watching works again after a
    failure.

    ``on_rewound()`` is called when etcd was restored to an earlier time. Without it, the objects of that time replace
    the known ones. With it the known ones stay: who decides by them has to begin anew.

    ``on_seen()`` is called when ``seen`` may have risen, also by an object that a write of this process has returned
    before.

    A spec of which the API server drops fields stays as it was known, unless ``keeps_dropped`` is false: who writes the
    objects has to see what is stored.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind[T],
        on_change: Callable[[T | None, T | None], None],
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        on_broken: Callable[[ObjectMeta, Undecodable | None], None] | None = None,
        on_reconnect: Callable[[], None] | None = None,
        on_rewound: Callable[[], None] | None = None,
        on_seen: Callable[[], None] | None = None,
        keeps_dropped: bool = True,
    ) -> None:
        self.source = Source(client, kind, namespace, labels, fields)
        self._kind, self._on_change = kind, on_change
        self._on_broken, self._on_reconnect, self._on_seen = on_broken, on_reconnect, on_seen
        self._rewinds = Rewinds(kind, on_rewound, keeps_dropped=keeps_dropped)
        self.items: dict[Key, T] = {}
        # Existing objects that are not among the items, because they do not fit their struct.
        self._unread: dict[Key, ObjectMeta] = {}
        self.synced = asyncio.Event()
        self.seen = 0  # the highest resourceVersion seen
        self.relists = 0
        self.connected = False  # false from a failure until the next list

    async def run(self) -> None:
        """List and watch until cancelled. Failures are logged and retried with back-off."""
        clock, pause = asyncio.get_running_loop().time, _Pause()
        while True:
            try:
                version = await self._relist()
                pause.watch_begins(clock(), self.seen)
                if not self.connected:
                    self.connected = True
                    if self._on_reconnect:
                        self._on_reconnect()
                while True:
                    version = await self._follow(version)
                    await self._check_watch()
                    await asyncio.sleep(pause.after_watch(clock(), self.seen))
                    pause.watch_begins(clock(), self.seen)
            except GoneError:
                seconds = pause.after_failure(clock(), self.seen)
                log.info("watch of %s is too old, listing again", self._kind.plural)
                await asyncio.sleep(seconds)
            except ApiError as error:
                self.connected = False
                longest = _STALE_AGAIN_SECONDS if isinstance(error, StaleListError) else _BACKOFF_MAX
                seconds = min(pause.after_failure(clock(), self.seen), longest)
                if isinstance(error, UnavailableError):
                    seconds = max(seconds, min(error.retry_after, _RETRY_AFTER_MAX))
                log.warning("%s: %s; retrying in %.1f s", self._kind.plural, error.message, seconds)
                await asyncio.sleep(seconds)

    def covers(self, plural: str, namespace: str | None) -> bool:
        """Whether objects of this kind and namespace are kept here."""
        return self._kind.plural == plural and self.source.namespace in (None, namespace)

    def put(self, item: T) -> None:
        """Take an object that a write of this process returned, so that the next decision sees it at once.

        An object that is unknown and older than what the watch has seen is ignored: it was deleted since, and the
        answer came late.
        """
        metadata = _metadata(item)
        if metadata.key in self.items or version_of(metadata.resource_version) > self.seen:
            self._take(item)

    async def read(self, namespace: str | None = None) -> tuple[list[T | Undecodable], str]:
        """List the objects (of one namespace) beside the watch; returns ``(objects, resourceVersion)``.

        Raises ApiError; StaleListError if the list is older than what was seen before it was asked for.
        """
        seen = self.seen  # the watch goes on while the list is awaited
        items, version = await self.source.list(namespace)
        if self._is_older(items, version_of(version), seen):
            raise StaleListError(0, "StaleList", f"a list at {version} is older than what was seen, at {seen}")
        return items, version

    async def _relist(self) -> str:
        items, version = await self.source.list()
        rewound = self._is_older(items, version_of(version), self.seen)
        if rewound:
            self._check_rewound(version_of(version))
            self.seen = 0
        self._rewinds.staleness = Staleness()
        self.relists += 1
        present = set()
        for item in items:
            metadata = _metadata(item)
            present.add(metadata.key)
            self._take(item, rewound=rewound)
        for key, known in list(self.items.items()):
            older = version_of(_metadata(known).resource_version) <= version_of(version)
            if key not in present and (older or rewound):
                del self.items[key]
                self._on_change(known, None)
        for key, metadata in list(self._unread.items()):
            if key not in present:
                self._unread_is_gone(metadata, version)
        self._see(version)
        await self._settle_doubts()
        self.synced.set()
        return version

    def _is_older(self, items: Sequence[T | Undecodable], version: int, seen: int) -> bool:
        """Whether a list is older than what was seen: as a whole, or in an object that it should have seen change.

        The version of a whole list does not go back where etcd is restored with ``--bump-revision``.
        """
        if version < seen:
            return True
        for item in items:
            metadata = _metadata(item)
            known = self.items.get(metadata.key)
            if known is not None and (old := _metadata(known)).uid == metadata.uid:
                before = version_of(old.resource_version)
                if version_of(metadata.resource_version) < before <= version:
                    return True
        return False

    def _check_rewound(self, version: int) -> None:
        """Check that etcd was restored to an earlier time, after a list that is older. Raises StaleListError if not."""
        text = f"a list at {version} is older than what was seen, at {self.seen}"
        if self._rewinds.staleness.seconds(version, asyncio.get_running_loop().time()) < REWOUND_SECONDS:
            raise StaleListError(0, "StaleList", text)
        log.error("%s: %s, for %g s: was etcd restored from a backup?", self._kind.plural, text, REWOUND_SECONDS)
        if self._rewinds.notify():
            raise StaleListError(0, "StaleList", text)

    async def _follow(self, version: str) -> str:
        async for batch in self.source.watch(version):
            for event in batch:
                version = _metadata(event.object).resource_version
                self._event(event)
            self._see(version)
            await self._settle_doubts()
        return version

    def _see(self, version: str) -> None:
        self.seen = max(self.seen, version_of(version))
        if self._on_seen:
            self._on_seen()

    async def _check_watch(self) -> None:
        """Check that the version from which the watch continues has existed. Raises ApiError.

        A watch from a future version is silent until that exists, which may be days after etcd was restored.
        """
        version = version_of(await self.source.latest_version())
        if version < self.seen:
            raise StaleListError(0, "StaleList", f"the latest version, {version}, is older than what was seen")

    async def _settle_doubts(self) -> None:
        """Read those objects once more whose spec has changed without a new generation. Raises ApiError."""
        while self._rewinds.doubtful:
            key = next(iter(self._rewinds.doubtful))
            raw: dict[str, Any] | None
            try:
                raw = await self.source.get(*key)
            except NotFoundError:
                raw = None  # it was deleted, which the watch reports
            del self._rewinds.doubtful[key]
            if raw is not None:
                self._take_read(key, raw)

    def _take_read(self, key: Key, raw: dict[str, Any]) -> None:
        known = self.items.get(key)
        try:
            item = msgspec.convert(raw, self._kind.type)
        except msgspec.ValidationError as error:
            metadata = msgspec.convert(raw["metadata"], ObjectMeta)
            text = wrong(error, raw, self._kind.type)
            self._take(Undecodable(metadata=metadata, error=text, body=msgspec.json.encode(raw)))
            return
        restored = known is not None and contradicts(known, item) and not self._rewinds.are_dropped(known, item, raw)
        if restored:
            log.error("%s %s/%s has changed without a new generation", self._kind.plural, *key)
            self._rewinds.notify()
        self._take(item, certain=restored)

    def _event(self, event: WatchEvent) -> None:
        if event.type in ("ADDED", "MODIFIED"):
            self._take(event.object)
        elif event.type == "DELETED":
            metadata = _metadata(event.object)
            known = self.items.get(metadata.key)
            if known is None:
                self._unread_is_gone(metadata, metadata.resource_version)
            # A known object from a write of this process may be newer than this event: a re-created namesake stays.
            if known is not None and version_of(_metadata(known).resource_version) <= version_of(
                metadata.resource_version
            ):
                del self.items[metadata.key]
                self._on_change(known, None)

    def _unread_is_gone(self, metadata: ObjectMeta, version: str) -> None:
        unread = self._unread.get(metadata.key)
        if unread is not None and version_of(unread.resource_version) <= version_of(version):
            del self._unread[metadata.key]
            if self._on_broken:
                self._on_broken(metadata, None)

    def _take(self, item: T | Undecodable, *, rewound: bool = False, certain: bool = False) -> None:
        """Take an object as it is. An older one than the known one is ignored, unless the list was ``rewound``.

        One whose spec has changed without a new generation is read once more first, unless it is ``certain``.
        """
        metadata = _metadata(item)
        known = self.items.get(metadata.key)
        if known is not None:
            old = _metadata(known)
            if old.resource_version == metadata.resource_version and old.uid == metadata.uid:
                return
            if version_of(old.resource_version) >= version_of(metadata.resource_version) and not rewound:
                return
            if self._rewinds.matter and is_back(known, item):
                log.error("%s %s/%s has a lower generation than before", self._kind.plural, *metadata.key)
                self._rewinds.notify()
                return
            if not certain and self._rewinds.matter and contradicts(known, item):
                if self._rewinds.doubt(metadata.key, known, item):
                    return
                item = self._rewinds.with_known_spec(known, item)
            if old.uid != metadata.uid:
                # The object was deleted and re-created between two looks. Both changes are reported, in order.
                del self.items[metadata.key]
                self._on_change(known, None)
                known = None
        if isinstance(item, Undecodable):
            # The last readable version stays, because a bad edit must not look like a deletion.
            log.warning("%s %s/%s can't be read: %s", self._kind.plural, *metadata.key, item.error)
            if known is None:
                self._unread[metadata.key] = metadata
            if self._on_broken:
                self._on_broken(metadata, item)
            return
        self._unread.pop(metadata.key, None)
        self.items[metadata.key] = item
        self._on_change(known, item)


def _metadata(item: Any) -> ObjectMeta:
    if isinstance(item, dict):
        raw = item["metadata"]
        return ObjectMeta(
            name=raw["name"],
            namespace=raw.get("namespace", ""),
            uid=raw["uid"],
            resource_version=raw["resourceVersion"],
        )
    metadata: ObjectMeta = item.metadata
    return metadata
