"""One child on this member: a small state machine between what is desired and what runs.

States: Pending → Starting → Running → Stopping → gone, with Failed (waiting for its next start, or given up) and
Stopped (finished, and its policy lets it rest). Only one incarnation exists at a time: a newer one waits until
nothing of the old one is left.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from processhub.agent.children.backoff import Backoff
from processhub.agent.children.runs import ExitStatus, Limits, RunHandle
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.api.child import PodWorkload
from processhub.api.reasons import Reason, RestartPolicy, State
from processhub.cluster.timestamps import now_seconds
from processhub.registry.grammar import Given, HandoverOrder, Kept, Report, format_report

_MESSAGE_MAX = 500


class ChildHost(Protocol):
    """What a child needs of its supervisor."""

    closing: bool  # the agent ends: nothing is started any more

    def may_start(self, child: Child, *, again: bool) -> bool:
        """Whether the child may start now; ``again``: the same incarnation has run here before."""

    def lacks_state(self, child: Child) -> bool:
        """Whether the state that the child is to start with is not here, but on its former member."""

    def launch(self, child: Child, desired: DesiredRun) -> RunHandle:
        """Start the child; ``child.begun``, ``child.running`` and ``child.ended`` follow."""

    def changed(self, child: Child, *, urgent: bool) -> None:
        """The child's report changed; ``urgent``: somebody may wait for it."""

    def at_work(self, child: Child) -> bool:
        """Whether the child has a request in hand whose answer is worth waiting for before it is stopped."""

    def gone(self, child: Child) -> None:
        """Nothing of the child runs and none is desired: forget it."""

    def hand_over(self, child: Child, desired: DesiredRun) -> None:
        """The child's state is to go to another member: begin the handover."""

    def stays(self, child: Child) -> None:
        """The child declined to be moved."""

    def quiesced(self, child: Child, exit_status: ExitStatus) -> None:
        """The child ended for a handover, and left its state or none."""

    def up(self, child: Child, seconds: float) -> None:
        """The child runs, so many seconds after its start: what it was started with is its own now."""

    def restarted(self, child: Child) -> None:
        """The child is being restarted (for metrics)."""


