"""A thin asynchronous client of the API server: raw HTTP, typed results, errors that callers can catch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec

from processhub.cluster.config import Config, ConfigError, Overrides
from processhub.cluster.decoding import Decoding, Undecodable, WatchEvent
from processhub.cluster.errors import ConnectionFailedError, ForbiddenError, InvalidError, reason_of
from processhub.cluster.kinds import Kind
from processhub.cluster.kubeconfig import read_config
from processhub.cluster.sending import Answer, new_session, opened, raise_for_status, sending, shake_hands

T = TypeVar("T")
log = logging.getLogger(__name__)

PAGE = 2000  # objects for each list request; with 500, lists of 10,000 take twice as long
LIST_SECONDS = 60.0  # for each list request; the API server itself ends one after so long
_CONNECTIONS = 64
_WATCH_SECONDS = 290
_RELOAD_AFTER_SECONDS = 5.0

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_JSON = "application/json"


class Client:
    """A connection pool to one API server. Use it as an async context manager.

    All methods raise subclasses of ApiError. ConnectionFailedError means that the outcome is unknown.
    """

    def __init__(self, config: Config, reload: Callable[[], Awaitable[Config]] | None = None) -> None:
        self.config = config
        self._reload = reload
        self._reloaded_at = float("-inf")
        self._reloading = asyncio.Lock()  # an exec plug-in takes seconds: requests that are refused meanwhile wait, too
        self._session: aiohttp.ClientSession | None = None
        # Watches and WebSockets keep their connections for long: they must not leave none for requests. An operator
        # has more than a dozen watches in each of its namespaces.
        self._streams: aiohttp.ClientSession | None = None
        self._decoding = Decoding()
        self.writes = 0  # counted for benchmarks and metrics

    @classmethod
    async def connect(
        cls,
        context: str | None = None,
        kubeconfig: str | None = None,
        *,
        overrides: Overrides | None = None,
        pod_first: bool = False,
    ) -> Self:
        """A client for the kubeconfig's context or the pod's service account; ``overrides`` come before their fields.

        ``pod_first``: see ``read_config``. Raises ConfigError.
        """

        async def load() -> Config:
            return await read_config(context, kubeconfig, overrides, pod_first=pod_first)

        return cls(await load(), reload=load)

    @classmethod
    async def connect_in_pod(cls) -> Self:
        """A client for a program of ours: for its pod's service account, else of a kubeconfig. Raises ConfigError."""
        return await cls.connect(pod_first=True)

    @property
    def namespace(self) -> str:
        """The namespace of the context or of the pod."""
        return self.config.namespace

    async def __aenter__(self) -> Self:
        self._session, self._streams = new_session(_CONNECTIONS), new_session()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._session, self._streams):
            if session is not None:
                await session.close()
        self._session = self._streams = None

    # Reading.

    async def get(self, kind: Kind[T], namespace: str | None, name: str, *, timeout: float = 30) -> T:
        """Get an object by a consistent read."""
        return self._decoding.one(kind, await self._request("GET", kind.path(namespace, name), timeout=timeout))

    async def list(
        self,
        kind: Kind[T],
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        silence: float = LIST_SECONDS,
    ) -> tuple[list[T | Undecodable], str]:
        """List objects by a consistent read, in pages of one revision; returns ``(objects, resourceVersion)``.

        It fails when nothing of an answer arrives for ``silence`` seconds.
        """
        items: list[T | Undecodable] = []
        query = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields}
        path, accept = kind.path(namespace), _accept(kind, "PartialObjectMetadataList")
        while True:
            body = await self._request("GET", path, query=query, timeout=LIST_SECONDS, silence=silence, accept=accept)
            page, metadata = self._decoding.page(kind, body)
            items += page
            if not metadata.next_token:
                return items, metadata.resource_version
            query["continue"] = metadata.next_token

    async def latest_version(
        self,
        kind: Kind[Any],
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        silence: float = LIST_SECONDS,
    ) -> str:
        """The resourceVersion that a list would have now, by a consistent read of one object at most."""
        query = {"limit": "1", "labelSelector": labels, "fieldSelector": fields}
        accept = _accept(kind, "PartialObjectMetadataList")
        body = await self._request("GET", kind.path(namespace), query=query, silence=silence, accept=accept)
        return self._decoding.metadata(kind, body).resource_version

    async def watch(
        self, kind: Kind[T], namespace: str | None, resource_version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Sequence[WatchEvent]]:
        """Yield events after ``resource_version``, in batches that arrived together, until the server ends the watch.

        Raises GoneError if the version is too old.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(_WATCH_SECONDS),
            "labelSelector": labels,
            "fieldSelector": fields,
        }
        config = self.config
        try:
            # For a kind without changes the server sends nothing, not even bookmarks. After that silence the watch is
            # opened again at its last version: if the connection is dead, this fails; otherwise the watch continues.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
            accept = _accept(kind, "PartialObjectMetadata")
            async with self.send("GET", kind.path(namespace), query, None, None, timeout, accept) as answer:
                await raise_for_status(answer)
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if lines:
                        yield [self._decoding.event(kind, line) for line in lines if line]
        except aiohttp.SocketTimeoutError:
            return
        except aiohttp.ClientConnectorCertificateError as error:
            await self._reloaded(config)
            raise ConnectionFailedError(f"watch of {kind.plural} broke: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConnectionFailedError(f"watch of {kind.plural} broke: {reason_of(error)}") from error

    # Writing.

    async def create(
        self, kind: Kind[T], namespace: str | None, body: object, *, dry_run: bool = False, strict: bool = False
    ) -> T:
        """Create an object; returns it as stored. Raises AlreadyExistsError, InvalidError.

        Fields that the API server does not know are left out, and with ``strict`` rejected.
        """
        query = ({"dryRun": "All"} if dry_run else {}) | ({"fieldValidation": "Strict"} if strict else {})
        return self._decoding.one(kind, await self._request("POST", kind.path(namespace), query=query, body=body))

    async def replace(
        self, kind: Kind[T], namespace: str | None, name: str, body: object, *, subresource: str | None = None
    ) -> T:
        """Replace an object (PUT); returns it as stored. Raises ConflictError for an old resourceVersion or uid."""
        return self._decoding.one(kind, await self._request("PUT", kind.path(namespace, name, subresource), body=body))

    async def patch(
        self,
        kind: Kind[T],
        namespace: str | None,
        name: str,
        body: object,
        *,
        content_type: str = MERGE_PATCH,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> T:
        """Send a merge patch (or a JSON patch by ``content_type``); returns the object as it is, or would be."""
        path, query = kind.path(namespace, name, subresource), {"dryRun": "All"} if dry_run else None
        return self._decoding.one(
            kind, await self._request("PATCH", path, query=query, body=body, content_type=content_type)
        )

    async def apply(
        self,
        kind: Kind[T],
        namespace: str | None,
        name: str,
        body: object,
        *,
        manager: str = "processhub",
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> T:
        """Apply an object by force: this manager then owns its fields. Returns the object as it is, or would be."""
        query = {"fieldManager": manager, "force": "true"} | ({"dryRun": "All"} if dry_run else {})
        answer = await self._request(
            "PATCH", kind.path(namespace, name, subresource), query=query, body=body, content_type=APPLY_PATCH
        )
        return self._decoding.one(kind, answer)

    async def delete(
        self,
        kind: Kind[Any],
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_seconds: int | None = None,
    ) -> None:
        """Delete an object, under the given preconditions. Raises NotFoundError, ConflictError."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options: dict[str, Any] = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {key: value for key, value in preconditions.items() if value},
        }
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        await self._request("DELETE", kind.path(namespace, name), body=options)

    async def raw(self, method: str, path: str, *, query: dict[str, str] | None = None, body: object = None) -> bytes:
        """Send any other request (tokens, logs, discovery); returns the body of the answer."""
        return await self._request(method, path, query=query, body=body)

    @asynccontextmanager
    async def websocket(
        self, path: str, query: Mapping[str, str | Sequence[str]], protocol: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket to a path that offers one (port-forward, exec), with this subprotocol."""
        where = f"{path}?{urlencode(query, doseq=True)}"
        try:
            socket = await self._shake_hands(where, protocol)
            try:
                yield socket
            finally:
                await socket.close()
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise ConnectionFailedError(f"{path}: {reason_of(error)}") from error

    # Internal.

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: object = None,
        content_type: str = _JSON,
        timeout: float = 30,
        silence: float | None = None,
        accept: str = _JSON,
    ) -> bytes:
        try:
            payload = None if body is None else msgspec.json.encode(body)
        except UnicodeEncodeError as error:
            # Rejected here, so that the caller can report it. Otherwise the task for all objects would end.
            raise InvalidError(
                400, "BadRequest", f"{method} {path}: it has text without UTF-8: {error.reason}"
            ) from error
        if method != "GET":
            self.writes += 1
        limits = aiohttp.ClientTimeout(total=self.config.request_timeout or timeout, sock_read=silence)
        for attempt in (1, 2):
            config = self.config
            try:
                async with self.send(method, path, query, payload, content_type, limits, accept) as answer:
                    await raise_for_status(answer)
                    return await answer.read()
            except ForbiddenError as error:
                if error.status != 401 or attempt == 2 or not await self._reloaded(config):
                    raise
            except aiohttp.ClientConnectorCertificateError as error:
                # Nothing was sent, so a write may be sent again.
                if attempt == 2 or not await self._reloaded(config):
                    raise ConnectionFailedError(f"{method} {path}: {error}") from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise ConnectionFailedError(f"{method} {path}: {reason_of(error)}") from error
        raise AssertionError("unreachable")

    async def _shake_hands(self, where: str, protocol: str) -> aiohttp.ClientWebSocketResponse:
        for config in (self.config, None):
            try:
                return await shake_hands(opened(self._streams), config or self.config, where, protocol)
            except ForbiddenError as error:
                if error.status != 401 or config is None or not await self._reloaded(config):
                    raise
        raise AssertionError("unreachable")

    async def _reloaded(self, refused: Config) -> bool:
        """Read the credentials again, because a token or the cluster's CA may have been rotated.

        Returns whether there are others now than the refused ones. They are read once in a few seconds only.
        """
        async with self._reloading:
            if self.config is not refused:
                return True
            now = asyncio.get_running_loop().time()
            if self._reload is None or now - self._reloaded_at < _RELOAD_AFTER_SECONDS:
                return False
            self._reloaded_at = now
            try:
                self.config = await self._reload()
            except ConfigError as error:
                log.warning("credentials not read again: %s", error)
                return False
            return True

    def send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        payload: bytes | None,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
        accept: str = _JSON,
    ) -> AbstractAsyncContextManager[Answer]:
        """Send one request. All methods except ``websocket`` use this one, so a simulation overrides only it."""
        given = {key: value for key, value in (query or {}).items() if value}
        url = self.config.host + path + ("?" + urlencode(given) if given else "")
        session = self._streams if "watch" in given else self._session
        return sending(opened(session), self.config, method, url, payload, content_type, timeout, accept)


def _accept(kind: Kind[Any], shape: str) -> str:
    """The Accept header of a list or watch; ``shape`` is the kind that has only metadata."""
    return f"{_JSON};as={shape};g=meta.k8s.io;v=v1" if kind.metadata_only else _JSON
