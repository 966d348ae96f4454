"""The rules by which a round posts Events."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod
from processhub.api.naming import ANNOTATION_CHILD_ID, ANNOTATION_CHILD_UID
from processhub.api.reasons import EventReason, Reason
from processhub.controller.observe.customrules import CustomRules
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.report.demandevents import cause_of, crash_loops, emit_on_demand
from processhub.controller.report.memory import Away, ReportMemory
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.round import Round
from processhub.core.acceptance import Refusal, unknown_origin
from processhub.core.listing import counted, listed
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Move, Plan
from processhub.core.planning.handover import goes_to
from processhub.core.strategies import Strategy
from processhub.core.strategies.custom import CustomDistribution
from processhub.core.strategies.migration import CustomMigration, MigrationStrategy
from processhub.registry.grammar import Kept

_QUIET = (Reason.SUSPENDED, Reason.WAITING)
log = logging.getLogger(__name__)


def emit(round: Round, observation: Observation, plan: Plan, memory: ReportMemory, quorum: QuorumWatch | None) -> None:
    """Post the Events of this round; ``memory`` has the members of the round before."""
    events, hub = round.events, round.hub
    _emit_quorum(events, hub, observation, quorum)
    _emit_members(events, hub, observation, plan, memory)
    moves = {move.id: (move, _announced_with(plan, move)) for move in plan.moves}
    for away in plan.moves:
        if away.lost and away.source in memory.away:
            memory.away[away.source].ids.add(away.id)
    of_sets: Counter[tuple[str, EventReason]] = Counter()
    for member_name, changes in plan.entries.items():
        for child_id, entry in changes.items():
            known = observation.chosen.get(child_id)
            if entry is not None and entry.uid in observation.sets:
                if child_id in moves:
                    of_sets[entry.uid, EventReason.MOVED] += moves[child_id][1] == member_name
                elif child_id not in observation.snapshot.record:
                    of_sets[entry.uid, EventReason.PLACED] += 1
            if entry is None or known is None:
                continue
            if child_id in moves:
                move, announced_with = moves[child_id]
                if announced_with == member_name:
                    message = f"from {move.source} to {move.target}: {move.why}"
                    events.about_child(hub, known.child, EventReason.MOVED, message)
            elif child_id not in observation.snapshot.record:
                note = unknown_origin(known.spec, hub.spec, observation.members)
                events.about_child(hub, known.child, EventReason.PLACED, f"on {member_name}{note and f'; {note}'}")
    _emit_deferred(events, hub, observation, plan)
    _emit_crash_loops(round, observation)
    emit_on_demand(round, observation, plan, memory)
    for (uid, reason), count in of_sets.items():
        events.about_set(observation.sets[uid].known.object, reason, count)
    for seen in observation.sets.values():
        _emit_rejected(events, hub, seen.known.object, seen.refusal or seen.rejected)
    for name, refusal in observation.refusals.items():
        if (known := round.state.children.get(name)) is not None:
            _emit_rejected(events, hub, known.child, refusal)
    events.flush(hub)


def _emit_rejected(events: EventRecorder, hub: Hub, item: Child | ChildSet | Hub, refusal: Refusal | None) -> None:
    if refusal is not None and refusal.reason not in _QUIET:
        message = f"{refusal.reason}: {refusal.message}"
        events.about_child(hub, item, EventReason.REJECTED, message, warning=True)


def _emit_members(events: EventRecorder, hub: Hub, observation: Observation, plan: Plan, memory: ReportMemory) -> None:
    """Post which members were lost, joined or came back."""
    memory.seen_live &= observation.members.keys()
    for name in memory.away.keys() - observation.members.keys():
        del memory.away[name]
    for name, member in observation.members.items():
        if member.phase is Phase.GONE and name in memory.seen_live:
            memory.seen_live.discard(name)
            if not member.wanted:
                continue  # It was scaled away.
            placed = counted(sum(move.source == name for move in plan.moves), "child placed", "children placed")
            message = f"member {name} is lost: {member.judgement.why}; {placed} on others"
            events.about_hub(hub, EventReason.MEMBER_LOST, message, warning=True)
            memory.away[name] = Away(member.holder, set())
        elif member.phase is Phase.LIVE and name not in memory.seen_live:
            memory.seen_live.add(name)
            _emit_healed(events, hub, member, memory.away.pop(name, None))
            if name in memory.lives:  # A new leader finds members that are live already.
                events.about_hub(hub, EventReason.MEMBER_JOINED, f"member {name} is there")


def emit_changed_pods(round: Round, observation: Observation, changed: Iterable[tuple[Pod, str]]) -> None:
    """Post an Event about each Pod of a child whose marks somebody changed."""
    events, hub = round.events, round.hub
    for pod, text in changed:
        annotations = pod.metadata.annotations
        child_id, uid = annotations.get(ANNOTATION_CHILD_ID, ""), annotations.get(ANNOTATION_CHILD_UID, "")
        if owner := observation.owner(child_id, uid):
            events.about_child(hub, owner, EventReason.POD_CHANGED, text, warning=True)
        else:
            events.about_hub(hub, EventReason.POD_CHANGED, text, warning=True)


def _emit_deferred(events: EventRecorder, hub: Hub, observation: Observation, plan: Plan) -> None:
    """Post why a child that was to hand its state over is not moved."""
    for child_id in plan.deferred:
        known = observation.chosen.get(child_id)
        for place in observation.snapshot.record.get(child_id, ()):
            kept = Kept.parse(place.kept)
            if known is None or kept is None or not place.entry.to:
                continue
            why = kept.text or "it does not want to be moved now"
            message = f"stays on {place.member} instead of moving to {goes_to(place.entry)}: {why}"
            events.about_child(hub, known.child, EventReason.MOVE_DEFERRED, message, warning=bool(kept.text))


def _emit_crash_loops(round: Round, observation: Observation) -> None:
    """Post which Children keep ending. Those of a ChildSet are named in its status: there may be thousands of them."""
    for member, child_id, report in crash_loops(observation, round.changed & observation.chosen.keys()):
        child = observation.chosen[child_id].child
        if report.uid == child.metadata.uid:
            message = f"it keeps ending on {member.name} and is restarted with back-off: {cause_of(report)}"
            round.events.about_child(round.hub, child, EventReason.BACK_OFF, message, warning=True)


def _announced_with(plan: Plan, move: Move) -> str:
    """The member with whose entry the Event of a move is posted.

    This is the target, or the source if a role goes to an existing copy: the first write is to the source then.
    """
    return move.target if move.id in plan.entries.get(move.target, ()) else move.source


def _emit_quorum(events: EventRecorder, hub: Hub, observation: Observation, watch: QuorumWatch | None) -> None:
    verdict = observation.quorum
    if watch is None or watch.announced == verdict.partitioned:
        return
    watch.announced = verdict.partitioned
    if verdict.partitioned:
        events.about_hub(hub, EventReason.PARTITION_ENTERED, verdict.why, warning=True)
    else:
        events.about_hub(hub, EventReason.PARTITION_HEALED, f"{verdict.why}; the children start again")


def _emit_healed(events: EventRecorder, hub: Hub, member: Member, away: Away | None) -> None:
    """Post which copies a returned member ends that ran on while it was lost. With a quorum there are none."""
    if away is None or not away.ids or away.holder != member.holder:
        return
    if hub.spec.partition_tolerance.strategy != "Divergence":
        return
    # A waiting entry is of a child that may move back. Its copy here is ended too.
    here = {child_id for known in member.slices for child_id, entry in known.assignments.items() if not entry.wait}
    stopped = sorted(away.ids - here)
    if not stopped:
        return
    message = (
        f"member {member.name} is back and ends its copies of {counted(len(stopped), 'child', 'children')}, on record "
        f"elsewhere: {listed(stopped)}"
    )
    events.about_hub(hub, EventReason.HEALED, message)


def emit_strategy_failure(
    round: Round, memory: ReportMemory, strategy: Strategy, migration: MigrationStrategy, rules: CustomRules
) -> None:
    """Post an Event about the failure of a custom strategy, once as long as it is the same."""
    failure = rules.failure
    if isinstance(strategy, CustomDistribution) and strategy.failure:
        failure, strategy.failure = f"strategy {strategy.name}: {strategy.failure}; the hash is used", ""
    if isinstance(migration, CustomMigration) and migration.failure:
        failure = f"migration strategy {migration.name}: {migration.failure}; children stay, or take their state along"
        migration.failure = ""
    if failure and failure != memory.strategy_failure:
        log.warning("hub %s/%s: %s", *round.hub.metadata.key, failure)
        round.events.about_hub(round.hub, EventReason.STRATEGY_FAILED, failure, warning=True)
        memory.strategy_failure = failure
