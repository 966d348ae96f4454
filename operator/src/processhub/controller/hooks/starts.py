"""PreChildStart: a child that is new or edited waits until its hooks have answered.

The changes of a hook are on record with the child. Until its user edits it, the entry is kept, whichever operator leads
and whatever hooks there are by then. The hooks are asked only about children that are to be started or were edited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from processhub.api.hooks import Hook, HookEvent, in_order
from processhub.api.reasons import Reason, Role
from processhub.controller.hooks.asking import Asker, Unanswered
from processhub.controller.hooks.verdicts import HookVerdict, changed_child
from processhub.controller.observe.admission import StartCandidate
from processhub.controller.observe.ownership import is_asleep
from processhub.controller.store.hubstate import HubState
from processhub.core.acceptance import Refusal
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import DesiredChild, OnRecord, attributes_digest
from processhub.core.planning.builder import same_attributes

_AGAIN_SECONDS, _AGAIN_MAX_SECONDS = 5.0, 60.0  # between two questions to a hook that must answer and did not


class _Question(msgspec.Struct, frozen=True):
    """The subject of a question: the child at that time, and the hooks."""

    generation: int
    digest: str
    hooks: tuple[Hook, ...]


class _Asked(msgspec.Struct):
    """A question that is under way or answered. ``again_at`` (monotonic): when a failed one is asked again."""

    question: _Question
    answer: HookVerdict | None = None
    task: asyncio.Task[None] | None = None
    again_in: float = 0.0
    again_at: float = float("inf")


class StartAdmission:
    """The admission of one hub's starts: which children may start, and how changed. ``wake`` requeues the hub."""

    def __init__(self, asker: Asker, state: HubState, wake: Callable[[], None]) -> None:
        self._asker, self._state, self._wake = asker, state, wake
        self._asked: dict[tuple[str, str], _Asked] = {}  # by the child's uid and id
        self._looked_at: set[tuple[str, str]] = set()  # the keys of this round
        self._hooks: tuple[Hook, ...] = ()
        self._digests: dict[str, tuple[DesiredChild, str]] = {}  # by id
        self.workloads: dict[str, str] = {}

    def begin_round(self, hooks: tuple[Hook, ...]) -> bool:
        """Take the hub's hooks for a round; returns whether any start has to be admitted."""
        self._hooks = tuple(in_order(hooks, HookEvent.PRE_CHILD_START))
        self.workloads = {}
        if len(self._asked) > 2 * len(self._looked_at) + 100:
            self._asked = {key: asked for key, asked in self._asked.items() if asked.task or key in self._looked_at}
        self._looked_at = set()
        if len(self._digests) > 2 * len(self._state.children) + 20_000:
            self._digests.clear()  # most are of children that are gone
        return bool(self._hooks) or any(known.asked for known in self._state.slices.values())

    def __call__(self, candidate: StartCandidate, places: tuple[OnRecord, ...]) -> DesiredChild | Refusal | Unplaced:
        """Admit a start; returns the child as it may run, why it may not, or what it waits for."""
        wanted = candidate.wanted
        own = [place for place in places if place.entry.uid == wanted.uid]
        resumes = is_asleep(own)
        if own and not (resumes and self._hooks):
            entry = min(own, key=lambda place: (place.entry.role != Role.ACTIVE, -place.entry.epoch)).entry
            if not entry.asked and not resumes and entry.workload == wanted.workload and same_attributes(entry, wanted):
                return wanted
            if entry.asked and entry.asked == self._digest(wanted):
                return wanted.recorded(entry)
        if not self._hooks:
            return wanted
        answer = self._answer(candidate)
        if answer is None:
            names = ", ".join(hook.name for hook in self._hooks)
            return Unplaced(Reason.WAITING, f"waiting for the answer of hook {names}")
        if not answer.allow:
            return Refusal(Reason.HOOK_DENIED, answer.reason)
        changed, text = changed_child(candidate, answer)
        self.workloads[changed.workload] = text
        return changed

    def close(self) -> None:
        """Stop asking."""
        for asked in self._asked.values():
            if asked.task is not None:
                asked.task.cancel()

    def _answer(self, candidate: StartCandidate) -> HookVerdict | None:
        """The hooks' answer for the child, or None while it is awaited. The hooks are asked if they have not been."""
        wanted = candidate.wanted
        key = (wanted.uid, wanted.id)
        self._looked_at.add(key)
        question = _Question(candidate.generation, self._digest(wanted), self._hooks)
        asked = self._asked.get(key)
        if asked is None or asked.question != question:
            if asked is not None and asked.task is not None:
                asked.task.cancel()
            asked = self._asked[key] = _Asked(question)
        again = asyncio.get_running_loop().time() >= asked.again_at
        if asked.task is None and (asked.answer is None or again):
            asked.again_at = float("inf")
            asked.task = asyncio.create_task(self._ask(candidate, asked), name=f"PreChildStart {wanted.id}")
        return asked.answer

    def _digest(self, wanted: DesiredChild) -> str:
        """The child's digest. It is computed again only after an edit of the child."""
        known = self._digests.get(wanted.id)
        if known is None or known[0] is not wanted:
            known = self._digests[wanted.id] = (wanted, attributes_digest(wanted))
        return known[1]

    async def _ask(self, candidate: StartCandidate, asked: _Asked) -> None:
        loop = asyncio.get_running_loop()
        child_id = candidate.wanted.id
        try:
            asked.answer = await self._asker.ask(
                HookEvent.PRE_CHILD_START,
                child_id,
                _about(candidate),
                check=lambda answer: changed_child(candidate, answer),
            )
        except Unanswered as error:
            asked.again_in = min(asked.again_in * 2 or _AGAIN_SECONDS, _AGAIN_MAX_SECONDS)
            asked.again_at = loop.time() + asked.again_in
            asked.answer = HookVerdict(allow=False, reason=f"{error}; asked again in {asked.again_in:g} s")
            loop.call_later(asked.again_in, self._wake)
        finally:
            asked.task = None
        self._state.dirty.add(child_id)
        self._wake()


def _about(candidate: StartCandidate) -> dict[str, Any]:
    spec, wanted = candidate.spec, candidate.wanted
    about = {
        "child": wanted.id,
        "uid": wanted.uid,
        "generation": candidate.generation,
        "tags": list(spec.tags),
        "metadata": dict(spec.metadata),
        "nodes": list(spec.nodes),
        "workload": msgspec.json.decode(candidate.workload),
    }
    return about | ({"origin": spec.origin} if spec.origin else {})
