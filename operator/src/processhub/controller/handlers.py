"""The kopf side: start, stop, log-in and the events of Hubs, each handed on in a line or two.

kopf sees only Hubs: it costs half a millisecond an event and a PATCH an object for what informers get for 27 µs,
and its own record of deletions has gaps over a re-list. The Hub informer of the store is the truth; an event
from kopf wakes its hub.
"""

from __future__ import annotations

from typing import Any

import kopf

from processhub.api.meta import GROUP, VERSION
from processhub.controller.engine import Engine


def register(registry: kopf.OperatorRegistry, engine: Engine) -> None:
    """Add the handlers to ``registry``; all are coroutines, as kopf runs plain functions in threads."""

    # Of itself kopf would begin anew after a minute, in which this leader holds the Lease and does nothing.
    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.scanning.disabled = True
        await engine.start()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await engine.stop()

    @kopf.on.probe(id="engine", registry=registry)
    async def healthy(**_: Any) -> bool:
        return engine.healthy

    @kopf.on.event(GROUP, VERSION, "hubs", registry=registry)
    async def hub_changed(name: str, namespace: str | None, **_: Any) -> None:
        engine.wake((namespace or "", name))
