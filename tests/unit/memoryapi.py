"""An API server in memory, and a client of it that opens no connection.

It has the features that operator and agents depend on, as tests/integration/test_api_conformance.py shows beside a real
API server. The work of the controller manager is done when ``collect_garbage`` is called. There are no users and roles.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import msgspec
from memorypatches import Owners, PatchError, applied, copied, merged, patch_json, shape_of, updated
from memorypods import complete_pod, pod_errors
from memoryrequests import Key, Refused, check_selected, is_selected, status_of
from memoryschemas import rules_of

from processhub.cluster.client import APPLY_PATCH, JSON_PATCH, Client
from processhub.cluster.config import Config
from processhub.cluster.sending import Answer
from processhub.cluster.timestamps import now_seconds, utc_now

Json = dict[str, Any]
_LATENCY = 0.002  # seconds
_BOOKMARK_SECONDS = 60.0  # between two bookmarks
_POD_GRACE = 30
_STATUS_APART = {"hubs", "children", "childsets", "registryslices", "pods", "statefulsets", "daemonsets"}
_VERSION_NEEDED = {"hubs", "children", "childsets", "registryslices", "leases"}  # to replace one
_MADE_BY_REPLACE = {"leases"}
_KEPT = ("uid", "name", "namespace", "generation", "creationTimestamp", "deletionTimestamp",
         "deletionGracePeriodSeconds", "managedFields")  # fmt: skip


@dataclass
class _Write:
    """A write of a request."""

    method: str
    body: Any
    content_type: str | None
    subresource: str
    manager: str
    owners: Owners | None = None  # after an apply

    def sign(self, metadata: Json) -> None:
        """Record the last writer, by kind of write."""
        way = {"manager": self.manager, "operation": "Apply" if self.owners is not None else "Update"}
        way |= {"subresource": self.subresource} if self.subresource else {}
        others = [entry for entry in metadata.get("managedFields", ()) if not way.items() <= entry.items()]
        metadata["managedFields"] = [*others, way | {"time": now_seconds()}]


class MemoryApi:
    """The objects by key, and every change of one: (version, type, key, object)."""

    def __init__(self) -> None:
        self.objects: dict[Key, Json] = {}
        self.changes: list[tuple[int, str, Key, Json]] = []
        self.writes: list[tuple[float, str, Key, Json]] = []  # the loop's time, the method, what was stored
        self.listeners: list[Callable[[Key, Json | None, Json | None], None]] = []  # called with before and after
        self.compacted = 0  # an older version can't be watched or listed any more
        self.policy: Callable[[Key, Json], str] = lambda key, item: ""  # why a request may not create the object
        self.mutation: Callable[[Key, Json], None] = lambda key, item: None  # changes what a request creates or edits
        self.dry_run_seconds = 0.0  # as with a slow webhook
        self.webhook_seconds: Callable[[Key], float] = lambda key: 0.0  # for which a webhook holds a write
        self._made = 0
        self._rewinds = 0
        self._changed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)  # by plural
        # Of each change: the object before it, and then the owners of its fields if it was ever applied.
        self._past: list[tuple[Json | None, Owners | None]] = []
        self._writing: _Write | None = None
        self._lines_of: dict[int, tuple[str, bytes]] = {}  # by version: the type of an event, and its line

    @property
    def version(self) -> int:
        """The resourceVersion of the last change."""
        return len(self.changes)

    def get(self, plural: str, name: str, namespace: str = "ns") -> Json:
        """Return the object."""
        return self.objects[Key(plural, namespace, name)]

    def create(self, plural: str, body: Json, namespace: str = "ns") -> Json:
        """Store a new object, with its status if it has one."""
        key, item = self._new(plural, body, namespace)
        return self._store("ADDED", key, item)

    def update(self, key: Key, change: Callable[[Json], None]) -> Json:
        """Store the object as ``change`` returns it. A changed spec is a new generation."""
        after, owners = self._changed_by(key, change)
        if after is self.objects[key]:
            return after
        metadata = after["metadata"]
        awaited = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds") or key.plural == "namespaces"
        gone = "deletionTimestamp" in metadata and not awaited
        return self._store("DELETED" if gone else "MODIFIED", key, after, owners)

    def delete(self, plural: str, name: str, namespace: str = "ns") -> None:
        """Remove the object."""
        key = Key(plural, namespace, name)
        self._store("DELETED", key, copied(self._present(key)))

    def compact(self) -> None:
        """Forget the history, as etcd does after some minutes."""
        self.compacted = self.version

    def rewind(self, version: int) -> None:
        """Restore all objects as they were at this version, as a restore of etcd does. All watches break."""
        del self.changes[version:], self._past[version:]
        self._lines_of.clear()
        self.objects = self._as_of(version)
        self.compacted = min(self.compacted, version)
        self._rewinds += 1
        for changed in self._changed.values():
            changed.set()
        self._changed.clear()

    def collect_garbage(self) -> None:
        """Do the work of the controller manager: remove the objects of deleted owners and namespaces."""
        before = -1
        while before != self.version:
            before = self.version
            uids = {item["metadata"]["uid"] for item in self.objects.values()}
            for key in list(self.objects):
                self._collect_if_left(key, uids)

    def _collect_if_left(self, key: Key, uids: set[str]) -> None:
        if key.plural == "namespaces":
            if self._is_terminating(key) and not any(other.namespace == key.name for other in self.objects):
                self.delete(key.plural, key.name, key.namespace)
            return
        owners = self._present(key)["metadata"].get("ownerReferences") or []
        present = [owner for owner in owners if owner["uid"] in uids]
        if (owners and not present) or self._is_terminating(Key("namespaces", "", key.namespace)):
            self.end(key)
        elif owners != present:
            self.update(key, lambda item: item["metadata"].update(ownerReferences=present))

    def end(self, key: Key, grace: int | None = None) -> None:
        """Delete the object as a request does: at once, or when its finalizers or the processes of a Pod are gone."""
        metadata, seconds = self._present(key)["metadata"], 0
        pod = self.objects[key] if key.plural == "pods" else {}
        if pod.get("spec", {}).get("nodeName") and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            seconds = pod["spec"].get("terminationGracePeriodSeconds", _POD_GRACE) if grace is None else grace
        if not (metadata.get("finalizers") or seconds or key.plural == "namespaces"):
            self.delete(key.plural, key.name, key.namespace)
        elif not metadata.get("deletionTimestamp") or seconds < metadata.get("deletionGracePeriodSeconds", 0):
            stamp = (utc_now() + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
            item = copied(self.objects[key])
            item["metadata"] |= {"deletionTimestamp": stamp, "deletionGracePeriodSeconds": seconds}
            item["metadata"]["generation"] += "deletionTimestamp" not in metadata
            if key.plural == "namespaces":
                item["status"] = {"phase": "Terminating"}
            self._store("MODIFIED", key, item, self._owners(key))

    def _new(self, plural: str, body: Json, namespace: str) -> tuple[Key, Json]:
        metadata = body.setdefault("metadata", {})
        if namespace:
            metadata["namespace"] = namespace
        name = metadata.setdefault("name", f"{metadata.get('generateName', '')}{self._made + 1}")
        key = Key(plural, namespace, name)
        if key in self.objects:
            raise Refused(409, "AlreadyExists", f'{plural} "{name}" already exists')
        metadata |= {"uid": f"uid-{self._made + 1}", "generation": 1, "creationTimestamp": now_seconds()}
        self._admit(key, body)
        return key, body

    def _admit(self, key: Key, item: Json, before: Json | None = None) -> None:
        """Complete the object by its schema. Raises Refused if the schema rejects it."""
        if key.plural == "pods" and before is not None and (why := pod_errors(before, item)):
            raise Refused(422, "Invalid", f'Pod "{key.name}" is invalid: {why}')
        if (rules := rules_of(key.plural)) is None:
            return
        rules.complete_object(item, before)
        if item != before and (found := rules.errors(item, before)):
            raise Refused(422, "Invalid", f'{key.plural} "{key.name}" is invalid: {"; ".join(found)}')

    def _changed_by(self, key: Key, change: Callable[[Json], None]) -> tuple[Json, Owners | None]:
        """Return the object as ``change`` returns it, without storing it, and the owners of its fields."""
        writing, self._writing = self._writing, None
        before, owners = self._present(key), self._owners(key)
        after = copied(before)
        change(after)
        kept = {name: before["metadata"][name] for name in _KEPT if name in before["metadata"]}
        after["metadata"] |= kept | {"resourceVersion": before["metadata"]["resourceVersion"]}
        self._admit(key, after, before)
        if writing is not None and writing.owners is not None:
            owners = writing.owners
        elif owners is not None and after != before:
            owners = updated(before, after, shape_of(key.plural), owners)
        if owners is not None and writing is not None and (after != before or owners != self._owners(key)):
            writing.sign(after["metadata"])
        if after == before:
            return before, owners
        after["metadata"]["generation"] += after.get("spec") != before.get("spec")
        return after, owners

    def _store(self, kind: str, key: Key, item: Json, owners: Owners | None = None) -> Json:
        item["metadata"]["resourceVersion"] = str(self.version + 1)
        self._made += kind == "ADDED"
        before = self.objects.get(key)
        self._past.append((before, owners))
        if kind == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = item
        self.changes.append((self.version + 1, kind, key, item))
        self._changed.pop(key.plural, asyncio.Event()).set()
        for listener in self.listeners:
            listener(key, before, None if kind == "DELETED" else item)
        return item

    def _present(self, key: Key) -> Json:
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{key.plural} "{key.name}" not found')
        return self.objects[key]

    def _past_of(self, key: Key) -> tuple[Json | None, Owners | None]:
        return self._past[int(self.objects[key]["metadata"]["resourceVersion"]) - 1]

    def _owners(self, key: Key) -> Owners | None:
        return self._past_of(key)[1]

    def _is_terminating(self, key: Key) -> bool:
        return key in self.objects and "deletionTimestamp" in self.objects[key]["metadata"]

    def _as_of(self, version: int) -> dict[Key, Json]:
        """Return the objects as they were at this version."""
        objects: dict[Key, Json] = {}
        for _, kind, key, item in self.changes[:version]:
            if kind == "DELETED":
                del objects[key]
            else:
                objects[key] = item
        return objects

    # over HTTP, without HTTP

    def request(self, method: str, url: str, payload: bytes | None, content_type: str | None) -> Json:
        """Return the response's body. Raises Refused."""
        key, subresource, query = _parsed(url)
        if method == "GET":
            return self._read(key, query)
        body, dry = msgspec.json.decode(payload or b"{}"), "dryRun" in query
        if method == "DELETE":
            self._check(key, body.get("preconditions", {}))
            if not dry:
                self.end(key, body.get("gracePeriodSeconds"))
                self._note(method, key, {})
            return {}
        write = _Write(method, body, content_type, subresource, query.get("fieldManager", "Python"))
        makes = content_type == APPLY_PATCH or (method == "PUT" and key.plural in _MADE_BY_REPLACE)
        if method == "POST" or (makes and key not in self.objects and not subresource):
            return self._create(key, write, dry=dry)

        def change(item: Json) -> None:
            self._change(key, item, write)

        self._writing = write
        if dry:
            return self._changed_by(key, change)[0]
        stored = self.update(key, change)
        self._note(method, key, stored)
        return stored

    def _create(self, key: Key, write: _Write, *, dry: bool) -> Json:
        body = write.body
        self._check_namespace(key.namespace)
        metadata = body.setdefault("metadata", {})
        if write.method != "POST" and metadata.get("uid"):
            raise Refused(409, "Conflict", "the object that is to be changed is not there")
        if key.plural in _STATUS_APART:
            body.pop("status", None)
        if key.plural == "pods":
            complete_pod(body)
        self.mutation(key, body)
        if why := self.policy(key, body):
            raise Refused(403, "Forbidden", why)
        if dry:
            return self._new(key.plural, body, key.namespace)[1]
        _, owners = applied({"metadata": {}}, body, shape_of(key.plural), {}, (write.manager, ""))
        stored = self.create(key.plural, body, key.namespace)
        if write.content_type == APPLY_PATCH:
            write.owners = owners
            write.sign(stored["metadata"])
            self._past[-1] = (None, owners)
        self._note(write.method, key._replace(name=stored["metadata"]["name"]), stored)
        return stored

    def _check_namespace(self, name: str) -> None:
        """Reject objects in a missing namespace; a server without any Namespace has all of them."""
        if name and any(key.plural == "namespaces" for key in self.objects):
            key = Key("namespaces", "", name)
            self._present(key)
            if self._is_terminating(key):
                raise Refused(403, "Forbidden", f"namespace {name} is being terminated", "NamespaceTerminating")

    def _note(self, method: str, key: Key, stored: Json) -> None:
        self.writes.append((asyncio.get_running_loop().time(), method, key, stored))

    def _read(self, key: Key, query: dict[str, str]) -> Json:
        if key.name:
            return self._present(key)
        check_selected(key, query)
        version, start, objects = self.version, None, self.objects
        if token := query.get("continue"):
            version, start = json.loads(base64.urlsafe_b64decode(token))
            if version < self.compacted:
                raise Refused(410, "Expired", "the provided continue parameter is too old")
            objects = self._as_of(version)
        names = sorted([*at[1:]] for at, item in objects.items() if _listed(key, at, item, query))
        rest = [name for name in names if start is None or name > start]
        page = rest[: int(query.get("limit") or len(rest))]
        metadata = {"resourceVersion": str(version)}
        if len(page) < len(rest):
            metadata["continue"] = _token(version, page[-1])
        return {"metadata": metadata, "items": [objects[Key(key.plural, *name)] for name in page]}

    def _change(self, key: Key, item: Json, write: _Write) -> None:
        """Change the object as the request asks."""
        before, body, part = dict(item), write.body, write.subresource  # only a JSON patch changes what is inside
        # A status is patched or applied to any object with this name.
        ignored = {"uid": None} if part and write.method != "PUT" else {}
        if write.content_type == JSON_PATCH:
            changed = copied(item)
            try:
                patch_json(changed, body)
            except PatchError as error:
                raise Refused(422, "Invalid", str(error)) from error
        elif write.content_type == APPLY_PATCH:
            self._check(key, body["metadata"] | ignored)
            given = {name: value for name, value in body.items() if (name == "status") == (part == "status")}
            given["metadata"] = {} if part else body["metadata"]
            shape, who = shape_of(key.plural), (write.manager, part)
            changed, write.owners = applied(before, given, shape, self._owners(key), who)
        else:
            self._check(key, body.get("metadata", {}) | ignored)
            if write.method == "PUT" and key.plural in _VERSION_NEEDED and not body["metadata"].get("resourceVersion"):
                raise Refused(422, "Invalid", "metadata.resourceVersion: must be specified for an update")
            changed = body if write.method == "PUT" else merged(item, body)
        if part:
            changed = before | ({part: changed[part]} if part in changed else {})
        elif key.plural in _STATUS_APART:
            changed = {name: value for name, value in changed.items() if name != "status"}
            changed |= {"status": before["status"]} if "status" in before else {}
        changed = copied(changed)
        if not part:
            self.mutation(key, changed)
        item.clear()
        item.update(changed)

    def _check(self, key: Key, expected: Json) -> None:
        """Check the preconditions of a write."""
        present = self._present(key)["metadata"]
        for field in ("uid", "resourceVersion"):
            if expected.get(field) not in (None, "", present[field]):
                raise Refused(409, "Conflict", f"{key.plural} {key.name}: {field} is {present[field]}")

    async def watch(self, url: str) -> AsyncIterator[bytes]:
        """Yield the lines of a watch, with bookmarks if they are allowed; it breaks when the objects are restored."""
        key, _, query = _parsed(url)
        check_selected(key, query)
        seen, rewinds, loop = int(query["resourceVersion"]), self._rewinds, asyncio.get_running_loop()
        end = loop.time() + float(query.get("timeoutSeconds", "inf"))
        mark = min(loop.time() + _BOOKMARK_SECONDS, end) if _has_bookmarks(query) else end
        if seen < self.compacted:
            yield _line("ERROR", status_of(Refused(410, "Expired", f"too old resource version: {seen}")))
            return
        while loop.time() < end:
            if rewinds != self._rewinds:
                raise aiohttp.ClientConnectionError("the API server has ended")
            news = [change for change in self.changes[seen:] if change[2].plural == key.plural]
            lines = [line for change in news for line in self._lines(key, query, *change)]
            seen = max(seen, self.version)
            for line in lines:
                yield line
            if mark <= loop.time() < end:
                yield _line("BOOKMARK", {"metadata": {"resourceVersion": str(seen)}})
                mark = min(mark + _BOOKMARK_SECONDS, end)
            if any(at.plural == key.plural for _, _, at, _ in self.changes[seen:]):
                continue  # a write was made while a line was consumed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if mark == float("inf") else mark):
                    await self._changed[key.plural].wait()
            await asyncio.sleep(_LATENCY)

    def _lines(self, key: Key, query: dict[str, str], version: int, kind: str, at: Key, item: Json) -> Iterator[bytes]:
        """Yield a watch's lines for a change: an object that is not selected any more is deleted to the watch."""
        before, _ = self._past[version - 1]
        is_old = before is not None and _listed(key, at, before, query)
        if kind != "DELETED" and _listed(key, at, item, query):
            kind = "MODIFIED" if is_old else "ADDED"
            if self._lines_of.get(version, ("",))[0] != kind:
                self._lines_of[version] = kind, _line(kind, item)
            yield self._lines_of[version][1]
        elif is_old and before is not None:
            last = before["metadata"] | {"resourceVersion": item["metadata"]["resourceVersion"]}
            yield _line("DELETED", before | {"metadata": last})


