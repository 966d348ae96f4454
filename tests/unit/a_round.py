"""Builds a Round for tests of its stages; parts that are not given are absent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from processhub.api.hub import Hub
from processhub.cluster.client import Client
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.round import Requeue, Round
from processhub.controller.rounds.steps import Failures, Steps
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store


def a_round(
    hub: Hub,
    state: HubState | None = None,
    *,
    client: Any = None,
    store: Any = None,
    events: Any = None,
    failures: Failures | None = None,
    term: int = 1,
    now: Callable[[], float] | None = None,
) -> Round:
    """Return a round of ``hub``; without ``now`` the clock is the event loop's."""
    if events is None:
        events = EventRecorder(client, "operator")
    if state is None:
        state = store.state(hub.metadata.key) if isinstance(store, Store) else HubState(hub.metadata.key)
    requeue = Requeue()
    return Round(
        client=cast(Client, client),
        store=cast(Store, store),
        hub=hub,
        state=state,
        term=term,
        now=now or (lambda: asyncio.get_running_loop().time()),
        events=events,
        steps=Steps({} if failures is None else failures, events, hub, requeue.again_in),
        requeue=requeue,
    )
