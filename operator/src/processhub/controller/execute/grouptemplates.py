"""The edited templates of ChildSets and of a Hub's children on demand, checked as those of Children are.

One template is that of many children. While it is rejected, all of those keep what they have on record. Of a ChildSet,
none is placed anew. Requests still start children on demand: each says by its own Pod what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from processhub.api.child import ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.controller.execute.memory import GroupCheck, TemplateChecks
from processhub.controller.execute.templatecheck import NO_ANSWER, EditedTemplate, seconds_until_again
from processhub.controller.rounds.round import Round
from processhub.controller.store.childsets import of_template
from processhub.core.acceptance import Refusal, of_demand, spec_on_demand
from processhub.registry.workloads import encode_workload


class _Group(msgspec.Struct, frozen=True):
    """The pod children of one template."""

    owner: ChildSet | Hub
    template: ChildSpec
    digest: str

    @property
    def uid(self) -> str:
        """The uid in the entries of its children."""
        return self.owner.metadata.uid


class GroupTemplates:
    """The templates of one round. ``edited()`` are to be checked; ``take`` takes the answers."""

    def __init__(self, round: Round, checks: TemplateChecks) -> None:
        self._round, self._checks = round, checks
        self._on_demand: list[_Group] = []
        if (demand := round.hub.spec.on_demand) is not None and demand.pod is not None:
            self._on_demand.append(_Group(round.hub, spec_on_demand(demand), encode_workload(demand)[0]))

    def edited(self) -> list[EditedTemplate]:
        """The templates that are not checked yet, or were rejected some time ago."""
        groups = {group.uid: group for group in self._groups()}
        for uid in self._checks.groups.keys() - groups.keys():
            del self._checks.groups[uid]
        for uid in self._round.state.sets.rejected.keys() - groups.keys():
            self._round.state.sets.reject(uid, None)
        found = (self._edited(group) for group in groups.values() if self._is_due(group))
        return [template for template in found if template is not None]

    def take(self, answers: Mapping[str, Refusal | None]) -> None:
        """Take the answers, by the workload's hash. As long as there is none, what was said before is said again."""
        for group in self._groups():
            if self._is_due(group):
                self._take(group, answers)
            known = self._checks.groups[group.uid]
            if known.refusal is not None:
                self._round.again_in(max(0.0, known.due - self._round.now()))

    def _take(self, group: _Group, answers: Mapping[str, Refusal | None]) -> None:
        sets, known = self._round.state.sets, self._checks.groups.get(group.uid)
        refusal = answers.get(group.digest, NO_ANSWER) if self._edited(group) is not None else None
        until = self._round.now() + (0.0 if refusal is None else seconds_until_again(refusal))
        if refusal is NO_ANSWER and known is not None and known.digest == group.digest and known.refusal is not None:
            refusal = known.refusal
        self._checks.groups[group.uid] = GroupCheck(group.digest, refusal, until)
        if refusal is not None:
            refusal = (of_template if isinstance(group.owner, ChildSet) else of_demand)(refusal)
        sets.reject(group.uid, refusal)

    def _groups(self) -> Iterator[_Group]:
        hub, state = self._round.hub, self._round.state
        yield from self._on_demand
        for name, refusal in list(state.sets.refusals(hub.spec).items()):  # A verdict takes one of them away.
            known = state.sets[name]
            is_own = refusal is None or refusal == state.sets.rejected.get(known.metadata.uid)
            if known.template.pod is not None and is_own and isinstance(known.object, ChildSet):
                yield _Group(known.object, known.template, known.digest)

    def _is_due(self, group: _Group) -> bool:
        known = self._checks.groups.get(group.uid)
        if known is None or known.digest != group.digest:
            return True
        return known.refusal is not None and self._round.now() >= known.due

    def _edited(self, group: _Group) -> EditedTemplate | None:
        """The template with one of the children that have another one on record; None if there are none."""
        for known in self._round.state.slices.values():
            for child_id, entry in known.assignments.items():
                if entry.uid == group.uid and entry.workload != group.digest and not entry.asked:
                    return EditedTemplate(group.digest, group.template, group.owner, child_id, entry)
        return None
