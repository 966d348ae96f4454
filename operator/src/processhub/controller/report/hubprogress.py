"""The conditions Reconciling and Stalled of a Hub: what of its latest edit is still under way (see kstatus.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from processhub.api.hub import Hub
from processhub.api.meta import Condition, find_condition
from processhub.api.naming import ANNOTATION_TEMPLATE
from processhub.api.reasons import GroupReason, Reason, State
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.report.child import MemberCopy, copies_by_id
from processhub.controller.report.kstatus import (
    ABNORMAL,
    UNDER_WAY,
    WAITS,
    change_under_way,
    described,
    is_refused,
    reconciling,
    stalled,
)
from processhub.controller.store.children import AdmittedSpec, is_carried_out
from processhub.controller.store.childsets import KnownSet
from processhub.core.acceptance import Refusal
from processhub.core.listing import counted, listed
from processhub.core.model.plan import Plan, Unplaced

_NAMED = 3  # Names in a message.


class Work(msgspec.Struct, frozen=True):
    """What a round of a hub left to do.

    ``template``: the digest of the pod template that members shall have, or "". ``failing``: a step failed, and is not
    reported yet, or it has no answer yet. ``admitted``: Child's object name → what was stored for the latest write of a
    static child.
    """

    observation: Observation
    plan: Plan
    template: str = ""
    failing: bool = False
    admitted: Mapping[str, AdmittedSpec] = {}


def of_hub(hub: Hub, ready: Condition, trouble: tuple[str, str] | None, work: Work) -> Condition | None:
    """The condition of a Hub, or None. ``trouble``: why it is refused, or what the operator can't do for it."""
    generation, members = hub.metadata.generation, work.observation.members
    if trouble is not None:
        return stalled(*trouble, generation)
    leaving = [member.name for member in members.values() if not member.wanted and member.pod is not None]
    if stuck := [name for name in leaving if name in work.plan.stranded]:
        message = f"{listed(stuck, _NAMED)} can't be removed, as children are bound there; see the condition Balanced"
        return stalled(GroupReason.STRANDED, message, generation)
    if (refused := _refused_demand(hub, work)) is not None:
        return stalled(refused.reason, refused.message, generation)
    if (why := _stopped_demand(hub, work.observation)) is not None:
        return stalled(GroupReason.ROLLOUT_STOPPED, why, generation)
    if work.failing:
        message = "a request to the API server has no answer yet, or failed and is sent again"
        return reconciling(Reason.UPDATING, message, generation)
    if leaving:
        message = f"{listed(leaving, _NAMED)} {'is' if len(leaving) == 1 else 'are'} being removed"
        return reconciling(Reason.UPDATING, message, generation)
    if ready.reason in (GroupReason.MEMBERS_NOT_READY, Reason.PARTITIONED):
        return reconciling(ready.reason, ready.message, generation)
    former = [member.name for member in members.values() if member.wanted and _is_former(member, work.template)]
    if former:
        message = (
            f"{counted(len(former), 'member still has', 'members still have')} the former template: "
            f"{listed(former, _NAMED)}"
        )
        return reconciling(Reason.UPDATING, message, generation)
    if (demand := work.observation.demand(hub)) is not None and demand.held:
        runs = counted(len(demand.held), "child on demand still runs", "children on demand still run")
        return reconciling(Reason.UPDATING, f"{runs} the former spec.onDemand", generation)
    if _was_done(hub) or hub.spec.suspend:
        return None  # Later moves, as by load, are no work on the latest edit.
    return _rest(hub, generation, work)


def _refused_demand(hub: Hub, work: Work) -> Refusal | None:
    """Why children on demand do not get the edited spec.onDemand: the API server or a hook refuses it; None if not."""
    demand = work.observation.demand(hub)
    if demand is None:
        return None
    rejected = demand.rejected
    if rejected is not None and rejected.reason not in WAITS:
        return Refusal(rejected.reason, f"children on demand run on with the former spec.onDemand: {rejected.message}")
    denied = denied_edits(demand.known, work.observation, work.plan)
    if not denied:
        return None
    child_id, why = next(iter(denied.items()))
    message = f"children on demand run on with the former spec.onDemand, such as {child_id!r}: {why.message}"
    return Refusal(why.reason, message)


