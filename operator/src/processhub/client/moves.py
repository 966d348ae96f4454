"""Drains members and moves single children."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from processhub.api.hub import Hub, MemberStatus
from processhub.api.meta import find_condition
from processhub.api.naming import ANNOTATION_DRAINED
from processhub.api.reasons import GroupReason, Role, State
from processhub.api.switches import format_drained
from processhub.client.annotations import Annotations, change_annotations
from processhub.client.errors import HubError, Partitioned, Timeout, names
from processhub.client.orders import OnChild, OnHub, OnSet
from processhub.client.records import Record
from processhub.client.resolve import find_children, find_owner, list_children, list_sets, no_child
from processhub.client.session import Session
from processhub.cluster.informer import version_of
from processhub.cluster.kinds import HUBS
from processhub.core.listing import counted
from processhub.core.model.plan import STRANDED_ALONE, STRANDED_GUIDED, STRANDED_PINNED

_LOOK_SECONDS = 0.3  # between reads of the Child while its move is awaited, or looks at the Hub
_SETTLE_SECONDS = 2.0  # after which the Hub's status has what its operator did about an earlier order
_NOT_SEEN = "no operator has acted on that yet"
_NOT_UP = (State.PENDING, State.STARTING)

Order = OnChild | OnHub | OnSet


class DrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a drain."""

    member: str
    """The member's name."""
    left: tuple[str, ...] = ()
    """The ids of children that still have an entry or a process on the member."""
    stranded: tuple[str, ...] = ()
    """The ids of children that can't leave the member: guided and pinned ones; all, if no other member is left."""
    reasons: Mapping[str, str] = {}
    """Why each of these children can't leave, by id, such as ``pinned``."""


async def drain(session: Session, member: str, *, force: bool, wait: bool, timeout: float) -> DrainResult:
    """Order the member to be drained. Raises HubError if there is no such member, ApiError, Timeout."""
    known_member(session.living_hub(), member)
    # Read first: a call that fails, as for who may not list Children, must not leave the member drained.
    reasons = {} if force else await _bound_on(session, member)
    await _order(session, lambda drained: {**drained, member: force or drained.get(member, False)})
    stranded, deadline = tuple(reasons), asyncio.get_running_loop().time() + timeout
    if wait:
        # A member that is empty could still be given a child until then.
        if why := await _poll(lambda: _missing_of_drain(session, member), deadline):
            raise Timeout(f"member {member} is not drained within {timeout:g} s: {why}")
        left_seconds = deadline - asyncio.get_running_loop().time()
        await _until(session, lambda: set(session.registry.on_member(member)) <= set(stranded), left_seconds)
    left = tuple(sorted(session.registry.on_member(member)))
    if wait and set(left) - set(stranded):
        raise Timeout(f"member {member} is not empty within {timeout:g} s; there are still {names(left)}", left)
    return DrainResult(member=member, left=left, stranded=stranded, reasons=reasons)


async def undrain(session: Session, member: str, *, wait: bool, timeout: float) -> bool:
    """Allow the member to take children again; returns False if it was not drained. Raises ApiError, Timeout."""
    if member not in session.living_hub().drained:
        known_member(session.living_hub(), member)
    status = next((known for known in session.living_hub().status.members if known.name == member), None)
    reported = status is not None and status.drained
    changed = await _order(session, lambda drained: {name: force for name, force in drained.items() if name != member})
    if wait:
        # If the status did not have the drain yet, it does not tell either whether its operator has acted on that.
        await _has_its_share(session, member, timeout, settle=0 if reported else _SETTLE_SECONDS)
    return changed


async def move_child(session: Session, child_id: str, member: str, *, wait: bool, timeout: float) -> None:
    """Order a child to be moved to the member. Raises HubError if that is not possible, Timeout, ApiError."""
    hub = session.living_hub()
    order = await _order_of(session, child_id)
    guided, copies = hub.spec.distribution.strategy == "Guided", hub.spec.keeps_copies
    record = session.registry.records.get(child_id)
    nodes = order.nodes
    mapped, ordered = guided and not (copies and member in nodes), False
    _check(hub, order, record, member, guided=guided)
    if not mapped:
        if not _is_there(hub, record, member) or (await order.outcome()).stands:
            await order.give(member)
            ordered = True
    elif nodes != (member,):
        await order.map_to(_mapping(nodes, record, member) if copies else (member,))
    if wait:
        await _moved(session, order, member, timeout, ordered=ordered)


