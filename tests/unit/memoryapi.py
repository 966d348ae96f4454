"""An API server in memory, and a client of it that opens no connection.

It keeps what operator and agents rest on: uids, generations, resourceVersions, conditional writes, and watches in the
order of the writes. An apply owns all that it names; nobody admits, defaults or collects anything.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import aiohttp

from processhub.cluster.client import APPLY_PATCH, JSON_PATCH, Client
from processhub.cluster.config import Config
from processhub.cluster.sending import Answer
from processhub.cluster.timestamps import now_seconds

Json = dict[str, Any]
_LATENCY = 0.002  # seconds
_STATUS_APART = {"hubs", "children", "childsets", "registryslices", "pods", "statefulsets"}


class Key(NamedTuple):
    """Where an object is."""

    plural: str
    namespace: str
    name: str


class Refused(Exception):  # noqa: N818 it is an answer
    """An error that the API server answers with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class MemoryApi:
    """The objects by key, and every change of one: (version, type, key, object)."""

    def __init__(self) -> None:
        self.objects: dict[Key, Json] = {}
        self.changes: list[tuple[int, str, Key, Json]] = []
        self.writes: list[tuple[float, str, Key, Json]] = []  # the loop's time, the method, what was stored
        self._made = 0
        self._rewinds = 0
        self._changed = asyncio.Event()

    @property
    def version(self) -> int:
        """The resourceVersion of the last change."""
        return len(self.changes)

    def get(self, plural: str, name: str, namespace: str = "ns") -> Json:
        """The object as it is."""
        return self.objects[Key(plural, namespace, name)]

    def create(self, plural: str, body: Json, namespace: str = "ns") -> Json:
        """Store a new object, with its status where it has one."""
        metadata = body.setdefault("metadata", {})
        if namespace:
            metadata["namespace"] = namespace
        self._made += 1
        name = metadata.setdefault("name", f"{metadata.get('generateName', '')}{self._made}")
        key = Key(plural, namespace, name)
        if key in self.objects:
            raise Refused(409, "AlreadyExists")
        metadata |= {"uid": f"uid-{self._made}", "generation": 1, "creationTimestamp": now_seconds()}
        return self._store("ADDED", key, body)

    def update(self, key: Key, change: Callable[[Json], None]) -> Json:
        """Store the object as ``change`` leaves it. A changed spec is a new generation."""
        if key not in self.objects:
            raise Refused(404, "NotFound")
        before = self.objects[key]
        after = copy.deepcopy(before)
        change(after)
        after["metadata"] |= {name: before["metadata"][name] for name in ("uid", "name", "generation")}
        if after == before:
            return before
        after["metadata"]["generation"] += after.get("spec") != before.get("spec")
        return self._store("MODIFIED", key, after)

    def delete(self, plural: str, name: str, namespace: str = "ns") -> None:
        """Remove the object."""
        key = Key(plural, namespace, name)
        if key not in self.objects:
            raise Refused(404, "NotFound")
        self._store("DELETED", key, copy.deepcopy(self.objects[key]))
        del self.objects[key]

    def rewind(self, version: int) -> None:
        """Put back all objects as they were at this version, as a restore of etcd does. All watches break."""
        del self.changes[version:]
        self.objects = {}
        for _, kind, key, item in self.changes:
            if kind == "DELETED":
                del self.objects[key]
            else:
                self.objects[key] = item
        self._rewinds += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _store(self, kind: str, key: Key, item: Json) -> Json:
        item["metadata"]["resourceVersion"] = str(self.version + 1)
        self.objects[key] = item
        self.changes.append((self.version + 1, kind, key, item))
        self._changed.set()
        self._changed = asyncio.Event()
        return item

    # over HTTP, without HTTP

    def request(self, method: str, url: str, payload: bytes | None, content_type: str | None) -> Json:
        """The answer's body. Raises Refused."""
        key, subresource, query = _parsed(url)
        if method == "GET":
            return self._read(key, query)
        body = json.loads(payload or b"{}")
        now = asyncio.get_running_loop().time()
        if "dryRun" in query:
            return dict(copy.deepcopy(self.objects.get(key) or body))
        if method == "DELETE":
            self._check(key, body.get("preconditions", {}))
            self.delete(key.plural, key.name, key.namespace)
            self.writes.append((now, method, key, {}))
            return {}
        if method == "POST":
            body.pop("status", None)
            stored = self.create(key.plural, body, key.namespace)
        elif content_type == APPLY_PATCH and key not in self.objects:
            if subresource:
                raise Refused(404, "NotFound")
            body["metadata"].pop("resourceVersion", None)
            stored = self.create(key.plural, body, key.namespace)
        else:
            stored = self.update(key, lambda item: self._change(key, item, method, body, content_type, subresource))
        self.writes.append((now, method, key, stored))
        return stored

    def _read(self, key: Key, query: dict[str, str]) -> Json:
        if key.name:
            if key not in self.objects:
                raise Refused(404, "NotFound")
            return self.objects[key]
        found = [item for at, item in self.objects.items() if _listed(key, at, item, query)]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": found}

    def _change(self, key: Key, item: Json, method: str, body: Any, content_type: str | None, subresource: str) -> None:
        if content_type == JSON_PATCH:
            for operation in body:
                _patch(item, operation)
            return
        self._check(key, body.get("metadata", {}))
        if subresource:
            item[subresource] = (
                body[subresource] if method == "PUT" else _merged(item.get(subresource, {}), body[subresource])
            )
            return
        changed = body if method == "PUT" else _merged(item, body)
        if key.plural in _STATUS_APART:
            changed = {name: value for name, value in changed.items() if name != "status"}
            changed |= {"status": item["status"]} if "status" in item else {}
        item.clear()
        item.update(copy.deepcopy(changed))

    def _check(self, key: Key, expected: Json) -> None:
        """The preconditions of a write."""
        if key not in self.objects:
            raise Refused(404, "NotFound")
        present = self.objects[key]["metadata"]
        for field in ("uid", "resourceVersion"):
            if expected.get(field) not in (None, "", present[field]):
                raise Refused(409, "Conflict")

    async def watch(self, url: str) -> AsyncIterator[bytes]:
        """The lines of a watch; it never ends, but breaks when the objects are put back."""
        key, _, query = _parsed(url)
        seen, rewinds = int(query["resourceVersion"]), self._rewinds
        while True:
            if rewinds != self._rewinds:
                raise aiohttp.ClientConnectionError("the API server has ended")
            for version, kind, at, item in self.changes[seen:]:
                if _listed(key, at, item, query):
                    yield json.dumps({"type": kind, "object": item}).encode() + b"\n"
                seen = version
            await self._changed.wait()
            await asyncio.sleep(_LATENCY)


