"""The facts of a round: what is learned from the objects of its hub, before the hub is observed.

Observing is a pure function of the facts. Whatever a round has to keep for later rounds, or to change in the store's
indexes, is written while the facts are learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from processhub.api.hub import Hub
from processhub.controller.observe.customrules import CustomRules
from processhub.controller.observe.members import Member, observe_members
from processhub.controller.observe.memory import Formation, ObserveMemory, Settling
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.observe.rollouts import Rollout, of_set
from processhub.controller.observe.setmoverequests import AppliedMoves
from processhub.controller.observe.views import ViewFacts, look_at_views, starts_former
from processhub.controller.rounds.round import Round
from processhub.controller.store.childsets import KnownSet
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.slices import KnownSlice
from processhub.core.acceptance import Refusal
from processhub.core.model.membership import Phase
from processhub.core.model.quorum import Verdict
from processhub.core.strategies import HASH, Strategy


class Facts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The input of an observation: one hub in one round.

    - ``term``: the leader's.
    - ``refusals``, ``set_refusals``: by object name, why each Child and each ChildSet is not accepted, or None.
    - ``contested``: the ids that a ChildSet and another object ask for, each with these sets.
    - ``fingerprint``: the fingerprint of the present strategy and weights.
    - ``formed``: whether placing may begin.
    - ``settled``: the members that confirmed their slices to this leader.
    - ``unconfirmed``: the children whose Pod may exist, because its creation was not answered.
    - ``copies``: the number of copies of each child by a custom strategy, or None.
    - ``move_budget``: how many moves may begin now.
    - ``deferred``: the children that are not to be moved for a while.
    - ``rebalance_target``: the member that is to get children because loads differ, or "".
    - ``applied_moves``: by the uid of the ChildSet or the Hub, the move requests that are carried out already.
    - ``rollouts``: the roll-outs of changed templates that are under way, by the uid of the ChildSet or the Hub.
    - ``views``: what is known of views. ``demand``: the hub's children on demand, None without spec.onDemand.
    """

    hub: Hub
    state: HubState
    term: int
    members: Mapping[str, Member]
    refusals: Mapping[str, Refusal | None]
    set_refusals: Mapping[str, Refusal | None]
    contested: Mapping[str, Sequence[KnownSet]]
    fingerprint: str
    formed: bool
    quorum: Verdict
    settled: frozenset[str]
    unconfirmed: frozenset[str]
    copies: int | None
    next_epoch: int
    last_placed: str
    move_budget: int
    deferred: frozenset[str]
    rebalance_target: str
    applied_moves: Mapping[str, AppliedMoves]
    rollouts: Mapping[str, Rollout]
    views: ViewFacts
    demand: KnownSet | None


def members_now(round: Round, memory: ObserveMemory, template: Mapping[str, Any] | None) -> dict[str, Member]:
    """Judge the members of the hub now. ``memory`` keeps since when each of them restarts.

    ``template`` is the members' pod template, or None if this leader does not know it yet.
    """
    now, nodes = round.now(), round.store.nodes.items
    observed, since = round.store.leases_observed(round.hub.metadata.namespace, now), memory.restarting_since
    members = observe_members(round.hub, round.state, nodes, since, now, leases_observed=observed, template=template)
    for name in since.keys() - members.keys():
        del since[name]
    return members


def learn(
    round: Round,
    memory: ObserveMemory,
    members: Mapping[str, Member],
    strategy: Strategy = HASH,
    rules: CustomRules | None = None,
) -> Facts:
    """Learn the facts of a round. ``memory`` and ``round.state`` keep what later rounds need of them.

    ``rules``: the hub's custom strategies of redundancy and partition tolerance.
    """
    hub, state, now = round.hub, round.state, round.now()
    order = [member.name for member in members.values() if member.wanted]
    memory.fingerprint = strategy.fingerprint(hub.spec.members.weights, order)
    if rules is not None:
        memory.copies = rules.copies or 1
    state.children.take_hub(hub.spec)
    formed = _has_formed(hub, state, members, memory.formation, now)
    quorum = _quorum(round, members, memory, now, rules)
    for member in members.values():
        _take_proofs(member, state, memory.settling)
    refusals, set_refusals = state.children.refusals(hub.spec), state.sets.refusals(hub.spec)
    views = look_at_views(members, frozenset(memory.settling.confirmed))
    demand = memory.sets.demand.look(round, members, views)
    return Facts(
        hub=hub,
        state=state,
        term=round.term,
        members=members,
        refusals=refusals,
        set_refusals=set_refusals,
        contested=state.sets.contested(state.children.by_id.keys()),
        fingerprint=memory.fingerprint,
        formed=formed,
        quorum=quorum,
        settled=frozenset(memory.settling.confirmed),
        unconfirmed=frozenset(state.child_pods.unconfirmed.values()),
        copies=rules.copies if rules is not None else None,
        next_epoch=memory.epochs.next,
        last_placed=memory.last_placed,
        move_budget=memory.moves.available(hub.spec.distribution.rebalance.max_moves_per_second, now),
        deferred=memory.deferred_moves.still_deferred(now),
        rebalance_target=memory.rebalance_target,
        applied_moves=memory.sets.applied_moves,
        rollouts=_rollouts(round, members, memory, set_refusals, demand, views),
        views=views,
        demand=demand,
    )


