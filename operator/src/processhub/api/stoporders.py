"""Orders to stop children that requests have started. These children have no objects, so the orders are on the Hub.

The annotation ``processhub.dev/stop`` of the Hub is a JSON object from id to the epoch of the run that is to end. So an
order that is read late never ends a run that a later request has started. The operator removes an order when it has
taken the entry off the record, or when neither an entry nor a report of the id has the epoch any more. An order for a
run that its member reports and that has no entry yet stands until it has one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

_decode = msgspec.json.Decoder(dict[str, int]).decode


class StopOrderError(ValueError):
    """The annotation has a wrong value. The message says what is expected."""


def parse_stop_orders(text: str) -> dict[str, int]:
    """Parse the annotation; returns id → epoch. Raises StopOrderError."""
    if not text:
        return {}
    try:
        return _decode(text)
    except msgspec.MsgspecError as error:
        raise StopOrderError('it must be a JSON object of ids and epochs, such as {"cart-7": 3000000012}') from error


def format_stop_orders(orders: Mapping[str, int]) -> str | None:
    """The value of the annotation; None, which removes it, if there are no orders."""
    return msgspec.json.encode(dict(orders)).decode() if orders else None
