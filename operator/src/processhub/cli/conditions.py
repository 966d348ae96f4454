"""The conditions of an object: what they say against it, and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from processhub.api.meta import Condition
from processhub.cli.durations import age
from processhub.cli.output import out, table

_GOOD_IF_FALSE = {"Reconciling", "Stalled"}


def first_against(conditions: Iterable[Condition]) -> Condition | None:
    """The first condition that is not as it should be; None if all are."""
    return next((item for item in conditions if (item.status == "True") == (item.type in _GOOD_IF_FALSE)), None)


def print_conditions(conditions: Iterable[Condition], now: datetime) -> None:
    """Print the conditions, if there are any."""
    rows = [
        (item.type, item.status, item.reason, age(item.last_transition_time, now), item.message) for item in conditions
    ]
    if rows:
        out("\nConditions:")
        table(("TYPE", "STATUS", "REASON", "AGE", "MESSAGE"), rows)
