"""Activation: a member starts a child that no slice names by itself, under the view that the operator has opened.

The protocol has the conditions and their reasons (docs/protocol.md, rules 26 to 33). What was started is reported in
the status of slice 0, with the number of the view, until the operator has put it on record: then its entry decides.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping

import msgspec

from processhub.agent.children.child import Child
from processhub.agent.env import Environment
from processhub.agent.problems import Problem
from processhub.agent.registry import lookup
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.agent.requests.demandcount import DemandCount
from processhub.api.reasons import Role
from processhub.api.slice import Activation, RegistrySlice
from processhub.core.listing import counted
from processhub.core.model.activation import View, ViewPhase, chosen_member
from processhub.registry.grammar import EntryError, parse_assignment
from processhub.registry.workloads import decode_workload

log = logging.getLogger(__name__)
_RETRY_AFTER = 1  # seconds
_CLOSING_SECONDS = 2.0  # within this time the next view follows one that closes
BY_VIEW = 0  # the epoch by which a request is routed to the member that may start its child


class Activations:
    """The children that this member starts by itself. ``may_start()`` says whether its Lease is held.

    A request for a new id goes to the member that the newest view names, also from a member that is not in that view.
    """

    def __init__(
        self,
        env: Environment,
        identity: str,
        slices: SliceWatcher,
        children: Mapping[str, Child],
        may_start: Callable[[], bool],
    ) -> None:
        self._env, self._identity, self._slices, self._children = env, identity, slices, children
        self._may_start = may_start
        self.count = DemandCount(slices, children)
        self._block = self._used = 0  # the first epoch of the block, and the last one that was given
        self._template: DesiredRun | None = None
        self._taken: Activation | None = None
        # By id: what a slice said that was deleted is unknown until a newer view than this is open.
        self._lost: dict[str, int] = {}
        # What the slices say of views. It is looked up again when one of them has changed.
        self._looked = False
        self._view: View | None = None
        self._closes = False
        self._awaited_since: float | None = None  # the loop's time since when a request waits for the next view

    def find_or_start(self, child_id: str) -> RoutedCopy | None:
        """Where a request goes for a child that no slice names: to the one member that may start it. None: nowhere.

        If that is this member, the child is started.
        """
        made = self._slices.made.get(child_id)
        if made is None:
            view = self._routing_view()
            if view is None:
                return None
            chosen = chosen_member(view, child_id)
            if chosen != self._env.member:
                address = lookup.address_of(self._slices.registry(), chosen)
                return RoutedCopy(chosen, address, Role.ACTIVE, BY_VIEW, wait=False, running=True) if address else None
            made = self._start(child_id)
            if made is None:
                return None
        child, epoch = self._children.get(child_id), made.assignment.epoch
        running = child is not None and not child.stopping
        return RoutedCopy(self._env.member, self._env.address, Role.ACTIVE, epoch, wait=False, running=running)

    def asks_for(self, child_id: str) -> bool:
        """Whether the operator is to be asked for the id: no view is open, and none is about to be replaced.

        A view that closes is followed by the next within moments, unless its hub has no views any more.
        """
        if self._routing_view() is not None:
            return self.asks_for_own(child_id)
        if not self._closes:
            return True
        now = asyncio.get_running_loop().time()
        if self._awaited_since is None:
            self._awaited_since = now
        return now - self._awaited_since > _CLOSING_SECONDS

    def asks_for_own(self, child_id: str) -> bool:
        """Whether the id is this member's by an open view, and was named by a slice that was deleted since.

        Only the operator can prove that it has ended (docs/protocol.md, rule 27).
        """
        view = self._routing_view()
        return view is not None and self._is_lost(child_id, view) and chosen_member(view, child_id) == self._env.member

    def _is_lost(self, child_id: str, view: View) -> bool:
        """Whether a slice that named the id was deleted since this view was opened."""
        return view.number <= self._lost.get(child_id, 0)

    def check_room(self, child_id: str) -> None:
        """Raise Problem if the id is this member's to start, and it may have no more children.

        It has as many as spec.members.maxChildren allows, or its share of onDemand.max (docs/protocol.md, rule 33).
        Where each member would get more, the operator opens another view, and the request waits for that.
        """
        order, view = self._order(), self._routing_view()
        if order is None or view is None or child_id in self._slices.made:
            return
        left = order.most - self.count.entries - len(self._slices.made) if self._is_used_up(order) else None
        no_share, most = left is not None and left < len(view.starting), self._slices.settings.max_children
        if not (no_share or self._has_all(most)) or chosen_member(view, child_id) != self._env.member:
            return
        if no_share:
            raise full(child_id, f"member {self._env.member} has its share, {order.share},")
        all_of_it = counted(most, "child", "children")
        said = f"child {child_id!r} does not exist, and member {self._env.member} has its {all_of_it}"
        raise Problem(429, "busy", f"{said} (spec.members.maxChildren)", _RETRY_AFTER)

    def why(self, child_id: str) -> str:
        """Why the child is not started, as a clause; "" if nothing is known."""
        view = self._routing_view()
        if self.asks_for(child_id):
            return "the operator has not placed it"
        if view is None:
            return "the members that start such children are changing"
        chosen = chosen_member(view, child_id)
        return f"member {chosen}, which has to start it, does not start any child now"

    def registry_changed(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        """Look at the views again, and note the children of a deleted slice: its member may still run them.

        The operator is asked for these (docs/protocol.md, rule 27). A child that has an entry again leaves the record
        as any other does.
        """
        self._looked = False
        if new is not None:
            for child_id in self._lost.keys() & new.spec.entries.keys():
                del self._lost[child_id]
        elif old is not None and (ids := old.spec.entries.keys() | old.status.reports.keys()):
            orders = (item.spec.order for item in (old, *self._slices.registry()))
            newest = max((order.view for order in orders if order is not None), default=0)
            self._lost.update(dict.fromkeys(ids, newest))

    def retake(self) -> None:
        """End what nobody else is kept from starting: the Lease was taken again (docs/protocol.md, rule 29).

        The slices were read since. What was started stays only where its view is still open for this process.
        """
        order = self._activation()
        still = order is not None and order.phase == ViewPhase.OPEN and order.holder == self._identity
        self._slices.end_made(order.view if order is not None and still else None)
        elsewhere = {child for child in self._slices.made if lookup.copies(self._slices.registry(), child)}
        self._slices.end_made(order.view if order is not None else None, also=elsewhere)

    def _routing_view(self) -> View | None:
        """The newest view, if no slice says that it closes; None also where the hub starts no children on demand."""
        settings = self._slices.settings
        if settings.partitioned or settings.suspended or not settings.on_demand:
            return None
        if not self._looked:
            self._looked = True
            self._look()
        return self._view

    def _look(self) -> None:
        orders = [order for item in self._slices.registry() if (order := item.spec.order) is not None]
        newest = max((order.view for order in orders), default=0)
        current = [order for order in orders if order.view == newest]
        self._closes = any(order.phase != ViewPhase.OPEN for order in current)
        if not self._closes:
            self._awaited_since = None
        self._view = View.ordered(current[0]) if current and not self._closes else None

    def _activation(self) -> Activation | None:
        item = self._slices.own_slice(self._slices.first_slice)
        return item.spec.order if item is not None else None

    def _order(self) -> Activation | None:
        """What slice 0 allows this process to start now, or None (docs/protocol.md, rule 27)."""
        order = self._activation()
        if order is None or order.phase != ViewPhase.OPEN:
            return None
        if order is not self._taken:
            self._take(order)
        if self._template is None or self._slices.settings.partitioned or not self._slices.settings.on_demand:
            return None
        return order

    def _take(self, order: Activation) -> None:
        before, self._taken = self._taken, order
        if order == before:
            return
        self._lost = {child_id: view for child_id, view in self._lost.items() if view >= order.view}
        if order.first_epoch != self._block:
            self._block, self._used = order.first_epoch, order.first_epoch - 1
        self._template = None
        try:
            self._template = DesiredRun(
                assignment=parse_assignment(order.entry),
                workload=decode_workload(order.workload),
                slice=self._slices.first_slice,
                term=0,
                startable=True,
                view=order.view,
            )
        except EntryError as error:
            log.error("nothing is started by view %d: %s", order.view, error)

    def _start(self, child_id: str) -> DesiredRun | None:
        """Start the child, if nobody else can start it (docs/protocol.md, rule 27)."""
        order, item = self._order(), self._slices.own_slice(self._slices.first_slice)
        template, view = self._template, self._view
        if order is None or template is None or item is None or view is None or order.view != view.number:
            return None
        if order.holder != self._identity or not self._may_start():
            return None
        if child_id in self._children or self._used >= order.last_epoch:
            return None
        if self._slices.named.may_run(child_id) or self._is_lost(child_id, view):
            return None
        if item.spec.term < self._slices.highest_term or not self._slices.reads_others_as_own:
            return None
        if self._is_used_up(order) or self._has_all(self._slices.settings.max_children):
            return None
        if not self._slices.may_report(child_id):
            return None
        self._used += 1
        made = dataclasses.replace(
            template, assignment=msgspec.structs.replace(template.assignment, epoch=self._used), term=item.spec.term
        )
        log.debug("started by itself, epoch %d", self._used, extra={"child": child_id})
        self._slices.make(child_id, made)
        return made

    def _has_all(self, most: int) -> bool:
        """Whether this member has so many children, on demand or not."""
        return self._slices.count_children() >= most

    def _is_used_up(self, order: Activation) -> bool:
        """Whether this member has its share of the hub's children on demand."""
        return bool(order.most) and self.count.here >= order.share


def full(child_id: str, who_has: str) -> Problem:
    """The answer where onDemand.max leaves no room for one more child."""
    text = f"child {child_id!r} does not exist, and {who_has} of the on-demand children that spec.onDemand.max allows"
    return Problem(429, "busy", text, _RETRY_AFTER)
