"""Hubs that are paused by an annotation. An Event is posted when a pause begins and when it ends."""

from __future__ import annotations

from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_PAUSED
from processhub.api.reasons import EventReason
from processhub.controller.rounds.events import EventRecorder


class Pauses:
    """The hubs that are paused, by uid."""

    def __init__(self, events: EventRecorder) -> None:
        self._events = events
        self._paused: set[str] = set()

    def is_paused(self, hub: Hub) -> bool:
        """Whether the hub is paused now."""
        uid, paused = hub.metadata.uid, hub.metadata.annotations.get(ANNOTATION_PAUSED) == "true"
        if paused and uid not in self._paused:
            self._paused.add(uid)
            self._events.about_hub(
                hub,
                EventReason.PAUSED,
                f"the annotation {ANNOTATION_PAUSED} is true: until it is removed, nothing is placed or moved and no"
                " status is written; children that run keep running",
            )
        elif not paused and uid in self._paused:
            self._paused.discard(uid)
            self._events.about_hub(hub, EventReason.RESUMED, "it is reconciled again")
        return paused
