"""Requests to move single children of a ChildSet. These children have no objects, so the requests are on the set.

The annotations ``processhub.dev/move-to`` and ``processhub.dev/move-refused`` of the set are JSON objects from id to
text, because an id may be any text.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

_MOST_EARLIER = 20
_REFUSAL_LENGTH = 200
_REFUSAL_LENGTH_AT_LEAST = 20
_REFUSALS_LENGTH = 100_000  # of the 262,144 bytes that all annotations of an object may have

_decode = msgspec.json.Decoder(dict[str, str]).decode


class SetOrderError(ValueError):
    """The annotation has a wrong value. The message says what is expected."""


def parse_set_orders(text: str) -> dict[str, str]:
    """Parse the annotation; returns id → the member to move to, or the refusal. Raises SetOrderError."""
    if not text:
        return {}
    try:
        return _decode(text)
    except msgspec.MsgspecError as error:
        raise SetOrderError('it must be a JSON object of ids and members, such as {"web-0": "my-hub-1"}') from error


def format_set_orders(orders: Mapping[str, str]) -> str | None:
    """The value of the annotation; None, which removes it, if there are no orders."""
    return msgspec.json.encode(dict(orders)).decode() if orders else None


def shortened(refusal: str, length: int = _REFUSAL_LENGTH) -> str:
    """The sentence, cut to at most ``length`` characters. It may quote text of any length."""
    return refusal if len(refusal) <= length else refusal[: length - 1] + "…"


def latest(earlier: Mapping[str, str], refused: Mapping[str, str]) -> dict[str, str]:
    """The refusals to keep: all new ones, for which a client may wait, and the last of the ``earlier`` ones.

    An annotation has a limited size, so each of many refusals is cut shorter.
    """
    room = max(0, _MOST_EARLIER - len(refused))
    kept = {**dict(list(earlier.items())[max(0, len(earlier) - room) :]), **refused}
    share = _REFUSALS_LENGTH // max(1, len(kept))
    length = min(_REFUSAL_LENGTH, max(_REFUSAL_LENGTH_AT_LEAST, share))
    return {child_id: shortened(why, length) for child_id, why in kept.items()}