def _rollouts(
    round: Round,
    members: Mapping[str, Member],
    memory: ObserveMemory,
    set_refusals: Mapping[str, Refusal | None],
    demand: KnownSet | None,
    views: ViewFacts,
) -> dict[str, Rollout]:
    """The roll-outs that are under way. The round is repeated when the next child of one is proven."""
    state = round.state
    templates = [of_set(known) for known in state.sets.values() if set_refusals[known.metadata.name] is None]
    if demand is not None:
        templates.append(of_set(demand, more=starts_former(round.hub, views)))
    found = memory.sets.rollouts.look(templates, members, round.now())
    for rollout in found.values():
        if rollout.again_in is not None:
            round.again_in(rollout.again_in)
    return found


def _quorum(
    round: Round, members: Mapping[str, Member], memory: ObserveMemory, now: float, rules: CustomRules | None
) -> Verdict:
    """Whether enough members are live, by the hub's strategy or a custom one."""
    if memory.quorum is None:
        memory.quorum = QuorumWatch(round.hub, round.state)
    required = rules.required if rules is not None and rules.has_quorum else None
    return memory.quorum.look(round.hub, members, memory.formation.formed, now, required)


def may_run_unseen(member: Member, state: HubState, memory: ObserveMemory) -> bool:
    """Whether the member may run what no slice of it names: by a deleted slice, or by an order of an earlier leader.

    A deleted slice 0 may have named no child, and still let the member start some (docs/protocol.md, rule 27).
    """
    if member.name in state.slices.unaccounted:
        return True
    without_first = all(known.index > 0 for known in member.slices)
    return bool(member.holder) and (without_first or memory.settling.awaits(member.name))


def counts_for_quorum(member: Member, hub: Hub, memory: ObserveMemory) -> bool:
    """Whether the hub may lose its quorum because this member, which was live in the last round, is not."""
    required = hub.spec.partition_tolerance.strategy != "Divergence"
    return required and memory.quorum is not None and member.name in memory.quorum.live


def _take_proofs(member: Member, state: HubState, settling: Settling) -> None:
    """Record what the member has proven: which children ended there, and whether it has read this leader's slices."""
    if member.phase is Phase.GONE:
        state.slices.unaccounted.pop(member.name, None)
    if member.seems_ended:
        settling.ended.add(member.name)
    else:
        settling.ended.discard(member.name)
    for known in member.slices:
        known.prove(member.holder)
    first = member.first
    if first is None and member.holder and member.name not in settling.confirmed:
        # Slice 0 is there before a member runs anything: somebody deleted it while no operator led.
        settling.bare.add(member.name)
        state.slices.lost.add(member.name)
    if _acknowledged(member, settling) and (member.name not in settling.bare or _answers(first, member.holder)):
        settling.confirmed.add(member.name)


def _answers(first: KnownSlice | None, holder: str) -> bool:
    """Whether the member has read a slice 0 that was made anew, and so reports there what it runs without an entry."""
    return first is not None and first.present.status.holder == holder and first.present.status.observed_generation > 0


def _acknowledged(member: Member, settling: Settling) -> bool:
    """Whether the member has confirmed all of its slices in the generation that this leader took over."""
    return all(
        known.present.status.observed_generation >= settling.term_generations.get(known.present.metadata.uid, 0)
        and (
            known.present.status.holder == member.holder or known.present.metadata.uid not in settling.term_generations
        )
        for known in member.slices
    )


def _has_formed(hub: Hub, state: HubState, members: Mapping[str, Member], formation: Formation, now: float) -> bool:
    """Whether placing may begin: it has begun before, or the hub is complete."""
    if not formation.formed:
        on_record = any(known.assignments for known in state.slices.values())
        formation.formed = on_record or _is_complete(hub, members, formation, now)
    return formation.formed


def _is_complete(hub: Hub, members: Mapping[str, Member], formation: Formation, now: float) -> bool:
    """Whether all members are live, or startSeconds have passed since the first one was."""
    live = [member for member in members.values() if member.phase is Phase.LIVE]
    if not live:
        return False
    if formation.first_live_at is None:
        formation.first_live_at = now
    missing = [member for member in members.values() if member.wanted and member.phase is not Phase.LIVE]
    return not missing or now - formation.first_live_at >= hub.spec.timeouts.start_seconds
