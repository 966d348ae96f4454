"""The part of a report that each round of a crash loop changes: the child fails, waits and starts again."""

from __future__ import annotations

import msgspec

from processhub.api.reasons import CRASH_ROUND, WAITED_FOR
from processhub.registry.grammar import Report


def only_restarts(before: Report, after: Report) -> bool:
    """Whether an incarnation has only moved on in its loop of failing, waiting and starting again."""
    return (
        before.state in CRASH_ROUND
        and after.state in CRASH_ROUND
        and before.reason not in WAITED_FOR
        and after.reason not in WAITED_FOR
        and _lasting(before) == _lasting(after)
    )


def _lasting(report: Report) -> Report:
    """The report without the fields that each round of a crash loop changes."""
    return msgspec.structs.replace(
        report, state="", pid=0, restarts=0, started_at="", reason="", last_exit="", message=""
    )