async def _order_of(session: Session, child_id: str) -> Order:
    child = (await find_children(session, [child_id])).get(child_id)
    record = session.registry.records.get(child_id)
    if child is not None and (record is None or record.uid == child.metadata.uid):
        return OnChild(session, child)
    if record is not None and session.on_demand(child_id):
        if not record.on_record:
            raise HubError(
                f"child {child_id!r} was started by {record.nodes[0].name} and is not on record yet; move it when the "
                "operator has put it there"
            )
        return OnHub(session, child_id)
    if owner := await find_owner(session, child_id):
        return OnSet(session, owner, child_id)
    if child is not None:
        return OnChild(session, child)
    raise HubError(await no_child(session, child_id))


def _mapping(nodes: tuple[str, ...], record: Record | None, member: str) -> tuple[str, ...]:
    """The nodes with ``member`` first, in place of the active copy's member. The first copy is the active one."""
    placed = tuple(node.name for node in record.nodes) if record is not None else ()
    nodes = nodes or placed  # the hub was made Guided later, so the other copies stay where they are
    kept = [name for name in nodes if name != member]
    if member not in nodes and kept:
        kept.remove(placed[0] if placed and placed[0] in kept else kept[-1])
    return (member, *kept)


def known_member(hub: Hub, name: str) -> MemberStatus:
    """The member's status. Raises HubError, which lists the hub's members."""
    found = next((member for member in hub.status.members if member.name == name), None)
    if found is None:
        there = ", ".join(member.name for member in hub.status.members) or "none"
        raise HubError(f"hub {hub.metadata.name} has no member {name!r}; it has {there}")
    return found


def _check(hub: Hub, order: Order, record: Record | None, name: str, *, guided: bool) -> None:
    if hub.partitioned:
        raise Partitioned(f"hub {hub.metadata.name} has lost its quorum: {hub.partitioned}")
    member = known_member(hub, name)
    if name in hub.drained:
        raise HubError(f"member {name} is drained; kubectl hub undrain {name} allows it to take children again")
    if not member.ready:
        raise HubError(f"member {name} is not ready; move child {order.id!r} when it is")
    if hub.spec.distribution.strategy == "ForEach" and not hub.spec.keeps_standbys:
        raise HubError(f"hub {hub.metadata.name} runs child {order.id!r} on every member; there is nothing to move")
    if record is not None and name in (node.name for node in record.nodes):
        return
    if member.children >= hub.spec.members.max_children:
        limit = hub.spec.members.max_children
        raise HubError(
            f"member {name} has its {counted(limit, 'child', 'children')} (spec.members.maxChildren of the hub)"
        )
    if order.spec.pinned and not guided:
        raise HubError(f"child {order.id!r} is pinned; set its spec.pinned to false first")


def _is_there(hub: Hub, record: Record | None, member: str) -> bool:
    """Whether the record is the result of a move to the member, whether or not the child runs."""
    if record is None:
        return False
    names = [node.name for node in record.nodes if not node.waiting and node.role == Role.ACTIVE]
    return member in names if hub.spec.keeps_copies else names == [member] == [node.name for node in record.nodes]


async def _order(session: Session, change: Callable[[dict[str, bool]], dict[str, bool]]) -> bool:
    """Change the drained members in the hub's annotation; returns whether the annotation changed."""

    def edit(hub: Hub) -> Annotations:
        before = hub.drained
        after = change(before)
        return {} if after == before else {ANNOTATION_DRAINED: format_drained(after) or None}

    session.hub, changed = await change_annotations(session, HUBS, session.name, edit)
    return changed


