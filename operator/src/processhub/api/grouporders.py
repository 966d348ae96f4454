"""Orders about single children without objects of their own. They are annotations of the object that they belong to.

Each annotation is a JSON object from id to a value, because an id may be any text:

- ``processhub.dev/move-to`` of a ChildSet or a Hub: the member to move to. ``processhub.dev/move-refused``: why not.
- ``processhub.dev/stop`` of a Hub: the epoch of the run that is to end. So an order that is read late never ends a run
  that a later request has started. The operator removes an order when it has taken the entry off the record, or when
  neither an entry nor a report of the id has the epoch any more. An order for a run that its member reports and that
  has no entry yet stands until it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar

import msgspec

from processhub.api.meta import shortened

_MOST_EARLIER = 20
REFUSAL_LENGTH = 200  # of a refusal, which may quote text of any length
_REFUSAL_LENGTH_AT_LEAST = 20
_REFUSALS_LENGTH = 100_000  # of the 262,144 bytes that all annotations of an object may have

Value = TypeVar("Value", str, int)
_decode_moves = msgspec.json.Decoder(dict[str, str]).decode
_decode_stops = msgspec.json.Decoder(dict[str, Annotated[int, msgspec.Meta(ge=0, le=2**53)]]).decode


class GroupOrderError(ValueError):
    """The annotation has a wrong value. The message says what is expected."""


def parse_move_orders(text: str) -> dict[str, str]:
    """Parse move-to or move-refused; returns id → the member to move to, or the refusal. Raises GroupOrderError."""
    return _parsed(_decode_moves, text, 'ids and members, such as {"web-0": "my-hub-1"}')


def parse_stop_orders(text: str) -> dict[str, int]:
    """Parse the annotation stop; returns id → epoch. Raises GroupOrderError."""
    return _parsed(_decode_stops, text, 'ids and epochs, such as {"cart-7": 3000000012}')


def _parsed(decode: Callable[[str], dict[str, Value]], text: str, expected: str) -> dict[str, Value]:
    try:
        return decode(text) if text else {}
    except msgspec.MsgspecError as error:
        raise GroupOrderError(f"it must be a JSON object of {expected}") from error


def format_orders(orders: Mapping[str, str] | Mapping[str, int]) -> str | None:
    """The value of the annotation; None, which removes it, if there are no orders."""
    return msgspec.json.encode(dict(orders)).decode() if orders else None


def latest(earlier: Mapping[str, str], refused: Mapping[str, str]) -> dict[str, str]:
    """The refusals to keep: all new ones, for which a client may wait, and the last of the ``earlier`` ones.

    An annotation has a limited size, so each of many refusals is cut shorter.
    """
    room = max(0, _MOST_EARLIER - len(refused))
    kept = {**dict(list(earlier.items())[max(0, len(earlier) - room) :]), **refused}
    share = _REFUSALS_LENGTH // max(1, len(kept))
    length = min(REFUSAL_LENGTH, max(_REFUSAL_LENGTH_AT_LEAST, share))
    return {child_id: shortened(why, length) for child_id, why in kept.items()}
