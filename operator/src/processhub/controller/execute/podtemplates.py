"""Edited templates of pod children are checked by a dry run before the Pods that run are deleted.

What the API server rejects is not accepted, and the children keep what they have on record: those of Child objects
here, those of ChildSets and of a Hub's spec.onDemand in grouptemplates.py. A template that passes may still fail: the
roll-out of a ChildSet's or a Hub's template stops when ``maxFailed`` of its children do not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from processhub.api.reasons import Reason
from processhub.controller.execute.grouptemplates import GroupTemplates
from processhub.controller.execute.memory import ExecuteMemory, TemplateChecks
from processhub.controller.execute.templatecheck import NO_ANSWER, EditedTemplate, seconds_until_again, verdicts
from processhub.controller.rounds.round import Round
from processhub.controller.store.children import KnownChild
from processhub.core.acceptance import Refusal
from processhub.core.model.snapshot import DesiredChild
from processhub.registry.grammar import Assignment


class AskedTemplates(NamedTuple):
    """What was asked about in a round.

    ``names``: of the Children. ``before``: by name, what was said about the same template. ``answers``: those that
    there are by now, by the workload's hash; None: the template is accepted.
    """

    names: set[str]
    before: Mapping[str, tuple[DesiredChild, Refusal]]
    groups: GroupTemplates
    answers: Mapping[str, Refusal | None]


async def ask_about_templates(round: Round, memory: ExecuteMemory) -> AskedTemplates:
    """Check the templates that were edited, and again those that were rejected."""
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
    groups = GroupTemplates(round, checks)
    templates = [
        EditedTemplate(digest, known.spec, known.child, known.child.id, entry)
        for digest, ((known, entry), *_) in edited.items()
    ]
    templates += groups.edited()
    awaited = {children[name].wanted.workload for name in checks.due if name in children}
    awaited |= {known.digest for known in checks.groups.values()}
    answers = await verdicts(round, memory, templates, awaited)
    names = {known.metadata.name for group in edited.values() for known, _ in group}
    return AskedTemplates(names, before, groups, answers)


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
            said = known_before[1] if known_before and known_before[0] is present.wanted else NO_ANSWER
            _take(round, checks, present, asked.answers.get(present.wanted.workload, NO_ANSWER), said)
    asked.groups.take(asked.answers)
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


def _take(round: Round, checks: TemplateChecks, known: KnownChild, refusal: Refusal | None, before: Refusal) -> None:
    """Take the verdict about an edited template. As long as there is none, what was said ``before`` is said again."""
    name = known.metadata.name
    if refusal is None:
        checks.passed[name] = known.wanted.workload
        return
    unanswered = refusal.reason is Reason.WAITING
    again = unanswered and before.reason is not Reason.WAITING
    round.state.children.reject(name, before if again else refusal)
    checks.due[name] = round.now() + seconds_until_again(refusal)


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
