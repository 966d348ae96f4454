"""Orders to move single children of a ChildSet: they have no object of their own, so they stand on the set.

Its annotations ``processhub.dev/move-to`` and ``processhub.dev/move-refused`` are JSON objects from id to text, because
an id may be any text.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

_MOST_EARLIER = 20
_REFUSAL_LENGTH = 200
_REFUSAL_LENGTH_AT_LEAST = 20
_REFUSALS_LENGTH = 100_000  # of 262,144 bytes that an object's annotations have, and others want some

_decode = msgspec.json.Decoder(dict[str, str]).decode


class SetOrderError(ValueError):
    """The annotation is not what it should be; the message says what that is."""


def parse_set_orders(text: str) -> dict[str, str]:
    """Id → the member that it is to go to, or the sentence why not. Raises SetOrderError."""
    if not text:
        return {}
    try:
        return _decode(text)
    except msgspec.MsgspecError as error:
        raise SetOrderError('it has to be a JSON object of ids and members, such as {"web-0": "my-hub-1"}') from error


def format_set_orders(orders: Mapping[str, str]) -> str | None:
    """The annotation's value; None, which takes it off, where there are none."""
    return msgspec.json.encode(dict(orders)).decode() if orders else None


def shortened(refusal: str, length: int = _REFUSAL_LENGTH) -> str:
    """The sentence in at most so many characters: what is quoted in it may be any text."""
    return refusal if len(refusal) <= length else refusal[: length - 1] + "…"


def latest(earlier: Mapping[str, str], refused: Mapping[str, str]) -> dict[str, str]:
    """The refusals that are kept: all that are new, for somebody waits for them; of ``earlier`` ones the last.

    An annotation has to end somewhere, so each of many says less.
    """
    room = max(0, _MOST_EARLIER - len(refused))
    kept = {**dict(list(earlier.items())[max(0, len(earlier) - room) :]), **refused}
    share = _REFUSALS_LENGTH // max(1, len(kept))
    length = min(_REFUSAL_LENGTH, max(_REFUSAL_LENGTH_AT_LEAST, share))
    return {child_id: shortened(why, length) for child_id, why in kept.items()}
