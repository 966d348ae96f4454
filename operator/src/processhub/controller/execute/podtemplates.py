"""Edited templates of pod children are checked by a dry run before the Pod that runs is deleted.

A Child whose edited template the API server rejects is not accepted, and keeps what it has on record. This is for Child
objects. The roll-out of a ChildSet's or a Hub's template stops when ``maxFailed`` of its children do not run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from processhub.api.child import PodWorkload
from processhub.api.reasons import Reason
from processhub.cluster.errors import ApiError, ForbiddenError, InvalidError, NamespaceTerminatingError
from processhub.cluster.kinds import PODS
from processhub.controller.execute.memory import ExecuteMemory, TemplateChecks
from processhub.controller.objects.childpod import PodPlace, child_pod
from processhub.controller.rounds.round import Round
from processhub.controller.store.children import KnownChild
from processhub.core.acceptance import Refusal
from processhub.core.model.snapshot import DesiredChild
from processhub.registry.grammar import Assignment

log = logging.getLogger(__name__)
_A_ROUND = 200  # Templates whose checks are under way at most.
_PATIENCE_SECONDS = 0.5  # For which a round waits for answers.
_REJECTED_SECONDS = 10.0  # Until a template is checked again that was rejected: a policy or a class may have changed.
_UNANSWERED_SECONDS = 0.5  # Until it is looked again for an answer.
_QUOTA_USED_UP = "exceeded quota: "  # In the message. The Pod that runs counts, and would be gone.
_ANY_NODE = "node"  # The check finds no node for the Pod.
_NO_ANSWER = Refusal(Reason.WAITING, "the API server has not checked the edited template yet")


class AskedTemplates(NamedTuple):
    """What was asked about in a round.

    ``names``: of the Children. ``before``: by name, what was said about the same template. ``verdicts``: the answers
    that there are by now, by the workload's hash; None: the template is accepted.
    """

    names: set[str]
    before: Mapping[str, tuple[DesiredChild, Refusal]]
    verdicts: Mapping[str, Refusal | None]


async def ask_about_templates(round: Round, memory: ExecuteMemory) -> AskedTemplates:
    """Check the templates of this round's edited pod children, and again those that were rejected."""
    children, checks = round.state.children, memory.template_checks
    edited: dict[str, list[tuple[KnownChild, Assignment]]] = {}  # By the workload's hash.
    before: dict[str, tuple[DesiredChild, Refusal]] = {}
    for name in _due(round, checks):
        known = children[name]
        if (refusal := children.rejected.get(name)) is not None:
            before[name] = known.wanted, refusal
            round.changed.add(known.child.id)  # If this round ends early, the next one looks at it once more.
        children.reject(name, None)
        checks.due.pop(name, None)
        if (entry := _recorded(round, known)) is None:
            checks.passed.pop(name, None)
        elif _is_unchecked(round, checks, known):
            edited.setdefault(known.wanted.workload, []).append((known, entry))
    verdicts = await _verdicts(round, memory, [group[0] for group in edited.values()])
    return AskedTemplates({known.metadata.name for group in edited.values() for known, _ in group}, before, verdicts)


def take_verdicts(round: Round, memory: ExecuteMemory, asked: AskedTemplates) -> None:
    """Reject the templates that were not accepted.

    Nothing may be awaited between this and the plan: what is edited by then is not checked.
    """
    children, checks = round.state.children, memory.template_checks
    # What has changed since the round began is in state.dirty. It has no verdict if it was edited again.
    for name in sorted(asked.names | _pods_of(round, round.state.dirty)):
        present = children.get(name)
        if present is not None and _recorded(round, present) and _is_unchecked(round, checks, present):
            known_before = asked.before.get(name)
            said = known_before[1] if known_before and known_before[0] is present.wanted else _NO_ANSWER
            _take(round, checks, present, asked.verdicts.get(present.wanted.workload, _NO_ANSWER), said)
    for due in checks.due.values():
        round.again_in(max(0.0, due - round.now()))


