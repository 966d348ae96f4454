"""Hubs that are paused by an annotation. An Event is posted when a pause begins and when it ends."""

from __future__ import annotations

from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_PAUSED
from processhub.api.reasons import EventReason
from processhub.api.switches import is_on, why_ignored
from processhub.controller.rounds.events import EventRecorder


class Pauses:
    """The hubs that are paused, by uid."""

    def __init__(self, events: EventRecorder) -> None:
        self._events = events
        self._paused: set[str] = set()
        self._ignored: dict[str, tuple[str, ...]] = {}  # By uid: what was posted about values that mean nothing.

    def is_paused(self, hub: Hub) -> bool:
        """Whether the hub is paused now."""
        uid, annotations = hub.metadata.uid, hub.metadata.annotations
        paused, ignored = is_on(annotations, ANNOTATION_PAUSED), why_ignored(annotations)
        if ignored != self._ignored.pop(uid, ()):
            for sentence in ignored:
                self._events.about_hub(hub, EventReason.ANNOTATION_IGNORED, sentence, warning=True)
        if ignored:
            self._ignored[uid] = ignored
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