class Child:
    """The state machine. All calls on the event loop's thread."""

    __slots__ = (
        "_backoff",
        "_began",
        "_held_back",
        "_host",
        "_interrupted",
        "_loop",
        "_run",
        "_timed_out",
        "_timer",
        "_up_since",
        "desired",
        "given_up",
        "id",
        "idle",
        "kept",
        "last_exit",
        "leaving",
        "limits",
        "message",
        "pid",
        "reason",
        "received",
        "restarts",
        "sent",
        "settled",
        "started_at",
        "started_for",
        "state",
        "stopping",
        "tried",
        "was_up",
    )

    def __init__(self, child_id: str, host: ChildHost, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.id = child_id
        self._host, self.limits, self._loop = host, limits, loop
        self.desired: DesiredRun | None = None
        self.started_for: DesiredRun | None = None  # what the present incarnation was started for
        self._run: RunHandle | None = None
        self.stopping = False
        self._held_back: Callable[[RunHandle], None] | None = None  # a stop that waits for a request's answer
        self._timer: asyncio.TimerHandle | None = None  # the next start, or the limit of this one
        self._fresh()

    def _fresh(self) -> None:
        """Reset everything that belongs to an incarnation: a new one is desired."""
        self.state, self.reason, self.message = State.PENDING, "", ""
        self.pid = self.restarts = 0
        self.started_at = self.last_exit = ""
        self._backoff = Backoff()
        self._up_since = self._began = 0.0
        self._timed_out = False
        self.tried = False  # this agent has started it before
        self._interrupted = False  # an earlier agent of this member was running it
        self.was_up = False  # and had reported it Running
        self.idle = False  # it serves no more and waits for its end
        self.given_up = False  # it rests, or has failed for good, until its spec changes
        self.settled = False  # it ran or failed once: readiness does not wait for it any more
        self.leaving = False  # it is to hand its state over: no request comes to it any more
        self.sent = self.kept = self.received = ""  # what is reported of a handover

    @property
    def alive(self) -> bool:
        """Whether something of the child may run."""
        return self._run is not None

    @property
    def up_since(self) -> float:
        """When the child's present process came up, by the loop's clock; 0 where none did."""
        return self._up_since

    @property
    def run(self) -> RunHandle | None:
        """The handle of what runs, None where nothing does."""
        return self._run

    @property
    def serving(self) -> bool:
        """Whether the child takes requests now: it is up, is not to stop or to be moved, and is not idle."""
        away = self.stopping or self.leaving or self.idle
        return self._run is not None and self.state == State.RUNNING and not away

    # what is desired

    def set_desired(self, desired: DesiredRun | None) -> None:
        """Set what shall run; None stops the child."""
        before, self.desired = self.desired, desired
        if self._run is not None and self.started_for is not None:
            if desired is None or not desired.same_run(self.started_for):
                self.stop(self.limits.stop_seconds)
                return
            before, self.started_for = self.started_for, desired
            entry = desired.assignment
            if (entry.role, entry.epoch) != (before.assignment.role, before.assignment.epoch):
                self._run.role(entry.role, entry.epoch, notify=self.limits.notifies(entry.role))
            if self.idle and entry.idle_seconds != before.assignment.idle_seconds:
                self.idle, self.reason, self.message = False, Reason.STARTED, ""  # by another measure it is not
            self._follow_handover(before)
            self._host.changed(self, urgent=False)
        elif desired is None:
            self._cancel_timer()
            self._host.gone(self)
        else:
            if before is not None and not desired.same_run(before):
                self._cancel_timer()
                self._fresh()
            self._follow_handover(before)
            self._host.changed(self, urgent=False)
            self.advance()

    def _follow_handover(self, before: DesiredRun | None) -> None:
        """Begin a handover that the entry asks for now. Where it asks no more, what ended for it starts again."""
        assert self.desired is not None
        order = self.desired.assignment.to
        if order != (before.assignment.to if before is not None else ""):
            self.sent = self.kept = ""
            if order:
                self._host.hand_over(self, self.desired)

    def quiesce(self, path: Path, *, ask: bool) -> None:
        """End the child for a handover, with its state at ``path`` or in its exit status.

        ``ask``: only if it agrees. Either ``stays`` is called then, or ``ended``.
        """
        self.leaving = True
        self._host.changed(self, urgent=False)
        grace = self.limits.stop_seconds
        if self._run is not None and self._host.at_work(self):
            # It answers first; what waits goes to where it will be.
            self._held_back = lambda run: run.hand_over(path, grace, ask=ask)
        elif self._run is not None:
            self._run.hand_over(path, grace, ask=ask)

    def stays(self) -> None:
        """The child declined to be moved: it serves again."""
        self.leaving = False
        self._host.stays(self)
        self._host.changed(self, urgent=False)

    def report_kept(self, why: str, text: str = "") -> None:
        """Report that the state was not handed over; ``text`` says more for people."""
        if self.desired is not None and self.desired.assignment.to:
            epoch = HandoverOrder.parse(self.desired.assignment.to).epoch
            self.kept = Kept(epoch, why, text[:_MESSAGE_MAX]).format()
            self._host.changed(self, urgent=True)

    def report_sent(self, checksum: str) -> None:
        """Report that the target has the whole state."""
        if self.desired is not None and self.desired.assignment.to:
            self.sent = Given(HandoverOrder.parse(self.desired.assignment.to).epoch, checksum).format()
            self._host.changed(self, urgent=True)

    def report_received(self, checksum: str) -> None:
        """Report that the state from the former member is here."""
        self.received = checksum
        self._host.changed(self, urgent=True)

    def report_lost(self) -> None:
        """Report that the state is lost: it ended with an earlier agent, and the former member is to send it again."""
        if self.desired is not None and not self.kept:
            self.kept = Kept(self.desired.assignment.epoch, "lost").format()
            self.message = "its state was lost with an earlier agent of this member; its former member sends it again"
            self._host.changed(self, urgent=True)

    def adopt(self, report: Report) -> None:
        """Take over what an earlier agent of this member reported of the same incarnation; call before ``set_desired``.

        A child that had finished stays so, and one that is never restarted isn't started again.
        """
        self.restarts, self.last_exit = report.restarts, report.last_exit
        self.started_at = report.started_at  # by which it is known to have taken its state, whatever becomes of it
        if report.state == State.STOPPED or report.reason == Reason.RESTARTS_EXCEEDED:
            self.state, self.reason, self.message = State(report.state), report.reason, report.message
            self.settled = self.given_up = True
        elif report.state in (State.STARTING, State.RUNNING, State.STOPPING):
            self._interrupted = True
            self.was_up = report.state in (State.RUNNING, State.STOPPING)

    # running it

    def advance(self) -> None:
        """Start the child if it shall run, may start, and nothing of it runs yet."""
        desired = self.desired
        if desired is None or self._run is not None or self._timer is not None or self.given_up:
            return
        if desired.assignment.to:
            return  # what it was is on its way, or comes back with a newer epoch
        if not self._host.may_start(self, again=self.tried):
            return
        if not self.tried and self._host.lacks_state(self):
            self.report_lost()  # started afresh it would be taken for moved, and the only copy of its state thrown away
            return
        if self.kept:
            self.kept = self.message = ""
        ended_with_agent = self._interrupted and not isinstance(desired.workload, PodWorkload)
        if ended_with_agent and desired.assignment.restart_policy == RestartPolicy.TEMPORARY:
            self._rest(ExitStatus(Reason.EXITED, "ended with the member's container"))
            return
        self.tried, self._interrupted = True, False
        self.started_for, self.stopping, self._timed_out = desired, False, False
        self.state, self.pid = State.STARTING, 0
        self._began = self._loop.time()
        if not self.restarts and not self.reason:
            self.reason = Reason.STARTING
        self._host.changed(self, urgent=False)
        self._run = self._host.launch(self, desired)

    def begun(self) -> None:
        """The start is under way and waits for no other start: startSeconds count from here."""
        self._began = self._loop.time()
        if not self.stopping:
            self._cancel_timer()
            self._timer = self._loop.call_later(self.limits.start_seconds, self._start_timed_out)

    def running(self, pid: int) -> None:
        """The child is up."""
        self.pid = pid
        self.settled = True
        self.idle = False
        self._up_since = self._loop.time()
        self.started_at = now_seconds()
        if self.stopping:
            return
        self._cancel_timer()
        self.state, self.reason, self.message = State.RUNNING, Reason.STARTED, ""
        self.received = ""
        self._host.up(self, self._up_since - self._began)
        self._host.changed(self, urgent=True)

    def blocked(self, state: State, reason: Reason, message: str) -> None:
        """The child is not up, or not any more, for this reason; it may come up without a new start."""
        news = (state, reason, message[:_MESSAGE_MAX])
        if self.stopping or news == (self.state, self.reason, self.message):
            return
        self.state, self.reason, self.message = news
        self._host.changed(self, urgent=True)

    def is_idle(self, seconds: float) -> None:
        """No request came for so long: take none any more and report the child idle, so that the operator ends it."""
        self.idle = True
        self.reason, self.message = Reason.IDLE, f"no request for {seconds:g} s (idleSeconds); it is to be ended"
        self._host.changed(self, urgent=True)

    def stop(self, grace: float) -> None:
        """End the child; what follows depends on what is desired by then."""
        if self._run is None:
            return
        self._cancel_timer()
        if not self.stopping:
            self.stopping = True
            self.state = State.STOPPING
            self._host.changed(self, urgent=False)
            if self._host.at_work(self):
                # The stop waits for the answer; no further request goes to the child.
                self._held_back = lambda run: run.stop(grace)
                self._timer = self._loop.call_later(self.limits.request_seconds, self.at_rest)
                return
        self._held_back = None
        self._run.stop(grace)

    def at_rest(self) -> None:
        """The request in hand is answered, or has taken too long: a stop that waited for it goes on."""
        if self._held_back is None:
            return
        self._cancel_timer()
        order, self._held_back = self._held_back, None
        if self._run is not None:
            order(self._run)

    def _start_timed_out(self) -> None:
        self._timer = None
        self._timed_out = True
        self.settled = True
        self.state, self.reason = State.FAILED, Reason.START_TIMEOUT
        self.message = f"not up within {self.limits.start_seconds:g} s; it is being ended"
        if self._run is not None:
            self.stopping = True
            self._run.give_up()
        self._host.changed(self, urgent=True)

    def ended(self, exit_status: ExitStatus) -> None:
        """Nothing of the incarnation is left."""
        self._cancel_timer()
        self._held_back = None
        ran, self.started_for, self._run = self.started_for, None, None
        ordered, self.stopping = self.stopping, False
        self.pid = 0
        self.settled = True
        if self.desired is None:
            self._host.gone(self)
            return
        if ran is None or not self.desired.same_run(ran):
            self._fresh()
            self._host.changed(self, urgent=True)
            self.advance()
            return
        if self._timed_out:
            exit_status = ExitStatus(
                Reason.START_TIMEOUT, "start timed out", message=f"not up within {self.limits.start_seconds:g} s"
            )
        leaving, self.leaving = self.leaving, False
        if leaving and not exit_status.fenced:
            self.state, self.reason, self.last_exit = State.STOPPING, "", exit_status.text
            self.message = "its state is handed over"
            self._host.quiesced(self, exit_status)
            self._host.changed(self, urgent=True)
            self.advance()  # unless it is still to go
            return
        if self._host.closing or exit_status.fenced or (ordered and not self._timed_out):
            # Ended for the agent's own sake and still desired: it comes back when the Lease allows a start.
            self.state, self.reason, self.message, self.last_exit = State.PENDING, "", "", exit_status.text
            self._host.changed(self, urgent=True)
            self.advance()
            return
        self.last_exit = exit_status.text
        policy = self.desired.assignment.restart_policy
        if exit_status.final:
            self.state, self.reason, self.message = State.FAILED, exit_status.reason, exit_status.message
            self.given_up = True
            self._host.changed(self, urgent=True)
        elif policy == RestartPolicy.TEMPORARY or (policy == RestartPolicy.TRANSIENT and exit_status.success):
            self._rest(exit_status)
        else:
            self._restart(exit_status)

    def _rest(self, exit_status: ExitStatus) -> None:
        self.state, self.last_exit = State.STOPPED, exit_status.text
        self.reason = Reason.COMPLETED if exit_status.success else exit_status.reason
        self.message = exit_status.message
        self.settled = self.given_up = True
        self._host.changed(self, urgent=True)

    def _restart(self, exit_status: ExitStatus) -> None:
        """Start the child again after its back-off; fail for good where it has restarted too often."""
        now = self._loop.time()
        if self._up_since:
            self._backoff.ran(now - self._up_since)
        self._up_since = 0.0
        cause = exit_status.message or exit_status.text
        limit, window = self.limits.restarts_max, self.limits.restarts_window
        if not self._backoff.allow(now, limit, window):
            self.state, self.reason, self.given_up = State.FAILED, Reason.RESTARTS_EXCEEDED, True
            self.message = (
                f"more than {limit} restarts in {window:g} s, the last one: {cause}"
                "; it starts again when its spec changes"
            )[:_MESSAGE_MAX]
            self._host.changed(self, urgent=True)
            return
        self.restarts += 1
        self._host.restarted(self)
        self.state, self.reason = State.FAILED, exit_status.reason
        delay = self._backoff.next_delay()
        self.message = f"{cause}; BackOff: restart {self.restarts} after {delay:g} s"[:_MESSAGE_MAX]
        if delay:
            self._timer = self._loop.call_later(delay, self._backed_off)
            self._host.changed(self, urgent=True)
        else:
            self.advance()
            if self._run is None:
                self._host.changed(self, urgent=True)

    def _backed_off(self) -> None:
        self._timer = None
        self.advance()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # reporting

    def slice_gone(self, name: str, instead: str) -> None:
        """The slice that ordered what runs was deleted: its end is reported in the slice ``instead``."""
        if self.started_for is not None and self.started_for.slice == name != instead:
            self.started_for = dataclasses.replace(self.started_for, slice=instead)
            self._host.changed(self, urgent=True)

    def slices(self) -> tuple[str, ...]:
        """The slices that report the child: the one that names it, and the one that last named what still runs."""
        names = {item.slice for item in (self.desired, self.started_for) if item is not None}
        return tuple(names)

    def report_for(self, slice_name: str) -> str | None:
        """The text of the child's entry in that slice's status; None where it has none."""
        report = self.report_in(slice_name)
        return None if report is None else format_report(report)

    @property
    def awaits_pod(self) -> bool:
        """Whether the child starts as a Pod, which the operator makes once that is reported."""
        if self.state != State.STARTING or self.started_for is None:
            return False
        return isinstance(self.started_for.workload, PodWorkload)

    def report_in(self, slice_name: str) -> Report | None:
        """The child's report in that slice's status; None where it has none."""
        subject = self.started_for
        if subject is None or subject.slice != slice_name:
            if self.desired is None or self.desired.slice != slice_name:
                return None
            if subject is not None:
                # Its successor: on record, and Pending until nothing of the old one is left.
                entry = self.desired.assignment
                return Report(uid=entry.uid, epoch=entry.epoch, role=entry.role)
            subject = self.desired
        entry = subject.assignment
        return Report(
            uid=entry.uid,
            epoch=entry.epoch,
            role=entry.role,
            state=self.state,
            pid=self.pid,
            restarts=self.restarts,
            started_at=self.started_at,
            reason=self.reason,
            last_exit=self.last_exit,
            message=self.message,
            gave=self.sent,
            kept=self.kept,
            got=self.received,
            claim=subject.claim,
        )
