"""Views: what the slices say of them, what members have started by themselves, and what is to be written.

Which hubs have views, and why the others have none, is in ``wanted_view`` (docs/protocol.md, rule 26).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import chain

import msgspec
import xxhash

from processhub.api.hooks import HookEvent
from processhub.api.hub import Hub
from processhub.api.slice import Activation, ViewMember
from processhub.controller.observe.members import Member
from processhub.controller.store.slices import KnownSlice, Slices, unchanged
from processhub.core.model.activation import (
    Standing,
    View,
    ViewPhase,
    current_view,
    is_closed,
    is_closing,
    shares,
    view_step,
)
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import HubSnapshot
from processhub.core.planning.underview import NotClosed, all_stay
from processhub.registry.grammar import Assignment, EntryError, format_assignment, parse_assignment
from processhub.registry.workloads import encode_workload

_LARGEST_BLOCK, _SMALLEST_BLOCK = 10_000, 1_000  # epochs of a block
_EPOCHS_OF_VIEW = 1_000_000  # of the 10^9 of a term: hubs with many members get smaller blocks
_PLACES_OF_MEMBER = 10  # onDemand.max for each member of a view, at least
_STRATEGIES = ("ConsistentHashing", "Modulo")


class ViewFacts(msgspec.Struct, frozen=True):
    """What is known of a hub's views in one round.

    ``recorded``: member → id → the entry of a child that the member has started by itself. ``workloads``: theirs.
    ``unread``: the ids that are on record where a member has started them, and that it may not have read yet. Taken off
    the record now, they would run on as started by the member (docs/protocol.md, rule 31).
    """

    standings: Mapping[str, Standing]
    not_closed: NotClosed | None
    recorded: Mapping[str, Mapping[str, Assignment]]
    workloads: Mapping[str, str]
    unread: frozenset[str] = frozenset()


def has_views(hub: Hub) -> bool:
    """Whether members of the hub may start children by themselves."""
    spec = hub.spec
    template = spec.on_demand
    if template is None or template.pod is not None or spec.suspend:
        return False
    if template.on_owner_lost == "Local":
        return False
    if spec.distribution.strategy not in _STRATEGIES or spec.keeps_copies:
        return False
    return not any(hook.event in (HookEvent.PRE_CHILD_START, HookEvent.PRE_CHILD_STOP) for hook in spec.hooks)


def look_at_views(members: Mapping[str, Member], settled: frozenset[str]) -> ViewFacts:
    """What the slices of the members say of views, and what was started by them."""
    # A member that is not gone and has no slice 0 may still follow the one that somebody deleted.
    standings = {
        name: _standing(member)
        for name, member in members.items()
        if member.first is not None or member.phase is not Phase.GONE
    }
    current = current_view(standings)
    orders = _orders_of(current, members) if current is not None else {}
    if current is None or is_closed(current, standings):
        not_closed = None
    else:
        blocks = {name: order.first_epoch for name, order in orders.items()}
        not_closed = NotClosed(current, not is_closing(current, standings), blocks)
    recorded: dict[str, dict[str, Assignment]] = {}
    workloads: dict[str, str] = {}
    for name, order in orders.items():
        if name in settled and (found := _started(members[name], order)):
            recorded[name] = found
            workloads.update({entry.workload: order.workload for entry in found.values()})
    unread = frozenset(child_id for member in members.values() for child_id in _unread(member))
    return ViewFacts(standings, not_closed, recorded, workloads, unread)


def _order(member: Member) -> Activation | None:
    """What slice 0 of the member says of views."""
    return member.first.present.spec.order if member.first is not None else None


def _orders_of(view: View, members: Mapping[str, Member]) -> dict[str, Activation]:
    """What slice 0 of each member says of this view. Those that say nothing of it are left out."""
    orders = ((name, _order(member)) for name, member in members.items())
    return {name: order for name, order in orders if order is not None and order.view == view.number}


def _standing(member: Member) -> Standing:
    order, first = _order(member), member.first
    present = member.holder if member.phase is Phase.LIVE else ""
    answered = first is not None and member.phase is not Phase.GONE and first.acknowledged_by(member.holder)
    gone = member.phase is Phase.GONE
    if order is None:
        return Standing(present=present, answered=answered, gone=gone)
    assert first is not None
    return Standing(
        view=first.derived("view", None, partial(_view, order), unchanged),
        phase=ViewPhase(order.phase),
        holder=order.holder,
        present=present,
        answered=answered,
        gone=gone,
    )


def _view(order: Activation) -> View:
    return View.ordered(order, _digest(order.entry, order.workload, order.most))


def _digest(entry: str, workload: str, most: int) -> str:
    return xxhash.xxh3_64_hexdigest(f"{entry}\n{most}\n{workload}".encode())


def _started(member: Member, order: Activation) -> dict[str, Assignment]:
    """The entries of what the member reports to have started under the view, and has no entry for."""
    first = member.first
    if first is None or member.phase is Phase.GONE or first.present.status.holder != member.holder:
        return {}
    if order.phase == ViewPhase.CLOSING and not first.acknowledged_by(member.holder):
        return {}
    reports = {child_id: report for child_id, report in first.reports.items() if report.view == order.view}
    if not reports:
        return {}
    try:
        template = parse_assignment(order.entry)
    except EntryError:
        return {}
    epochs = {
        child_id: known.assignments[child_id].epoch
        for known in member.slices
        for child_id in known.assignments.keys() & reports.keys()
    }
    unproven = {child_id for known in member.slices for child_id in (*known.unproven, *known.uncertain)}
    return {
        child_id: msgspec.structs.replace(template, epoch=report.epoch)
        for child_id, report in reports.items()
        if epochs.get(child_id, -1) < report.epoch and child_id not in unproven
    }


def _unread(member: Member) -> set[str]:
    """The ids on record that the member still reports as started by itself."""
    first = member.first
    if first is None:
        return set()
    own = {child_id: report for child_id, report in member.reports_in(first).items() if report.view}
    return {
        child_id
        for known in member.slices
        for child_id in known.assignments.keys() & own.keys()
        if own[child_id].epoch in (known.assignments[child_id].epoch, known.assignments[child_id].started_with)
    }


def wanted_view(hub: Hub, members: Mapping[str, Member], snapshot: HubSnapshot, number: int) -> View | None:
    """The view that the hub should have: of all members that take children, or restart and are waited for.

    It has none where onDemand.max is so small that the shares would hardly be of use: there the operator is asked.
    """
    if not has_views(hub) or snapshot.partitioned or not snapshot.formed or hub.spec.on_demand is None:
        return None
    # Modulo counts the members that the hub is to have. What belongs to one that is away goes by the hash.
    strategy = hub.spec.distribution.strategy
    counted = strategy == "Modulo"
    takes = {name: member.phase is not Phase.GONE and not member.judgement.draining for name, member in members.items()}
    there = tuple(
        (name, member.weight if takes[name] else 0)
        for name, member in members.items()
        if member.wanted and (takes[name] or counted)
    )
    limit = hub.spec.on_demand.max or 0
    view = View(number, strategy, there, _wanted_digest(hub))
    if not view.starting or (limit and limit < _PLACES_OF_MEMBER * len(view.starting)):
        return None
    return view


def _template(hub: Hub) -> tuple[str, str]:
    """The entry of a child that is started on demand, with epoch 0, and its workload."""
    template = hub.spec.on_demand
    assert template is not None
    digest, workload = encode_workload(template)
    entry = Assignment(
        uid=hub.metadata.uid, epoch=0, workload=digest, idle_seconds=template.idle_seconds or 0, on_demand=True
    )
    return format_assignment(entry), workload


def _wanted_digest(hub: Hub) -> str:
    """The digest of a view in which members start children as the Hub's spec is now."""
    assert hub.spec.on_demand is not None
    return _digest(*_template(hub), hub.spec.on_demand.max or 0)


