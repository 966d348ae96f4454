"""The statuses that the API server does not store, by a policy, a webhook or missing rights: said on the Hub.

A Child whose status is refused can't say it, and a ChildSet neither. The Hub's condition Stalled does, and an Event on
the Hub, which is all there is if the Hub's own status is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nsmallest

from processhub.cluster.errors import ApiError
from processhub.controller.rounds.steps import Steps
from processhub.controller.store.hubstate import HubKey

_NAMED = 3  # Objects of a hub whose refusals are said.


class RefusedStatuses:
    """The statuses of one or more kinds that are refused now. ``wake(key)`` is called if a hub's first or last is."""

    def __init__(self, wake: Callable[[HubKey], None]) -> None:
        self._wake = wake
        self._errors: dict[HubKey, dict[str, ApiError]] = {}  # By hub and object, such as ``child a``.

    def failed(self, hub: HubKey, what: str, error: ApiError) -> None:
        """Take that the status of an object was not stored: for an object that has changed or is gone, no refusal."""
        if error.status == 404:
            self.ended(hub, what)
        if error.status in (404, 409):
            return
        errors = self._errors.setdefault(hub, {})
        is_first = not errors
        errors[what] = error
        if is_first:
            self._wake(hub)

    def ended(self, hub: HubKey, what: str) -> None:
        """Take that a status was stored, or that there is none to write."""
        errors = self._errors.get(hub)
        if errors is not None and errors.pop(what, None) is not None and not errors:
            del self._errors[hub]
            self._wake(hub)

    def keep(self, hub: HubKey, kind: str, left: Iterable[str]) -> None:
        """Forget the objects of a kind, such as ``childset``, that are gone; ``left``: those that are not."""
        if refused := [each for each in self._errors.get(hub, ()) if each.startswith(f"{kind} ")]:
            for what in set(refused).difference(left):
                self.ended(hub, what)

    def forget(self, hub: HubKey) -> None:
        """Forget a hub that is gone."""
        self._errors.pop(hub, None)

    def note(self, hub: HubKey, steps: Steps) -> None:
        """Note the refusals as failures of the hub's round."""
        errors = self._errors.get(hub, {})
        for what in nsmallest(_NAMED, errors):
            steps.note(f"the status of {what} can't be written", errors[what])