class _Answer:
    def __init__(self, status: int, body: Json, lines: AsyncIterator[bytes] | None = None) -> None:
        self.status, self.headers, self.content = status, dict[str, str](), self
        self._body, self._lines = body, lines

    async def read(self) -> bytes:
        if self._lines is not None:
            return b"".join([line async for line in self._lines])
        return msgspec.json.encode(self._body)

    def iter_any(self) -> AsyncIterator[bytes]:
        assert self._lines is not None
        return self._lines


class Wire:
    """The connection of one program to the API server: unless it is ``whole``, nothing arrives."""

    def __init__(self) -> None:
        self.whole = asyncio.Event()
        self.whole.set()


class MemoryClient(Client):
    """A client of the API server in memory."""

    def __init__(self, api: MemoryApi, wire: Wire, namespace: str = "ns") -> None:
        async def no_token() -> str | None:
            return None

        super().__init__(Config(host="", namespace=namespace, ssl=False, token=no_token))
        self._api, self._wire = api, wire

    async def __aenter__(self) -> MemoryClient:
        return self

    def send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        payload: bytes | None,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
        accept: str = "",
    ) -> AbstractAsyncContextManager[Answer]:
        """Return the response to one request, after a moment."""
        url = path + "?" + urlencode({name: value for name, value in (query or {}).items() if value})

        @asynccontextmanager
        async def sending() -> AsyncIterator[Answer]:
            await asyncio.sleep(_LATENCY)
            async with asyncio.timeout(timeout.total or timeout.sock_read):
                await self._wire.whole.wait()
                if query and "dryRun" in query:
                    await asyncio.sleep(self._api.dry_run_seconds)
                if method != "GET":
                    await asyncio.sleep(self._api.webhook_seconds(_parsed(url)[0]))
            if query and "watch" in query:
                yield _Answer(200, {}, self._followed(url))
                return
            try:
                body = self._api.request(method, url, payload, content_type)
            except Refused as refused:
                yield _Answer(refused.code, status_of(refused))
                return
            await asyncio.sleep(_LATENCY)
            yield _Answer(200, body)

        return sending()

    async def _followed(self, url: str) -> AsyncIterator[bytes]:
        async for line in self._api.watch(url):
            await self._wire.whole.wait()
            yield line


@functools.lru_cache(1000)
def _parsed(url: str) -> tuple[Key, str, dict[str, str]]:
    """Return the key (its name "" for a collection, its namespace "" for all), the subresource and the query."""
    split = urlsplit(url)
    parts = split.path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = (*parts, "", "")[:3]
    query = {field: value for field, (value, *_) in parse_qs(split.query).items()}
    return Key(plural, namespace, name), subresource, query


def _listed(wanted: Key, at: Key, item: Json, query: dict[str, str]) -> bool:
    return at.plural == wanted.plural and wanted.namespace in ("", at.namespace) and is_selected(item, query)


def _token(version: int, last: list[str]) -> str:
    """The continue token of a list at this version, after the object with this namespace and name."""
    return base64.urlsafe_b64encode(json.dumps([version, last]).encode()).decode()


def old_list(version: int) -> str:
    """The continue token of a list at this version from its beginning, as a list of an API server that is behind."""
    return _token(version, ["", ""])


def _has_bookmarks(query: dict[str, str]) -> bool:
    return query.get("allowWatchBookmarks") in ("1", "true")


def _line(kind: str, item: Json) -> bytes:
    return msgspec.json.encode({"type": kind, "object": item}) + b"\n"