def starts_former(hub: Hub, facts: ViewFacts) -> bool:
    """Whether children that are not on record yet may run by an earlier template, which their view has."""
    if hub.spec.on_demand is None or facts.not_closed is None:
        return bool(facts.recorded)
    return bool(facts.recorded) or facts.not_closed.view.workload != _wanted_digest(hub)


def is_ready(snapshot: HubSnapshot, plan: Plan, facts: ViewFacts) -> bool:
    """Whether the next view may be opened: an id that is on no record runs nowhere (docs/protocol.md, rule 30).

    What stays on record while it is moved or restarted is no obstacle.
    """
    record = snapshot.record
    if facts.recorded or snapshot.uncertain or not all_stay(plan, record):
        return False
    return all(
        member.phase is Phase.GONE or (member.settled and member.possibly_running <= record.keys())
        for member in snapshot.members
    )


def must_close(facts: ViewFacts, members: Mapping[str, Member], slices: Slices) -> bool:
    """Whether the open view is to be replaced although it names the members that it should.

    Somebody deleted a slice, and its member may run what that named (docs/protocol.md, rule 27). Or a member's share is
    used up, and the next view would leave each member more places.
    """
    if facts.not_closed is None or not facts.not_closed.open:
        slices.lost.clear()
        return False
    may_run = any(name in members and members[name].phase is not Phase.GONE for name in slices.lost)
    return may_run or _share_is_used_up(facts.not_closed.view, members, facts)


def _share_is_used_up(view: View, members: Mapping[str, Member], facts: ViewFacts) -> bool:
    orders = _orders_of(view, members)
    limit = max((order.most for order in orders.values()), default=0)
    if not limit:
        return False
    counts = _counts(members)
    for name, found in facts.recorded.items():
        counts[name] = counts.get(name, 0) + len(found)
    used_up = any(name in orders and counts.get(name, 0) >= orders[name].share for name in view.starting)
    return used_up and limit - sum(counts.values()) >= len(view.starting)


