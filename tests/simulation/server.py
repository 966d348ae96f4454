"""The simulated API server: what the product relies on beyond ``memoryapi``.

The term rule of slices, graceful deletion of Pods, and the garbage collection of what a deleted owner leaves.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from operator import itemgetter
from random import Random

from memoryapi import Json, Key, MemoryApi, Refused

from .processes import BEGIN, SimulatedLoop
from .trace import Trace


class Server(MemoryApi):
    """The objects. ``stored`` is called after each change: its type, the object before it, and as it is now."""

    def __init__(self, loop: SimulatedLoop, rng: Random, trace: Trace) -> None:
        super().__init__()
        self._loop, self._rng, self._trace = loop, rng, trace
        self.stored: list[Callable[[Key, Json | None, Json | None], None]] = []
        self.changes_of: dict[str, list[tuple[int, str, Key, Json]]] = defaultdict(list)
        self.changed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.before: dict[int, Json] = {}  # by version, the object before a change of it

    def _store(self, kind: str, key: Key, item: Json) -> Json:
        stored = super()._store(kind, key, item)
        self.changes_of[key.plural].append(self.changes[-1])
        self.changed[key.plural].set()
        self.changed[key.plural] = asyncio.Event()
        return stored

    def changes_after(self, plural: str, version: int) -> list[tuple[int, str, Key, Json]]:
        """The changes of a kind after this version."""
        changes = self.changes_of[plural]
        return changes[bisect_right(changes, version, key=itemgetter(0)) :]

    def request(self, method: str, url: str, payload: bytes | None, content_type: str | None) -> Json:
        """The answer's body. All reviews of rights find that they are given. Raises Refused."""
        if "accessreviews" in url:
            return {"status": {"allowed": True}}
        return super().request(method, url, payload, content_type)

    def update(self, key: Key, change: Callable[[Json], None]) -> Json:
        def checked(item: Json) -> None:
            term = item["spec"]["term"] if key.plural == "registryslices" else 0
            change(item)
            if key.plural == "registryslices" and item["spec"]["term"] < term:
                raise Refused(422, "Invalid")

        before = self.objects.get(key)
        after = super().update(key, checked)
        if before is not None and after is not before:
            self.before[self.version] = before
            for hook in self.stored:
                hook(key, before, after)
        return after

    def create(self, plural: str, body: Json, namespace: str = "ns") -> Json:
        item = super().create(plural, body, namespace)
        for hook in self.stored:
            hook(Key(plural, namespace, item["metadata"]["name"]), None, item)
        return item

    def delete(self, plural: str, name: str, namespace: str = "ns") -> None:
        key = Key(plural, namespace, name)
        if plural == "pods" and key in self.objects:
            self._mark_deleted(key)
        else:
            self.remove(key)

    def remove(self, key: Key) -> None:
        """Remove the object at once, and soon what it owns."""
        item = self.objects.get(key)
        super().delete(key.plural, key.name, key.namespace)
        assert item is not None
        for hook in self.stored:
            hook(key, item, None)
        self._loop.later(self._rng.uniform(0.1, 2.0), self._collect, item["metadata"]["uid"])

    def _mark_deleted(self, key: Key) -> None:
        now = BEGIN + timedelta(seconds=self._loop.time())

        def mark(item: Json) -> None:
            item["metadata"].setdefault("deletionTimestamp", now.strftime("%Y-%m-%dT%H:%M:%SZ"))

        self.update(key, mark)

    def _collect(self, uid: str) -> None:
        for key, item in list(self.objects.items()):
            if any(owner.get("uid") == uid for owner in item["metadata"].get("ownerReferences") or ()):
                self.delete(key.plural, key.name, key.namespace)
