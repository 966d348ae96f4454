"""Stops children that requests have started, by orders on the Hub, and waits until nothing is left of these runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping

from processhub.api.grouporders import GroupOrderError, format_orders, parse_stop_orders
from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_STOP
from processhub.client.annotations import Annotations, change_annotations
from processhub.client.errors import ChildError, ClientReason, HubError
from processhub.client.session import Session
from processhub.cluster.errors import ApiError, ForbiddenError
from processhub.cluster.kinds import HUBS
from processhub.cluster.tasks import wait_for_event

log = logging.getLogger(__name__)
_LONGEST = 100_000  # of the 262,144 bytes that all annotations of an object may have
_LOOK_SECONDS = 0.3  # between looks at the Hub: while its orders leave no room for more, and for those that are done


class DemandStop:
    """Stops the runs of children: ``runs`` is epoch by id. ``errors`` has the reason of each that was not stopped."""

    def __init__(self, session: Session, runs: Mapping[str, int]) -> None:
        self._session = session
        self.runs = dict(runs)
        self.errors: dict[str, ChildError] = {}
        self._uid = session.registry.hub_uid
        self._unseen: set[str] = set()  # ids that were on no record since they were ordered to stop

    async def order(self, latest: float) -> None:
        """Write the orders, until ``latest`` on the event loop's clock: the annotation may have no room for all."""
        clock, left = asyncio.get_running_loop().time, dict(self.runs)
        while left:
            try:
                left = await self._write(left)
            except ForbiddenError as error:
                self._fail(left, ClientReason.FORBIDDEN, error.message)
            except ApiError as error:
                self._fail(left, error.reason or ClientReason.UNREACHABLE, error.message)
            except HubError as error:
                self._fail(left, ClientReason.UNREACHABLE, str(error))
            else:
                if left and clock() >= latest:
                    why = "the Hub has as many orders to stop children as it can hold; stop it again when they are done"
                    self._fail(left, ClientReason.NOT_SENT, why)
                elif left:
                    await asyncio.sleep(_LOOK_SECONDS)
                    continue
            return

    async def wait(self, deadline: float) -> None:
        """Wait until all runs that were ordered to stop have ended, or until ``deadline`` on the event loop's clock."""
        changed = asyncio.Event()

        def look(ids: Iterable[str]) -> None:
            self._unseen.update(child_id for child_id in ids if child_id not in self._session.registry.records)
            changed.set()

        unlisten = self._session.registry.listen(look)
        look(self.runs)
        try:
            async with asyncio.timeout_at(deadline):
                while pending := self._pending():
                    await self._order_again(pending)
                    changed.clear()
                    await wait_for_event(changed, _LOOK_SECONDS)
        except TimeoutError:
            said = "its end is ordered, but it had not ended within the timeout"
            self._fail(self._pending(), ClientReason.TIMEOUT, said)
        finally:
            unlisten()

    def _pending(self) -> list[str]:
        """The ids whose runs have not ended: those on record, and those that a member still reports."""
        holds, records = self._session.registry.holds_run, self._session.registry.records
        return [
            child_id
            for child_id, epoch in self.runs.items()
            if child_id not in self.errors
            and (
                holds(child_id, self._uid, epoch)
                # It was moved or promoted before the operator read the order, so its epoch is another.
                or (child_id not in self._unseen and child_id in records and records[child_id].epoch > epoch)
            )
        ]

    async def _order_again(self, pending: Collection[str]) -> None:
        """Order the end of runs that have got another epoch before the operator read the order.

        What is not written now is written at the next look.
        """
        records, registry = self._session.registry.records, self._session.registry
        orders = _read(self._session.living_hub().metadata.annotations)
        # An order may be stored that was not answered.
        self.runs |= {
            child_id: orders[child_id] for child_id in pending if orders.get(child_id, 0) > self.runs[child_id]
        }
        later = {
            child_id: records[child_id].epoch
            for child_id in pending
            if child_id in records
            and child_id not in orders
            and child_id not in self._unseen
            and records[child_id].uid == registry.hub_uid
            and records[child_id].epoch > self.runs[child_id]
        }
        if not later:
            return
        try:
            left = await self._write(later)
        except ForbiddenError as error:
            self._fail(later, ClientReason.FORBIDDEN, error.message)
        except (ApiError, HubError) as error:
            log.debug("the orders are written again: %s", error)
        else:
            self.runs |= {child_id: epoch for child_id, epoch in later.items() if child_id not in left}

    async def _write(self, runs: Mapping[str, int]) -> dict[str, int]:
        """Write as many orders as the annotation has room for; returns the others. Raises ApiError, HubError."""
        left: dict[str, int] = {}

        def ordered(hub: Hub) -> Annotations:
            orders = _read(hub.metadata.annotations)
            room = _LONGEST - len((format_orders(orders) or "").encode())
            left.clear()
            for child_id, epoch in runs.items():
                room -= len((format_orders({child_id: epoch}) or "").encode()) if child_id not in orders else 0
                if room < 0:
                    left[child_id] = epoch
                else:
                    orders[child_id] = epoch
            return {ANNOTATION_STOP: format_orders(orders)}

        self._session.hub, _ = await change_annotations(self._session, HUBS, self._session.name, ordered)
        return left

    def _fail(self, ids: Collection[str], reason: str, message: str) -> None:
        self.errors |= {child_id: ChildError(str(reason), message) for child_id in ids}


def _read(annotations: Mapping[str, str]) -> dict[str, int]:
    try:
        return parse_stop_orders(annotations.get(ANNOTATION_STOP, ""))
    except GroupOrderError:
        return {}  # the operator can't read it either