class ViewOrders(msgspec.Struct, frozen=True):
    """What slice 0 of each member is to say about views now, where it differs.

    ``next_epoch``: the first epoch that is not given away. ``settled``: the hub has the view that it should have.
    """

    orders: Mapping[str, Activation]
    next_epoch: int
    settled: bool


def orders_for(
    hub: Hub,
    members: Mapping[str, Member],
    snapshot: HubSnapshot,
    plan: Plan,
    facts: ViewFacts,
    grants: frozenset[str] = frozenset(),
    *,
    close: bool = False,
) -> ViewOrders:
    """What is to be written about views. ``grants``: the members that need a new block. ``close``: no view may stay."""
    epoch = plan.next_epoch
    wanted = None if close else wanted_view(hub, members, snapshot, epoch + 1)
    ready = wanted is not None and facts.not_closed is None and is_ready(snapshot, plan, facts)
    if ready and hub.spec.on_demand is not None and hub.spec.on_demand.max is not None:
        ready = not _moves(members, plan)
    step = view_step(wanted, facts.standings, ready=ready)
    orders: dict[str, Activation] = {}
    if step.current is not None:
        present = _orders_of(step.current, members)
        for name in step.close:
            order = present.get(name) or _bare(step.current)
            orders[name] = msgspec.structs.replace(order, phase=ViewPhase.CLOSING)
    if step.open is not None:
        if step.open is wanted:
            epoch = step.open.number + 1
        # The members whose present process has a block of epochs of the view.
        blocks = {
            name: order
            for name, order in _orders_of(step.open, members).items()
            if order.holder == members[name].holder
        }
        there = {name for name, _ in step.open.members}
        used_up = {name for name in there & blocks.keys() if _is_used_up(blocks[name], members[name])}
        names = {*step.grant, *used_up, *(grants & there)}
        if not all(member.settled or member.phase is Phase.GONE for member in snapshot.members):
            # A slice may have been deleted before this leader knew it: a new process would start what runs by it.
            names &= blocks.keys()
        granted = _granted(hub, members, step.open, sorted(names), epoch, snapshot)
        orders.update(granted)
        epoch = max((order.last_epoch + 1 for order in granted.values()), default=epoch)
    nothing_left = step.current is None if wanted is None else step.open is not None and step.open is not wanted
    return ViewOrders(orders, epoch, nothing_left and not orders)


def _granted(
    hub: Hub, members: Mapping[str, Member], view: View, names: list[str], epoch: int, snapshot: HubSnapshot
) -> dict[str, Activation]:
    """The orders of members that get a new block of epochs under the view, from ``epoch`` on."""
    if not names:
        return {}
    entry, workload = _template(hub)
    limit = hub.spec.on_demand.max or 0 if hub.spec.on_demand is not None else 0
    own = {name: order.share for name, order in _orders_of(view, members).items()}
    counts = _counts(members)
    parts = {**counts, **shares(limit, counts, view.starting, own)}
    block = min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, _EPOCHS_OF_VIEW // max(1, len(view.members))))
    found: dict[str, Activation] = {}
    bare = _bare(view)
    for name in names:
        if limit and name not in own and snapshot.uncertain:
            continue  # another member may get a share by a write that is not answered
        found[name] = msgspec.structs.replace(
            bare,
            phase=ViewPhase.OPEN,
            holder=members[name].holder,
            first_epoch=epoch,
            last_epoch=epoch + block - 1,
            share=own.get(name, parts.get(name, 0)) if limit else 0,
            most=limit,
            entry=entry,
            workload=workload,
        )
        epoch += block
    return found


def _is_used_up(order: Activation, member: Member) -> bool:
    """Whether the member has given half of its block of epochs away: it gets the next one before it needs it."""
    half, slices = (order.first_epoch + order.last_epoch) // 2, member.slices
    return any(
        known.derived("epoch", order.last_epoch, partial(_highest_epoch, known, order)) > half for known in slices
    )


def _highest_epoch(known: KnownSlice, order: Activation) -> int:
    """The highest epoch in the slice that may be of the block."""
    given = [entry.epoch for entry in known.assignments.values()] + [report.epoch for report in known.reports.values()]
    return max((epoch for epoch in given if epoch <= order.last_epoch), default=0)


def _bare(view: View) -> Activation:
    members = tuple(ViewMember(name=name, weight=weight) for name, weight in view.members)
    return Activation(view=view.number, phase=ViewPhase.CLOSING, strategy=view.strategy, members=members)


def _counts(members: Mapping[str, Member]) -> dict[str, int]:
    return {
        name: sum(entry.on_demand for known in member.slices for entry in known.assignments.values())
        for name, member in members.items()
    }


def _moves(members: Mapping[str, Member], plan: Plan) -> bool:
    """Whether a child on demand is on record on two members, or will be by the plan: it counts for two shares."""
    own = (
        {child_id for known in member.slices for child_id, entry in known.assignments.items() if entry.on_demand}
        | {child_id for child_id, entry in plan.entries.get(name, {}).items() if entry is not None and entry.on_demand}
        for name, member in members.items()
    )
    return any(count > 1 for count in Counter(chain.from_iterable(own)).values())
