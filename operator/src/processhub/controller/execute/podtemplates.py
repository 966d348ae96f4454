"""Edited templates of pod children are checked by a dry run before the Pod that runs is deleted.

A Child whose edited template the API server rejects is not accepted, and keeps what it has on record. This is for Child
objects. The roll-out of a ChildSet's or a Hub's template stops when ``maxFailed`` of its children do not run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from processhub.api.child import PodWorkload
from processhub.api.reasons import Reason
from processhub.cluster.errors import ApiError, ForbiddenError, InvalidError, NamespaceTerminatingError
from processhub.cluster.kinds import PODS
from processhub.controller.concurrency import gather_all
from processhub.controller.execute.memory import ExecuteMemory, TemplateChecks
from processhub.controller.objects.childpod import PodPlace, child_pod
from processhub.controller.rounds.round import Round
from processhub.controller.store.children import KnownChild
from processhub.core.acceptance import Refusal
from processhub.registry.grammar import Assignment

_AT_ONCE = 16
_A_ROUND = 200  # Templates that are checked in one round at most. The slices must not wait for thousands.
_REJECTED_SECONDS = 10.0  # Until a template is checked again that was rejected: a policy or a class may have changed.
_UNANSWERED_SECONDS = 1.0  # Until a template is checked again whose check was not answered.
_QUOTA = " quota: "  # In the message about a quota. The Pod that runs counts, and would be gone.
_ANY_NODE = "node"  # The check finds no node for the Pod.


async def check_pod_templates(round: Round, memory: ExecuteMemory) -> None:
    """Check the templates of this round's edited pod children, and again those that were rejected.

    Nothing may be awaited between this and the plan: what is edited by then is not checked.
    """
    children, checks = round.state.children, memory.template_checks
    edited: dict[str, list[tuple[KnownChild, Assignment]]] = {}  # By the workload's hash.
    for name in _due(round, checks):
        known = children[name]
        children.reject(name, None)
        checks.due.pop(name, None)
        if (entry := _recorded(round, known)) is None:
            checks.passed.pop(name, None)
        elif _is_unchecked(round, checks, known):
            edited.setdefault(known.wanted.workload, []).append((known, entry))
    limit = asyncio.Semaphore(_AT_ONCE)
    verdicts: dict[str, Refusal | None] = {}

    async def check(group: list[tuple[KnownChild, Assignment]]) -> None:
        async with limit:
            verdicts[group[0][0].wanted.workload] = await _check(round, *group[0], tls=memory.tls_required)

    await gather_all(*(check(group) for group in list(edited.values())[:_A_ROUND]))
    names = {known.metadata.name for group in edited.values() for known, _ in group}
    # What has changed since the round began is in state.dirty. It has no verdict if it was edited again.
    for name in sorted(names | _pods_of(round, round.state.dirty)):
        present = children.get(name)
        if present is not None and _recorded(round, present) and _is_unchecked(round, checks, present):
            _take(round, checks, present, verdicts.get(present.wanted.workload, _unanswered("its turn has not come")))
    for due in checks.due.values():
        round.again_in(max(0.0, due - round.now()))


def _due(round: Round, checks: TemplateChecks) -> list[str]:
    """The names of the Children to look at in this round. What is kept of others that were edited is dropped."""
    children, now = round.state.children, round.now()
    checks.due = {name: due for name, due in checks.due.items() if name in children.rejected}
    checks.passed = {
        name: digest
        for name, digest in checks.passed.items()
        if name in children and children[name].wanted.workload == digest
    }
    waits = {name for name, due in checks.due.items() if now < due}
    return sorted((_pods_of(round, round.changed) | children.rejected.keys()) - waits)


def _is_unchecked(round: Round, checks: TemplateChecks, known: KnownChild) -> bool:
    """Whether nothing is known against the Child's present spec, and its template was not checked."""
    name = known.metadata.name
    passed = checks.passed.get(name) == known.wanted.workload
    return not passed and round.state.children.refusals(round.hub.spec)[name] is None


def _take(round: Round, checks: TemplateChecks, known: KnownChild, refusal: Refusal | None) -> None:
    """Take the verdict about an edited template."""
    name = known.metadata.name
    if refusal is None:
        checks.passed[name] = known.wanted.workload
        return
    round.state.children.reject(name, refusal)
    wait = _UNANSWERED_SECONDS if refusal.reason is Reason.WAITING else _REJECTED_SECONDS
    checks.due[name] = round.now() + wait


def _pods_of(round: Round, ids: Iterable[str]) -> set[str]:
    """The names of the pod children with these ids."""
    children = round.state.children
    names = (name for child_id in ids for name in children.by_id.get(child_id, ()))
    return {name for name in names if children[name].spec.pod is not None}


def _recorded(round: Round, known: KnownChild) -> Assignment | None:
    """The entry of a pod child that has another workload on record than its Child asks for; None if there is none."""
    if known.spec.pod is None:
        return None
    entries = (each.assignments.get(known.child.id) for each in round.state.slices.values())
    own = [entry for entry in entries if entry is not None and entry.uid == known.metadata.uid]
    return next((entry for entry in own if entry.workload != known.wanted.workload), None)


async def _check(round: Round, known: KnownChild, entry: Assignment, *, tls: bool) -> Refusal | None:
    """Why the Pod of the Child's template can't be created, or None."""
    assert known.spec.pod is not None
    workload = PodWorkload(template=known.spec.pod.template, port=known.spec.pod.port)
    entry = msgspec.structs.replace(entry, workload=known.wanted.workload, restart_policy=known.spec.restart_policy)
    place = PodPlace(child_id=known.child.id, member="member", node=_ANY_NODE, entry=entry)
    try:
        manifest = child_pod(round.hub, known.child, place, workload, tls=tls)
    except (AttributeError, TypeError) as error:  # The schema allows any object as a template.
        return Refusal(Reason.INVALID, f"spec.pod.template is not a PodTemplateSpec: {error}")
    metadata = manifest["metadata"]
    metadata["generateName"] = f"{metadata.pop('name')}-"  # Its own name is that of the Pod that runs.
    try:
        await round.client.create(PODS, round.hub.metadata.namespace, manifest, dry_run=True)
    except NamespaceTerminatingError:
        raise
    except (ForbiddenError, InvalidError) as error:
        if _QUOTA in error.message:
            return None
        return Refusal(Reason.INVALID, f"the pod of the edited template is refused: {error.message}"[:1000])
    except ApiError as error:
        return _unanswered(error.message)
    return None


def _unanswered(why: str) -> Refusal:
    return Refusal(Reason.WAITING, f"the edited template is not checked yet: {why}"[:1000])
