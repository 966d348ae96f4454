"""What Children say that wait for members that are not ready."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.api.reasons import Reason
from processhub.core.model.plan import Unplaced
from processhub.core.model.podtrouble import REPORT_REFUSED, Trouble, brief_of

_SEE = "the Hub's condition Ready has the cause"
_STALLED = "the Hub's condition Stalled has the cause"


def with_troubles(
    unplaced: Mapping[str, Unplaced], troubles: Mapping[str, Trouble], stalled: str = ""
) -> dict[str, Unplaced]:
    """The reasons of children that wait for members, with the cause why these are not ready.

    The cause is one word: many thousand Children may say it, and their statuses are written again when it changes.
    ``stalled``: the reason of the Hub's condition Stalled if the members' pods can't even be asked for, else "".
    """
    known = {name: trouble for name, trouble in troubles.items() if trouble and trouble.brief != REPORT_REFUSED}
    if not known and not stalled:
        return dict(unplaced)
    said: dict[Unplaced, Unplaced] = {}
    for why in set(unplaced.values()):
        if why.reason is Reason.NO_MEMBERS:
            said[why] = _said(why, brief_of(known)) if known else _said(why, stalled, _STALLED)
        elif why.reason is Reason.MEMBER_UNAVAILABLE:
            words = set(why.message.replace(",", " ").split())
            if named := {name: trouble for name, trouble in known.items() if name in words}:
                said[why] = _said(why, brief_of(named))
    return {child_id: said.get(why, why) for child_id, why in unplaced.items()}


def waits_for(member: str, trouble: Trouble | None) -> str:
    """The message of a child that is on record on a member that has not started it."""
    message = f"waiting for member {member} to start it"
    if trouble and trouble.brief == REPORT_REFUSED:
        return f"{message}; it may run: what the member reports is refused; {_STALLED}"
    return f"{message}, which is not ready: {trouble.brief}; {_SEE}" if trouble else message


def _said(why: Unplaced, brief: str, where: str = _SEE) -> Unplaced:
    return msgspec.structs.replace(why, message=f"{why.message} ({brief}; {where})")
