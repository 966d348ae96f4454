"""Why the API server does not store what this member reports, in the words of who refuses it.

A policy, a webhook or missing rights may refuse the statuses of the slices for ever. The member runs its children then,
and nobody sees them. Its Lease, which is another object, says why (``processhub.dev/refused``).
"""

from __future__ import annotations

from collections.abc import Callable

from processhub.cluster.errors import ApiError, UnavailableError

_OUTAGE_SECONDS = 5.0  # an API server that is overloaded or restarts for a shorter time has refused nothing


class Refusals:
    """What is refused of the statuses of all own slices. ``tell(why)`` is called when that changes; "": nothing is."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.lease = ""  # why the Lease is refused, for the status of slice 0
        self._since: dict[str, float] = {}  # by slice: the time of the first failure since the last success
        self._why: dict[str, str] = {}  # by slice

    def failed(self, name: str, error: ApiError, now: float) -> None:
        """Take the error of a write. No answer and a conflict say nothing of a refusal."""
        if error.status in (0, 409):
            return
        since = self._since.setdefault(name, now)
        if isinstance(error, UnavailableError) and now - since < _OUTAGE_SECONDS:
            return
        self._say(name, error.refusal)

    def ended(self, name: str) -> None:
        """Take that a write was stored, or that the slice is gone."""
        self._since.pop(name, None)
        self._say(name, "")

    def _say(self, name: str, why: str) -> None:
        before = self._first
        if why:
            self._why[name] = why
        else:
            self._why.pop(name, None)
        if self._first != before:
            self._tell(self._first)

    @property
    def _first(self) -> str:
        return self._why[min(self._why)] if self._why else ""
