"""Stops children: finds their Child objects by id, whatever their names, and deletes them.

Children that requests have started have no objects: they are stopped by an order on the Hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from processhub.api.naming import child_object_name
from processhub.client.demandstop import DemandStop
from processhub.client.errors import ChildError, ClientReason
from processhub.client.removal import Removal
from processhub.client.resolve import find_children, list_sets, no_child, not_stopped, owner_among
from processhub.client.results import StopResult
from processhub.client.session import Session
from processhub.client.specs import checked_ids
from processhub.cluster.errors import ApiError, ForbiddenError


async def stop_children(session: Session, ids: Iterable[str], *, wait: bool, timeout: float) -> StopResult:
    """Stop these children; with ``wait`` return when they have ended, after ``timeout`` seconds at most.

    Raises NoChildren, InvalidChild, ApiError.
    """
    wanted = checked_ids(ids)
    latest = asyncio.get_running_loop().time() + timeout
    result, removal = StopResult(), Removal(session)
    runs = {child_id: run.epoch for child_id in wanted if (run := session.on_demand(child_id))}
    on_demand = DemandStop(session, runs)
    names = await _delete_objects(session, wanted, runs, removal, result)
    await on_demand.order(latest)
    if wait:
        await removal.wait(latest)
        await on_demand.wait(latest)
    result.on_demand = on_demand.runs.keys() - on_demand.errors.keys()
    result.objects = {child_id: names[child_id] for child_id in removal.ordered}
    result.errors |= removal.errors | on_demand.errors
    result.stopped = [child_id for child_id in wanted if child_id not in result.errors]
    return result


async def _delete_objects(
    session: Session, wanted: Collection[str], runs: Collection[str], removal: Removal, result: StopResult
) -> dict[str, str]:
    """Delete the Child objects of these ids; returns their names by id. Raises ApiError.

    ``runs``: those that requests have started. They may have a Child that has not taken the run over yet.
    """
    hub = session.living_hub()
    static = {spec.id for spec in hub.spec.children}
    records = session.registry.records

    # A child on record under the name that clients derive costs one request. The others are looked up first.
    quick = {
        child_id: (child_object_name(child_id), records[child_id].uid)
        for child_id in wanted
        if child_id in records and child_id not in static and child_id not in runs
    }
    await removal.delete(quick)
    open_ids = [child_id for child_id in wanted if child_id not in quick or child_id in removal.absent]
    try:
        found = await find_children(session, open_ids) if open_ids else {}
        sets = await list_sets(session) if open_ids else []
    except ApiError as error:
        if len(open_ids) == len(wanted):
            raise
        # The others are ordered to stop already, which the caller has to learn.
        result.errors |= dict.fromkeys(set(open_ids) - set(runs), _not_looked_up(error))
        for child_id in result.errors:
            removal.ordered.pop(child_id, None)
        found, sets, open_ids = {}, [], []
    for child_id in open_ids:
        child = found.get(child_id)
        owner = owner_among(sets, session, child_id)
        if owner is not None and (child is None or child_id in records):
            found.pop(child_id, None)  # the Child waits for the id, so it does not run
            removal.ordered.pop(child_id, None)
            result.errors[child_id] = not_stopped(owner)
        elif child is None:
            if child_id not in removal.ordered and child_id not in runs:
                result.errors[child_id] = await _unknown(session, child_id, on_record=child_id in records)
        elif child.metadata.controlled_by(hub.metadata.uid):
            del found[child_id]
            removal.ordered.pop(child_id, None)
            result.errors[child_id] = ChildError(
                ClientReason.STATIC_CHILD,
                f"is a static child of hub {session.name}; remove it from the hub's spec.children",
            )
    await removal.delete({child_id: (child.metadata.name, child.metadata.uid) for child_id, child in found.items()})
    names = {child_id: name for child_id, (name, _) in quick.items()}
    return names | {child_id: child.metadata.name for child_id, child in found.items()}


def _not_looked_up(error: ApiError) -> ChildError:
    reason = ClientReason.FORBIDDEN if isinstance(error, ForbiddenError) else ClientReason.UNREACHABLE
    return ChildError(reason, f"can't be looked up: {error.message}")


async def _unknown(session: Session, child_id: str, *, on_record: bool) -> ChildError:
    if on_record:
        return ChildError(
            ClientReason.NOT_FOUND, "runs without a Child object of its own; change the object that it belongs to"
        )
    return ChildError(ClientReason.NOT_FOUND, await no_child(session, child_id))
