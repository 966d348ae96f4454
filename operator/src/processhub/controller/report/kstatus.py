"""The condition Accepted, and the conditions Reconciling and Stalled.

By the last two, tools such as Flux and Argo CD see how far an object is. They follow the rules of kstatus: an object is
Current if its Ready is True, its observedGeneration is that of the object, and neither of the two is there. So
Reconciling says what of the latest edit is still under way while Ready is True by what runs on, and Stalled says that
the object waits for its user. At most one of them is there, and only while it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from processhub.api.meta import Condition, condition_of
from processhub.api.reasons import Reason, RestartPolicy, State
from processhub.core.acceptance import Refusal
from processhub.core.listing import listed
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import DesiredChild
from processhub.core.planning.builder import same_attributes
from processhub.registry.copies import Copy
from processhub.registry.grammar import Assignment

ABNORMAL = ("Stalled", "Reconciling")
# Refusals that end when another object changes. They are no fault of the object.
WAITS = (
    Reason.HUB_NOT_FOUND,
    Reason.ALREADY_STARTED,
    Reason.CAPACITY_EXCEEDED,
    Reason.NAME_CONFLICT,
    Reason.WAITING,  # The API server has not said yet whether it creates the Pod of an edited template.
)
# Reasons for which a child has no place until its user, or whoever refuses it, changes something.
REFUSED_PLACES = (Reason.INVALID, Reason.HOOK_DENIED)
UNDER_WAY = (State.PENDING, State.STARTING, State.STOPPING)
# Reasons of Ready=False of a child that ends by itself, or that its own failures keep from running.
_NO_WORK = (Reason.SUSPENDED, Reason.COMPLETED, Reason.IDLE)


def accepted(refusal: Refusal | None, generation: int, note: str = "") -> Condition:
    """The condition Accepted. A suspended object is accepted. ``note``: what of it has no effect."""
    if refusal is None or refusal.reason is Reason.SUSPENDED:
        return condition_of("Accepted", True, Reason.ACCEPTED, note, generation)
    return condition_of("Accepted", False, refusal.reason, refusal.message, generation)


def described(child_id: str, *parts: str) -> str:
    """The child's id with the reason of its state and its last exit, such as ``set-9 (Exited, exit code 1)``."""
    return f"{child_id} ({', '.join(filter(None, parts))})"


def reconciling(reason: str, message: str, generation: int) -> Condition:
    """The condition of an object whose latest edit, or a change that it needs, is under way."""
    return condition_of("Reconciling", True, reason, message, generation)


def stalled(reason: str, message: str, generation: int) -> Condition:
    """The condition of an object that waits for its user."""
    return condition_of("Stalled", True, reason, message, generation)


def of_refusal(refusal: Refusal, generation: int) -> Condition:
    """The condition of an object that is not accepted."""
    kind = reconciling if refusal.reason in WAITS else stalled
    return kind(refusal.reason, refusal.message, generation)


def is_refused(unplaced: Unplaced | None) -> bool:
    """Whether the child waits for its user: the API server refuses its Pod, or a hook denies its start."""
    return unplaced is not None and unplaced.reason in REFUSED_PLACES


def differs(entry: Assignment, wanted: DesiredChild) -> bool:
    """Whether the entry is not yet as its object asks for. A hook may have changed it."""
    return entry.asleep != wanted.suspended or entry.workload != wanted.workload or not same_attributes(entry, wanted)


def of_child(
    own: Sequence[Copy],
    ready: Condition,
    refusal: Refusal | None,
    unplaced: Unplaced | None,
    wanted: DesiredChild | None,
) -> Condition | None:
    """The condition of a Child with these copies. ``wanted``: the child as its latest spec asks for it."""
    generation = ready.observed_generation
    suspended = refusal is not None and refusal.reason is Reason.SUSPENDED
    if refusal is not None and not suspended:
        return of_refusal(refusal, generation)
    if ready.reason == Reason.RESTARTS_EXCEEDED or _has_failed_for_good(own, ready):
        return stalled(ready.reason, ready.message, generation)
    if unplaced is not None:
        kind = stalled if is_refused(unplaced) else reconciling
        return kind(unplaced.reason, unplaced.message, generation)
    if why := change_under_way(own, wanted):
        return reconciling(Reason.UPDATING, why, generation)
    crashes = any(copy.shown is not None and copy.shown.restarts for copy in own)
    if ready.status == "True" or ready.reason in _NO_WORK or suspended or crashes or _has_ended(own):
        return None
    return reconciling(ready.reason, ready.message, generation)


def change_under_way(own: Sequence[Copy], wanted: DesiredChild | None) -> str:
    """What of the child's latest spec, or of a move, is not done yet, as a sentence; "" if nothing is."""
    for copy in own:
        if copy.entry is None and copy.state == State.STOPPING:
            return f"the copy on {copy.member} is being stopped"
        if copy.entry is None:
            continue
        if copy.entry.wait and not copy.entry.asleep:
            return f"it is started on {copy.member} when its other incarnation has ended"
        if wanted is not None and differs(copy.entry, wanted):
            return f"{copy.member} runs it as it was before the last edit"
        fresh = copy.shown is None or not copy.shown.restarts
        if copy is not own[0] and not copy.entry.asleep and fresh and copy.state in UNDER_WAY:
            return f"the copy on {copy.member} is {copy.state}"
    if wanted is not None and wanted.nodes and {copy.member for copy in own} - set(wanted.nodes):
        return f"it is to be on {listed(wanted.nodes)}"
    return ""


def _has_failed_for_good(own: Sequence[Copy], ready: Condition) -> bool:
    """Whether the child has ended with a failure, and its restartPolicy does not restart it."""
    first = own[0] if own else None
    if first is None or first.entry is None or ready.status == "True" or first.state != State.FAILED:
        return False
    return first.entry.restart_policy == RestartPolicy.TEMPORARY


def _has_ended(own: Sequence[Copy]) -> bool:
    return bool(own) and own[0].state in (State.STOPPED, State.FAILED)
