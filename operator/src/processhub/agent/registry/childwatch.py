"""One child in the registry, for routing: its copies, and waiting for a change of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from processhub.agent.listeners import Signal
from processhub.agent.registry import lookup
from processhub.agent.registry.lookup import RoutedCopy
from processhub.api.slice import RegistrySlice


class RegistryWatch:
    """Wakes tasks that wait for a child. ``changed`` must be called for each changed slice of ``registry()``.

    ``has_entry``: whether any of these slices has an entry of an id.
    """

    def __init__(self, registry: Callable[[], Iterable[RegistrySlice]], has_entry: Callable[[str], bool]) -> None:
        self._registry, self._has_entry = registry, has_entry
        self._copies: dict[str, list[RoutedCopy]] = {}
        # In the order in which they came, which is that of their requests.
        self._waiting: dict[str, dict[Signal, None]] = {}
        self._unowned: dict[Signal, None] = {}

    def copies(self, child_id: str) -> list[RoutedCopy]:
        """The child's copies on record, as ``lookup.copies`` finds them. Kept until the next change of a slice."""
        found = self._copies.get(child_id)
        if found is None:
            if not self._has_entry(child_id):
                return []
            found = lookup.copies(self._registry(), child_id)
            if found:  # of an id that nobody knows nothing is kept: callers could name any number of them
                self._copies[child_id] = found
        return found

    @contextmanager
    def on(self, child_id: str) -> Iterator[Signal]:
        """An event that is set at each change of the child's entries. The waiting task clears it."""
        event = Signal()
        self._waiting.setdefault(child_id, {})[event] = None
        try:
            yield event
        finally:
            events = self._waiting[child_id]
            del events[event]
            self._unowned.pop(event, None)
            if not events:
                del self._waiting[child_id]

    def set_unowned(self, event: Signal, unowned: bool) -> None:
        """Have the event set at each change of any slice, while no slice names its child; or no more."""
        if unowned:
            self._unowned[event] = None
        else:
            self._unowned.pop(event, None)

    def changed(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        """Wake the tasks whose child has changed with this slice."""
        self._copies.clear()
        for child_id, events in self._waiting.items():
            if _said(old, child_id) != _said(new, child_id):
                for event in events:
                    event.set()
        self.look_again()

    def look_again(self) -> None:
        """Wake the tasks whose child has no owner: it may have one now."""
        for event in list(self._unowned):
            event.set()

    def wake(self) -> None:
        """Wake all waiting tasks."""
        for events in self._waiting.values():
            for event in events:
                event.set()


def _said(item: RegistrySlice | None, child_id: str) -> tuple[str | None, str | None]:
    if item is None:
        return None, None
    return item.spec.entries.get(child_id), item.status.reports.get(child_id)
