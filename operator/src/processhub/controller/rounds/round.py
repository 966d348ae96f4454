"""One round of one hub, in the form in which each of its stages takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from processhub.api.hub import Hub
from processhub.cluster.client import Client
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.steps import Failures, Steps
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store


class Requeue:
    """When the next round of a hub is due without any event. ``after``: seconds, None where none was asked for."""

    def __init__(self) -> None:
        self.after: float | None = None

    def again_in(self, seconds: float) -> None:
        """Ask for a round after so many seconds; of several the soonest counts."""
        self.after = seconds if self.after is None else min(self.after, seconds)


class Round(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the stages of one round share.

    ``hub`` has the spec that the round follows: the Hub's, or the last that was accepted. ``state`` is what the store
    has of the hub. ``term`` is this leader's. ``now()`` gives monotonic seconds. ``changed`` has the ids of the
    children that changed since the round before, and of those that this one changes.
    """

    client: Client
    store: Store
    hub: Hub
    state: HubState
    term: int
    now: Callable[[], float]
    events: EventRecorder
    steps: Steps
    requeue: Requeue
    changed: set[str] = msgspec.field(default_factory=set)

    def again_in(self, seconds: float) -> None:
        """Ask for the next round after so many seconds, whatever the watches show; of several the soonest counts."""
        self.requeue.again_in(seconds)


def begin_round(client: Client, store: Store, hub: Hub, term: int, events: EventRecorder, failures: Failures) -> Round:
    """A round of the hub. ``failures``: of the steps of its earlier rounds, which this one keeps up to date."""
    requeue = Requeue()
    return Round(
        client=client,
        store=store,
        hub=hub,
        state=store.state(hub.metadata.key),
        term=term,
        now=asyncio.get_running_loop().time,
        events=events,
        steps=Steps(failures, events, hub, requeue.again_in),
        requeue=requeue,
    )