async def _bound_on(session: Session, member: str) -> dict[str, str]:
    """The ids on the member that can't leave it, each with the reason."""
    hub, there = session.living_hub(), session.registry.on_member(member)
    guided = hub.spec.distribution.strategy == "Guided"  # on any other hub nodes are refused, and bind nothing
    drained = hub.drained
    alone = all(other.name == member or other.name in drained for other in hub.status.members)
    reasons = dict.fromkeys(there, STRANDED_ALONE) if alone else {}
    specs = {child.id: child.spec for child in await list_children(session)}
    for item in await list_sets(session):
        specs |= dict.fromkeys(item.ids, item.spec.template)
    for child_id in there:
        if (spec := specs.get(child_id)) is not None and (spec.pinned or (guided and spec.nodes)):
            reasons[child_id] = STRANDED_PINNED if spec.pinned else STRANDED_GUIDED
    return {child_id: reasons[child_id] for child_id in sorted(reasons)}


def _missing_of_drain(session: Session, member: str) -> str:
    return "" if known_member(session.living_hub(), member).drained else _NOT_SEEN


async def _has_its_share(session: Session, member: str, timeout: float, *, settle: float) -> None:
    """Wait until nothing is left to be moved to the member, and what is there has started, for ``settle`` seconds.

    Raises HubError, Timeout.
    """
    edited = version_of(session.living_hub().metadata.resource_version)

    def starting(child_id: str) -> bool:
        record = session.registry.records.get(child_id)
        return record is None or record.locked or any(node.state in _NOT_UP for node in record.nodes)

    def missing() -> str:
        hub = session.living_hub()
        status, balanced = known_member(hub, member), find_condition(hub.status.conditions, "Balanced")
        if status.drained or version_of(hub.metadata.resource_version) < edited:
            return _NOT_SEEN
        if not status.ready:
            return f"it is not ready{status.message and ': '}{status.message}"
        if balanced is not None and balanced.reason == GroupReason.REBALANCING:
            return balanced.message
        waiting = [child_id for child_id in session.registry.on_member(member) if starting(child_id)]
        return f"{names(waiting)} not started yet" if waiting else ""

    if why := await _poll(missing, asyncio.get_running_loop().time() + timeout, settle):
        raise Timeout(f"member {member} does not have its share of the children within {timeout:g} s: {why}")


async def _poll(missing: Callable[[], str], deadline: float, settle: float = 0) -> str:
    """Return when nothing is missing for ``settle`` seconds, or what is missing at the loop's time ``deadline``."""
    clock = asyncio.get_running_loop().time
    since = clock()
    while True:
        what = missing()
        since = clock() if what else since
        if clock() >= deadline or (not what and clock() - since >= settle):
            return what
        await asyncio.sleep(_LOOK_SECONDS)


async def _moved(session: Session, order: Order, member: str, timeout: float, *, ordered: bool) -> None:
    """Wait until the child runs on the member.

    If nothing was ``ordered``, a refusal belongs to an earlier order, and is ignored. Raises HubError, Timeout.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    hub = session.living_hub()

    def there() -> bool:
        record = session.registry.records.get(order.id)
        return record is not None and record.running and not record.locked and _is_there(hub, record, member)

    while True:
        outcome = await order.outcome()
        if not outcome.stands and there():
            return
        if outcome.refused and ordered:
            raise HubError(f"child {order.id!r} is not moved to {outcome.refused}")
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise Timeout(f"child {order.id!r} does not run on {member} within {timeout:g} s", (order.id,))
        # The registry does not show orders. While there is one, the object is read again to see its result.
        await _until(session, there if not outcome.stands else lambda: False, min(left, _LOOK_SECONDS))


async def _until(session: Session, holds: Callable[[], bool], timeout: float) -> None:
    """Return when ``holds()`` is true or the timeout (seconds) is over. It is called at each change of the registry."""
    changed = asyncio.Event()
    unlisten = session.registry.listen(lambda _: changed.set())
    try:
        async with asyncio.timeout(timeout):
            while not holds():
                changed.clear()
                await changed.wait()
    except TimeoutError:
        return
    finally:
        unlisten()
