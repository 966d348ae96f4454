"""``kubectl hub quorum reset``: makes the members that are live now the hub's size."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_QUORUM_RESET
from processhub.cli.durations import seconds
from processhub.cli.errors import DONE, UsageError
from processhub.cli.output import out, structured
from processhub.cli.shared import Output, Target
from processhub.cli.target import opened
from processhub.client.annotations import change_annotations
from processhub.client.errors import Timeout
from processhub.client.session import Session, translated
from processhub.client.writes import with_retries
from processhub.cluster.kinds import HUBS
from processhub.core.listing import counted

_LOOK_SECONDS = 0.1
_REMEMBERING = ("MajorityQuorum", "DynamicQuorum")


async def reset(target: Target, *, wait: bool, timeout: str) -> int:
    """Order a reset by an annotation, which the operator removes when it is done; returns the exit code."""
    limit = seconds(timeout)
    async with opened(target) as session:
        hub, name = session.living_hub(), f"hub/{session.name}"
        strategy = hub.spec.partition_tolerance.strategy
        if strategy not in _REMEMBERING:
            raise UsageError(
                f"hub {session.name} has partition strategy {strategy}, which remembers no size; "
                f"quorum reset is for {' and '.join(_REMEMBERING)}"
            )
        order = datetime.now(UTC).isoformat()
        with translated(f"the quorum of hub {session.name} can't be reset"):
            await change_annotations(session, HUBS, session.name, lambda _: {ANNOTATION_QUORUM_RESET: order})
            done = await _done(session, order, limit) if wait else None
    if target.output is Output.NAME:
        out(name)
    elif target.output is Output.TABLE:
        out(f"{name} quorum reset" if done else f"{name} quorum reset ordered")
        if done:
            quorum = _quorum(done)
            out(f"{counted(quorum['live'], 'member is', 'members are')} live, {quorum['required']} needed")
    else:
        structured({"hub": session.name, "quorum": _quorum(done) if done else None}, target.output)
    return DONE


async def _done(session: Session, order: str, limit: float) -> Hub:
    """Wait until the reset is done; returns the Hub. Raises Timeout, ApiError."""
    try:
        async with asyncio.timeout(limit):
            while True:
                hub = await with_retries(lambda: session.client.get(HUBS, session.namespace, session.name), reads=True)
                if hub.metadata.annotations.get(ANNOTATION_QUORUM_RESET) != order:
                    return hub
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        raise Timeout(f"not reset within {limit:g} s: no operator has answered; it will be when one leads") from None


def _quorum(hub: Hub) -> dict[str, Any]:
    quorum = hub.status.quorum
    if not quorum:
        return {}
    return {"required": quorum.required, "live": quorum.live, "largestSeen": quorum.largest_seen}