def denied_edits(known: KnownSet, observation: Observation, plan: Plan) -> dict[str, Unplaced]:
    """The children of a set that run on as they were, because a hook denies what their object says now."""
    record = observation.snapshot.record
    return {
        child_id: why
        for child_id, why in plan.unplaced.items()
        if why.reason is Reason.HOOK_DENIED
        and child_id in known.wanted
        and any(not place.entry.asleep for place in record.get(child_id, ()))
    }


def _stopped_demand(hub: Hub, observation: Observation) -> str | None:
    """Why the roll-out of spec.onDemand has stopped, as a sentence; None if it has not."""
    demand, template = observation.demand(hub), hub.spec.on_demand
    if demand is None or template is None or not demand.failing:
        return None
    shown = demand.failing[:_NAMED]
    copies = copies_by_id(set(shown), observation.members)
    failed = listed([_described(child_id, copies.get(child_id, [])) for child_id in shown])
    more = f" and {len(demand.failing) - _NAMED} more" if len(demand.failing) > _NAMED else ""
    fail = counted(len(demand.failing), "child on demand fails", "children on demand fail")
    return (
        f"{fail} with the changed spec.onDemand (maxFailed {template.max_failed}): {failed}{more}; "
        f"{counted(len(demand.held), 'runs', 'run')} on with the former one; edit spec.onDemand"
    )


def _described(child_id: str, copies: Sequence[MemberCopy]) -> str:
    report = copies[0].shown if copies else None
    parts = (report.reason or report.state, report.last_exit) if report is not None else (State.PENDING,)
    return described(child_id, *parts)


def _rest(hub: Hub, generation: int, work: Work) -> Condition | None:
    """The condition by what is left of an edit when all members are there."""
    plan, observation = work.plan, work.observation
    if plan.moving or plan.pending_moves or plan.pending_restarts:
        left = plan.pending_moves + plan.pending_restarts
        message = f"{counted(plan.moving, 'child', 'children')} moving, {left} to be moved"
        return reconciling(GroupReason.REBALANCING, message, generation)
    unsettled = [
        member.name
        for member in observation.members.values()
        if member.wanted and (member.joining or member.settled_by not in ("", observation.fingerprint))
    ]
    if unsettled and hub.spec.distribution.rebalance.on_join:
        have = "has not taken its" if len(unsettled) == 1 else "have not taken their"
        message = f"{listed(unsettled, _NAMED)} {have} share of children yet"
        return reconciling(GroupReason.REBALANCING, message, generation)
    if starting := _static_under_way(hub, work):
        message = f"{len(starting)} of {len(hub.spec.children)} in spec.children: {listed(starting, _NAMED)}"
        return reconciling(Reason.UPDATING, message, generation)
    return None


def _was_done(hub: Hub) -> bool:
    """Whether this generation of the Hub was reported as done before."""
    known = hub.status.observed_generation >= hub.metadata.generation
    return known and not any(find_condition(hub.status.conditions, name) for name in ABNORMAL)


def _is_former(member: Member, template: str) -> bool:
    return (
        bool(template)
        and member.pod is not None
        and member.pod.metadata.annotations.get(ANNOTATION_TEMPLATE) != template
    )


def _static_under_way(hub: Hub, work: Work) -> list[str]:
    """The ids of spec.children that do not run by their latest spec yet, and may."""
    found, observation = [], work.observation
    ids = {spec.id for spec in hub.spec.children if not spec.suspend}
    copies = copies_by_id(ids, observation.members) if ids else {}
    for spec in hub.spec.children:
        if spec.id not in ids:
            continue
        known = observation.chosen.get(spec.id)
        if known is not None and known.child.metadata.name in observation.refusals:
            continue  # The Child says why.
        if is_refused(work.plan.unplaced.get(spec.id)):
            continue
        if known is None or not is_carried_out(
            known.child, msgspec.structs.replace(spec, hub=hub.metadata.name), work.admitted
        ):
            found.append(spec.id)
            continue
        own = [copy for copy in copies.get(spec.id, []) if copy.concerns(known.child.metadata.uid)]
        wanted = observation.snapshot.children.get(spec.id)
        if not own or change_under_way(own, wanted) or own[0].state in UNDER_WAY:
            found.append(spec.id)
    return found
