"""One round of one hub, as all of its stages take it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from processhub.api.hub import Hub
from processhub.cluster.client import Client
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.steps import Failures, Steps
from processhub.controller.rounds.unanswered import OpenRequests
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store


class Requeue:
    """The next round of a hub without any event: due ``after`` so many seconds, or never (None)."""

    def __init__(self) -> None:
        self.after: float | None = None

    def again_in(self, seconds: float) -> None:
        """Ask for a round after so many seconds. The shortest of several times counts."""
        self.after = seconds if self.after is None else min(self.after, seconds)


class Round(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The inputs of one round, which all of its stages share.

    - ``hub``: the Hub with the spec that the round follows, which is its present one or the last accepted one.
    - ``state``: the hub's objects in the store.
    - ``term``: the term of this leader.
    - ``now()`` returns monotonic seconds.
    - ``requeue``: when the next round is due without any event.
    - ``changed``: the ids of the children that changed since the round before or change in this one.
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
        """Ask for the next round after so many seconds, even without an event. The shortest of several times counts."""
        self.requeue.again_in(seconds)


def begin_round(
    client: Client,
    store: Store,
    hub: Hub,
    term: int,
    events: EventRecorder,
    failures: Failures,
    unanswered: OpenRequests,
) -> Round:
    """Begin a round of the hub.

    ``failures`` and ``unanswered`` are of the steps of earlier rounds; this round keeps them up to date.
    """
    requeue = Requeue()
    return Round(
        client=client,
        store=store,
        hub=hub,
        state=store.state(hub.metadata.key),
        term=term,
        now=asyncio.get_running_loop().time,
        events=events,
        steps=Steps(failures, events, hub, requeue.again_in, unanswered),
        requeue=requeue,
    )
