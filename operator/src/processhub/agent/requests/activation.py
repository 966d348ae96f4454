"""Activation: a member starts a child that no slice names by itself, under the view that the operator has opened.

The protocol has the conditions and their reasons (docs/protocol.md, rules 26 to 33). What was started is reported in
the status of slice 0, with the number of the view, until the operator has put it on record: then its entry decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import msgspec

from processhub.agent.children.child import Child
from processhub.agent.env import Environment
from processhub.agent.registry import lookup
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.api.reasons import Role
from processhub.api.slice import MAX_ENTRIES, Activation
from processhub.core.model.activation import View, ViewPhase, chosen_member
from processhub.registry.grammar import Assignment, EntryError, parse_assignment
from processhub.registry.workloads import decode_workload

log = logging.getLogger(__name__)
BY_VIEW = 0  # the epoch by which a request is routed to the member that may start its child


class Activations:
    """The children that this member starts by itself. ``may_start()`` says whether its Lease is held."""

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
        self._view: View | None = None
        self._block = self._used = 0  # the first epoch of the block, and the last one that was given
        self._template: DesiredRun | None = None
        self._taken: Activation | None = None

    def owner(self, child_id: str) -> RoutedCopy | None:
        """Where a request goes for a child that no slice names: to the one member that may start it. None: nowhere.

        If that is this member, the child is started.
        """
        made = self._slices.made.get(child_id)
        if made is None:
            order = self._order()
            if order is None or self._view is None:
                return self._owner_elsewhere(child_id)
            chosen = chosen_member(self._view, child_id)
            if chosen != self._env.member:
                return self._starter(chosen)
            made = self._start(child_id, order)
            if made is None:
                return None
        child, epoch = self._children.get(child_id), made.assignment.epoch
        running = child is not None and not child.stopping
        return RoutedCopy(self._env.member, self._env.address, Role.ACTIVE, epoch, wait=False, running=running)

    def _owner_elsewhere(self, child_id: str) -> RoutedCopy | None:
        """Where a request goes that came to a member without an open view, such as a drained one.

        The member that is asked decides by its own slice whether it may start the child.
        """
        if not self._slices.settings.on_demand or self._slices.settings.partitioned:
            return None
        orders = (item.spec.activation for item in self._slices.registry())
        opened = [order for order in orders if order and order.phase == ViewPhase.OPEN]
        if not opened:
            return None
        chosen = chosen_member(_view_of(max(opened, key=lambda order: order.view)), child_id)
        return self._starter(chosen) if chosen != self._env.member else None

    def _starter(self, member: str) -> RoutedCopy | None:
        address = lookup.address_of(self._slices.registry(), member)
        return RoutedCopy(member, address, Role.ACTIVE, BY_VIEW, wait=False, running=True) if address else None

    def retake(self) -> None:
        """End what nobody else is kept from starting: the Lease was taken again (docs/protocol.md, rule 29).

        The slices were read since. What was started stays only where its view is still open for this process.
        """
        order = self._activation()
        still = order is not None and order.phase == ViewPhase.OPEN and order.holder == self._identity
        self._slices.end_made(order.view if order is not None and still else None)
        elsewhere = {child for child in self._slices.made if lookup.copies(self._slices.registry(), child)}
        self._slices.end_made(order.view if order is not None else None, also=elsewhere)

    def _activation(self) -> Activation | None:
        item = self._slices.own_slice(self._slices.first_slice)
        if item is None or isinstance(item.spec.activation, msgspec.UnsetType):
            return None
        return item.spec.activation

    def _order(self) -> Activation | None:
        """What slice 0 allows this process to start now, or None (docs/protocol.md, rule 27)."""
        order = self._activation()
        if order is None or order.phase != ViewPhase.OPEN:
            return None
        if order != self._taken:
            self._take(order)
        if self._template is None or self._slices.settings.partitioned or not self._slices.settings.on_demand:
            return None
        return order

    def _take(self, order: Activation) -> None:
        self._taken = order
        self._view = _view_of(order)
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

    def _start(self, child_id: str, order: Activation) -> DesiredRun | None:
        """Start the child, if nobody else can start it (docs/protocol.md, rule 27)."""
        template, item = self._template, self._slices.own_slice(self._slices.first_slice)
        if template is None or item is None or order.holder != self._identity or not self._may_start():
            return None
        if child_id in self._children or self._used >= order.last_epoch:
            return None
        if (
            item.spec.term < self._slices.highest_term
            or not self._slices.reads_others_as_own
            or not self._has_room(order)
        ):
            return None
        self._used += 1
        assignment: Assignment = msgspec.structs.replace(template.assignment, epoch=self._used)
        made = DesiredRun(
            assignment=assignment,
            workload=template.workload,
            slice=template.slice,
            term=item.spec.term,
            startable=True,
            view=order.view,
        )
        log.debug("started by itself, epoch %d", self._used, extra={"child": child_id})
        self._slices.make(child_id, made)
        return made

    def _has_room(self, order: Activation) -> bool:
        """Whether the status of slice 0 has room for one more, and the member's share too."""
        made = len(self._slices.made)
        first = self._slices.own_slice(self._slices.first_slice)
        if first is None or len(first.spec.entries) + made >= MAX_ENTRIES:
            return False
        return not order.share or made + self._slices.count_on_demand() < order.share


def _view_of(order: Activation) -> View:
    return View(order.view, order.strategy, tuple((member.name, member.weight) for member in order.members))
