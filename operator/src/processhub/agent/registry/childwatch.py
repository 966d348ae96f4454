"""Waiting for a change of one child in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from processhub.agent.listeners import Signal
from processhub.api.slice import RegistrySlice


class RegistryWatch:
    """Wakes tasks that wait for a child. ``changed`` must be called for each changed slice."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Signal]] = {}

    @contextmanager
    def on(self, child_id: str) -> Iterator[Signal]:
        """An event that is set at each change of the child's entries. The waiting task clears it."""
        event = Signal()
        self._waiting.setdefault(child_id, set()).add(event)
        try:
            yield event
        finally:
            events = self._waiting[child_id]
            events.discard(event)
            if not events:
                del self._waiting[child_id]

    def changed(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        """Wake the tasks whose child has changed with this slice."""
        for child_id, events in self._waiting.items():
            if _said(old, child_id) != _said(new, child_id):
                for event in events:
                    event.set()

    def wake(self) -> None:
        """Wake all waiting tasks."""
        for events in self._waiting.values():
            for event in events:
                event.set()


def _said(item: RegistrySlice | None, child_id: str) -> tuple[str | None, str | None]:
    if item is None:
        return None, None
    return item.spec.entries.get(child_id), item.status.entries.get(child_id)
