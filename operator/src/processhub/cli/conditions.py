"""What the conditions of an object say against it."""

from __future__ import annotations

from collections.abc import Iterable

from processhub.api.meta import Condition

_GOOD_IF_FALSE = {"Reconciling", "Stalled"}


def first_against(conditions: Iterable[Condition]) -> Condition | None:
    """The first condition that is not as it should be; None if all are."""
    return next(
        (item for item in conditions if (item.status == "True") == (item.type in _GOOD_IF_FALSE)),
        None,
    )
