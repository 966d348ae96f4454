"""What the API server answers, decoded: objects, pages of lists and events of watches.

An object that does not fit its struct, or is nested too deeply, spoils neither its page nor its watch.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from processhub.api.meta import ObjectMeta
from processhub.api.wording import wrong_json
from processhub.cluster import deepjson
from processhub.cluster.errors import ApiError, GoneError, UnreadableError, readable
from processhub.cluster.kinds import Kind

T = TypeVar("T")


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    """The metadata of a list."""

    resource_version: str = ""
    next_token: str = msgspec.field(default="", name="continue")


class _Raw(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw] | None = None
    metadata: ListMeta = ListMeta()


class _RawEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _BareObject(msgspec.Struct, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


class Undecodable(msgspec.Struct, frozen=True):
    """An object that does not fit its struct (written before a change of the schema): its metadata and the error.

    ``body``: its JSON, without what is nested too deeply.
    """

    metadata: ObjectMeta
    error: str
    body: bytes = b"{}"


class WatchEvent(msgspec.Struct, frozen=True):
    """One event of a watch. ``object`` is of the kind's type, or Undecodable; a BOOKMARK has only metadata."""

    type: str
    object: Any


class Decoding:
    """Decoders, made once for each kind. All methods raise ConnectionFailedError for what no API server answers."""

    def __init__(self) -> None:
        self._decoders: dict[type, msgspec.json.Decoder[Any]] = {}

    def one(self, kind: Kind[T], body: bytes) -> T:
        """One object. Raises ApiError for one that does not fit its struct or is nested too deeply."""
        if kind.free and deepjson.is_deep(body):
            raise _too_deep(kind)
        try:
            with readable(kind.plural):
                if kind.metadata_only:
                    return deepjson.decode(body, kind.type)[0]
                try:
                    return self._decoder(kind.type).decode(body)
                except msgspec.ValidationError as error:
                    if not (name := deepjson.decode(body, _BareObject)[0].metadata.name):
                        raise
                    why = wrong_json(error, body, kind.type)
                    raise UnreadableError(
                        f"{kind.plural}/{name}: {why}. Or are the CRDs of a later release than this program?"
                    ) from error
        except RecursionError as error:
            raise _too_deep(kind) from error

    def page(self, kind: Kind[T], body: bytes) -> tuple[list[T | Undecodable], ListMeta]:
        """The objects of one page of a list, and its metadata."""
        with readable(kind.plural):
            page, cut = deepjson.decode(body, _Raw)
        return [self._leniently(kind, raw, cut=cut) for raw in page.items or ()], page.metadata

    def metadata(self, kind: Kind[Any], body: bytes) -> ListMeta:
        """The metadata of a page of a list."""
        with readable(kind.plural):
            return deepjson.decode(body, _Raw)[0].metadata

    def event(self, kind: Kind[Any], line: bytes) -> WatchEvent:
        """One event of a watch. Raises ApiError for one that says an error, GoneError if the version is too old."""
        with readable(kind.plural):
            event, cut = deepjson.decode(line, _RawEvent)
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=dict[str, Any])
            code = int(status.get("code") or 500)
            message = str(status.get("message", "watch failed"))
            if code == 410:
                raise GoneError(code, "Expired", message)
            raise ApiError(code, str(status.get("reason", "")), message)
        if event.type == "BOOKMARK":
            with readable(kind.plural):
                return WatchEvent("BOOKMARK", msgspec.json.decode(event.object, type=_BareObject))
        return WatchEvent(event.type, self._leniently(kind, event.object, cut=cut))

    def _decoder(self, kind: type[T]) -> msgspec.json.Decoder[T]:
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind)
        return decoder

    def _leniently(self, kind: Kind[Any], body: msgspec.Raw, *, cut: bool) -> Any:
        """Decode an object; ``cut``: something was cut out of the answer that it came with (deepjson.py)."""
        text = deepjson.TOO_DEEP
        try:
            if not ((cut or kind.free) and deepjson.is_deep(bytes(body))):
                return self._decoder(kind.type).decode(body)
        except msgspec.ValidationError as error:
            with suppress(RecursionError):
                text = wrong_json(error, bytes(body), kind.type)
        except RecursionError:
            pass
        with readable(kind.plural):
            metadata = deepjson.decode(bytes(body), _BareObject)[0].metadata
            return Undecodable(metadata=metadata, error=text, body=bytes(body))


def _too_deep(kind: Kind[Any]) -> ApiError:
    return ApiError(500, "TooDeep", f"an object of {kind.plural}: {deepjson.TOO_DEEP}")