async def _verdicts(
    round: Round, memory: ExecuteMemory, edited: Sequence[tuple[KnownChild, Assignment]]
) -> dict[str, Refusal | None]:
    """The answers that there are by now, by the workload's hash. The API server is asked about what it was not.

    An answer may take long, as webhooks may have a say in it. It must not delay failovers, so it is awaited for a
    moment only.
    """
    tasks = memory.template_checks.tasks
    news = []
    for known, entry in edited:
        digest = known.wanted.workload
        if digest not in tasks and len(tasks) < _A_ROUND:
            news.append(asyncio.create_task(_check(round, known, entry, memory), name=f"template of {known.child.id}"))
            tasks[digest] = news[-1]
    if news:
        await asyncio.wait(news, timeout=_PATIENCE_SECONDS)
    asked = {known.wanted.workload for known, _ in edited}
    answers = {digest: _result(tasks.pop(digest)) for digest in asked & tasks.keys() if tasks[digest].done()}
    children = round.state.children
    awaited = {children[name].wanted.workload for name in memory.template_checks.due if name in children}
    for digest in [digest for digest, task in tasks.items() if task.done() and digest not in awaited]:
        _result(tasks.pop(digest))  # It was about a template that was edited again.
    return answers


def _result(task: asyncio.Task[Refusal | None]) -> Refusal | None:
    try:
        return task.result()
    except Exception:
        log.exception("an edited template was not checked")  # The creation of its Pod says what is wrong with it.
        return None


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


def _take(round: Round, checks: TemplateChecks, known: KnownChild, refusal: Refusal | None, before: Refusal) -> None:
    """Take the verdict about an edited template. As long as there is none, what was said ``before`` is said again."""
    name = known.metadata.name
    if refusal is None:
        checks.passed[name] = known.wanted.workload
        return
    unanswered = refusal.reason is Reason.WAITING
    again = unanswered and before.reason is not Reason.WAITING
    round.state.children.reject(name, before if again else refusal)
    checks.due[name] = round.now() + (_UNANSWERED_SECONDS if unanswered else _REJECTED_SECONDS)


def _pods_of(round: Round, ids: Iterable[str]) -> set[str]:
    """The names of the pod children with these ids."""
    children = round.state.children
    if not children.pods:
        return set()  # Most hubs have none, and ids may be a hundred thousand.
    return {name for child_id in ids for name in children.by_id.get(child_id, ()) if name in children.pods}


def _recorded(round: Round, known: KnownChild) -> Assignment | None:
    """The entry of a pod child that has another workload on record than its Child asks for; None if there is none."""
    if known.spec.pod is None:
        return None
    entries = (each.assignments.get(known.child.id) for each in round.state.slices.values())
    own = [entry for entry in entries if entry is not None and entry.uid == known.metadata.uid]
    return next((entry for entry in own if entry.workload != known.wanted.workload), None)


async def _check(round: Round, known: KnownChild, entry: Assignment, memory: ExecuteMemory) -> Refusal | None:
    """Why the Pod of the Child's template can't be created, or None."""
    assert known.spec.pod is not None
    workload = PodWorkload(template=known.spec.pod.template, port=known.spec.pod.port)
    entry = msgspec.structs.replace(entry, workload=known.wanted.workload, restart_policy=known.spec.restart_policy)
    place = PodPlace(child_id=known.child.id, member="member", node=_ANY_NODE, entry=entry)
    try:
        manifest = child_pod(round.hub, known.child, place, workload, tls=memory.tls_required)
    except (AttributeError, TypeError) as error:  # The schema allows any object as a template.
        return Refusal(Reason.INVALID, f"spec.pod.template is not a PodTemplateSpec: {error}")
    metadata = manifest["metadata"]
    metadata["generateName"] = f"{metadata.pop('name')}-"  # Its own name is that of the Pod that runs.
    try:
        async with memory.template_checks.limit:
            await round.client.create(PODS, round.hub.metadata.namespace, manifest, dry_run=True)
    except (ForbiddenError, InvalidError) as error:
        if _QUOTA_USED_UP in error.message or isinstance(error, NamespaceTerminatingError):
            return None
        return Refusal(Reason.INVALID, f"the pod of the edited template is refused: {error.message}"[:1000])
    except ApiError as error:
        return Refusal(Reason.WAITING, f"the edited template is not checked yet: {error.message}"[:1000])
    return None