class _Answer:
    def __init__(self, status: int, body: Json, lines: AsyncIterator[bytes] | None = None) -> None:
        self.status, self.headers, self.content = status, dict[str, str](), self
        self._body, self._lines = body, lines

    async def read(self) -> bytes:
        return json.dumps(self._body).encode()

    def iter_any(self) -> AsyncIterator[bytes]:
        assert self._lines is not None
        return self._lines


class Wire:
    """The connection of one program to the API server: while it is not ``whole``, nothing arrives."""

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
        """The answer to one request, after a moment."""
        url = path + "?" + "&".join(f"{name}={value}" for name, value in (query or {}).items() if value)

        @asynccontextmanager
        async def sending() -> AsyncIterator[Answer]:
            await asyncio.sleep(_LATENCY)
            async with asyncio.timeout(timeout.total or timeout.sock_read):
                await self._wire.whole.wait()
            if query and "watch" in query:
                yield _Answer(200, {}, self._followed(url))
                return
            try:
                body = self._api.request(method, url, payload, content_type)
            except Refused as refused:
                status = {"kind": "Status", "reason": refused.reason, "message": refused.reason, "code": refused.code}
                yield _Answer(refused.code, status)
                return
            await asyncio.sleep(_LATENCY)
            yield _Answer(200, body)

        return sending()

    async def _followed(self, url: str) -> AsyncIterator[bytes]:
        async for line in self._api.watch(url):
            await self._wire.whole.wait()
            yield line


def _parsed(url: str) -> tuple[Key, str, dict[str, str]]:
    """The key (its name "" for a collection, its namespace "" for all), the subresource, the query."""
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
    labels = item["metadata"].get("labels") or {}
    fields = [term.partition("=") for term in query.get("fieldSelector", "").split(",") if term]
    return (
        at.plural == wanted.plural
        and wanted.namespace in ("", at.namespace)
        and all(_field(item, name) == value for name, _, value in fields)
        and all(_has_label(labels, term) for term in query.get("labelSelector", "").split(",") if term)
    )


def _field(item: Json, path: str) -> Any:
    for part in path.split("."):
        item = item.get(part, {})
    return item


def _has_label(labels: dict[str, str], term: str) -> bool:
    name, equals, value = term.partition("=")
    assert not name.endswith("!"), "no part that is tested excludes labels"
    return labels.get(name) == value if equals else name in labels


def _merged(before: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _patch(item: Json, operation: Json) -> None:
    """One operation of a JSON patch (RFC 6902) on an object's fields."""
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    place: Any = item
    for name in parents:
        place = place[name]
    if operation["op"] == "test":
        if place.get(last) != operation["value"]:
            raise Refused(422, "Invalid")
    elif operation["op"] == "remove":
        del place[last]
    else:
        place[last] = operation["value"]
