"""One child on this member: a small state machine between what is desired and what runs.

States: Pending → Starting → Running → Stopping → gone, with Failed (waiting for its next start, or given up) and
Stopped (finished, and its policy lets it rest). Only one incarnation exists at a time: a newer one waits until
nothing of the old one is left.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import Protocol

from processhub.agent.children.attempt import Attempt
from processhub.agent.children.backoff import RunHistory, rests
from processhub.agent.children.handoverstate import HandoverState
from processhub.agent.children.runs import ExitStatus, Limits, RunHandle
from processhub.agent.listeners import Listeners
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import Request
from processhub.api.child import PodWorkload
from processhub.api.reasons import Reason, RestartPolicy, State
from processhub.cluster.timestamps import now_seconds
from processhub.registry.grammar import Report

log = logging.getLogger(__name__)
_EXIT_MAX = 200  # characters of an exit that is reported
MESSAGE_MAX = 500  # characters of a message that is reported


class ChildHost(Protocol):
    """What a child needs of its supervisor."""

    news: ChildNews

    @property
    def closing(self) -> bool:
        """Whether the agent ends: nothing is started any more."""

    def may_start(self, child: Child, *, again: bool) -> bool:
        """Whether the child may start now; ``again``: the same incarnation has run here before.

        Where it is to start with a state that is not here, that is reported.
        """

    def launch(self, child: Child, desired: DesiredRun) -> RunHandle:
        """Start the child; ``child.begun``, ``child.running`` and ``child.ended`` follow."""

    def changed(self, child: Child, *, urgent: bool) -> None:
        """The child's report changed; ``urgent``: somebody may wait for it."""

    def gone(self, child: Child) -> None:
        """Nothing of the child runs and none is desired: forget it."""


class ChildNews:
    """What happens to the children of a member, for the parts that act on it; one object for all children.

    ``changed`` and ``gone`` come from the supervisor, all else from the child itself.
    """

    def __init__(self) -> None:
        self.changed: Listeners[Child, bool] = Listeners()  # its report changed; whether somebody may wait for it
        self.gone: Listeners[Child] = Listeners()  # nothing of it runs and none is desired
        self.started: Listeners[Child, float] = Listeners()  # it runs, so many seconds after its start
        self.restarted: Listeners[Child] = Listeners()  # it is being restarted
        self.handover_ordered: Listeners[Child, DesiredRun] = Listeners()  # its state is to go to another member
        self.handover_declined: Listeners[Child] = Listeners()  # it does not agree to be moved
        self.quiesced: Listeners[Child, ExitStatus] = Listeners()  # it ended for a handover, and left its state or none


class Child:
    """The state machine. All calls on the event loop's thread."""

    __slots__ = (
        "_attempt",
        "_history",
        "_host",
        "_interrupted",
        "_loop",
        "_timer",
        "desired",
        "given_up",
        "handover",
        "id",
        "idle",
        "in_hand",
        "last_exit",
        "limits",
        "message",
        "pid",
        "reason",
        "settled",
        "started_at",
        "state",
        "tried",
        "was_up",
    )

    def __init__(self, child_id: str, host: ChildHost, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.id = child_id
        self._host, self.limits, self._loop = host, limits, loop
        self.desired: DesiredRun | None = None
        self._attempt: Attempt | None = None  # to run it, from its start to its end
        self.in_hand: Request | None = None  # the request that the child may still answer in time
        self._timer: asyncio.TimerHandle | None = None  # the next start, or the limit of this one
        self._fresh()

    def _fresh(self) -> None:
        """Reset everything that belongs to an incarnation: a new one is desired."""
        self.state, self.reason, self.message = State.PENDING, "", ""
        self.pid = 0
        self.started_at = self.last_exit = ""
        self._history = RunHistory()
        self.tried = False  # this agent has started it before
        self._interrupted = False  # an earlier agent of this member was running it
        self.was_up = False  # and had reported it Running
        self.idle = False  # it serves no more and waits for its end
        self.given_up = False  # it rests, or has failed for good, until its spec changes
        self.settled = False  # it ran or failed once: readiness does not wait for it any more
        self.handover = HandoverState()

    @property
    def alive(self) -> bool:
        """Whether something of the child may run."""
        return self.run is not None

    @property
    def up_since(self) -> float:
        """When the child's present process came up, by the loop's clock; 0 where none did."""
        return self._history.up_since

    @property
    def restarts(self) -> int:
        """How often the present incarnation was restarted."""
        return self._history.count

    @property
    def run(self) -> RunHandle | None:
        """The handle of what runs, None where nothing does."""
        return self._attempt.run if self._attempt is not None else None

    @property
    def started_for(self) -> DesiredRun | None:
        """What the present incarnation was started for, None where nothing was."""
        return self._attempt.desired if self._attempt is not None else None

    @property
    def stopping(self) -> bool:
        """Whether what runs is to end."""
        return self._attempt is not None and self._attempt.stopping

    @property
    def serving(self) -> bool:
        """Whether the child takes requests now: it is up, is not to stop or to be moved, and is not idle."""
        away = self.stopping or self.handover.leaving or self.idle
        return self.run is not None and self.state == State.RUNNING and not away

    @property
    def _answers(self) -> bool:
        """Whether the child works on a request whose answer is worth waiting for before it is stopped."""
        return self.limits.answers_first and self.in_hand is not None and self.in_hand.begun

    # what is desired

    def set_desired(self, desired: DesiredRun | None) -> None:
        """Set what shall run; None stops the child."""
        before, self.desired = self.desired, desired
        attempt = self._attempt
        if attempt is not None and attempt.run is not None:
            if desired is None or not desired.same_run(attempt.desired):
                self.stop(self.limits.stop_seconds)
                return
            before, attempt.desired = attempt.desired, desired
            entry = desired.assignment
            if (entry.role, entry.epoch) != (before.assignment.role, before.assignment.epoch):
                attempt.run.role(entry.role, entry.epoch, notify=self.limits.notifies(entry.role))
            if self.idle and entry.idle_seconds != before.assignment.idle_seconds:
                self.idle, self.reason, self.message = False, Reason.STARTED, ""  # by another measure it is not
            self._follow_handover(before)
            self.changed(urgent=False)
        elif desired is None:
            self._cancel_timer()
            self._host.gone(self)
        else:
            if before is not None and not desired.same_run(before):
                self._cancel_timer()
                self._fresh()
            self._follow_handover(before)
            self.changed(urgent=False)
            self.advance()

    def _follow_handover(self, before: DesiredRun | None) -> None:
        """Begin a handover that the entry asks for now. Where it asks no more, what ended for it starts again."""
        assert self.desired is not None
        order = self.desired.assignment.to
        if order != (before.assignment.to if before is not None else ""):
            self.handover.forget_order()
            if order:
                self._host.news.handover_ordered.notify(self, self.desired)

    def quiesce(self, path: Path, *, ask: bool) -> None:
        """End the child for a handover, with its state at ``path`` or in its exit status.

        ``ask``: only if it agrees. Either ``stays`` is called then, or ``ended``.
        """
        self.handover.leaving = True
        self.changed(urgent=False)
        grace = self.limits.stop_seconds
        attempt = self._attempt
        if attempt is None or attempt.run is None:
            return
        if self._answers:
            # It answers first; what waits goes to where it will be.
            attempt.held_back = lambda run: run.hand_over(path, grace, ask=ask)
        else:
            attempt.run.hand_over(path, grace, ask=ask)

    def stays(self) -> None:
        """The child declined to be moved: it serves again."""
        self.handover.leaving = False
        self._host.news.handover_declined.notify(self)
        self.changed(urgent=False)

    def adopt(self, report: Report) -> None:
        """Take over what an earlier agent of this member reported of the same incarnation; call before ``set_desired``.

        A child that had finished stays so, and one that is never restarted isn't started again.
        """
        self._history.count, self.last_exit = report.restarts, report.last_exit
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
        if desired is None or self.alive or self._timer is not None or self.given_up:
            return
        if desired.assignment.to:
            return  # what it was is on its way, or comes back with a newer epoch
        if not self._host.may_start(self, again=self.tried):
            return
        if self.handover.kept:
            self.handover.kept = self.message = ""
        ended_with_agent = self._interrupted and not isinstance(desired.workload, PodWorkload)
        if ended_with_agent and desired.assignment.restart_policy == RestartPolicy.TEMPORARY:
            self._rest(ExitStatus(Reason.EXITED, "ended with the member's container"))
            return
        self.tried, self._interrupted = True, False
        attempt = self._attempt = Attempt(desired, self._loop.time())
        self.state, self.pid = State.STARTING, 0
        if not self.restarts and not self.reason:
            self.reason = Reason.STARTING
        self.changed(urgent=False)
        attempt.run = self._host.launch(self, desired)

    def begun(self) -> None:
        """The start is under way and waits for no other start: startSeconds count from here."""
        assert self._attempt is not None
        self._attempt.began = self._loop.time()
        if not self._attempt.stopping:
            self._cancel_timer()
            self._timer = self._loop.call_later(self.limits.start_seconds, self._start_timed_out)

    def running(self, pid: int) -> None:
        """The child is up."""
        self.pid = pid
        self.settled = True
        self.idle = False
        self._history.up_since = self._loop.time()
        self.started_at = now_seconds()
        if self._attempt is None or self._attempt.stopping:
            return
        self._cancel_timer()
        self.state, self.reason, self.message = State.RUNNING, Reason.STARTED, ""
        self.handover.received = ""
        self._host.news.started.notify(self, self._history.up_since - self._attempt.began)
        self.changed(urgent=True)

    def blocked(self, state: State, reason: Reason, message: str) -> None:
        """The child is not up, or not any more, for this reason; it may come up without a new start."""
        news = (state, reason, message[:MESSAGE_MAX])
        if self.stopping or news == (self.state, self.reason, self.message):
            return
        self.state, self.reason, self.message = news
        self.changed(urgent=True)

    def is_idle(self, seconds: float) -> None:
        """No request came for so long: take none any more and report the child idle, so that the operator ends it."""
        self.idle = True
        self.reason, self.message = Reason.IDLE, f"no request for {seconds:g} s (idleSeconds); it is to be ended"
        self.changed(urgent=True)

    def stop(self, grace: float) -> None:
        """End the child; what follows depends on what is desired by then."""
        attempt = self._attempt
        if attempt is None or attempt.run is None:
            return
        self._cancel_timer()
        if not attempt.stopping:
            attempt.stopping = True
            self.state = State.STOPPING
            self.changed(urgent=False)
            if self._answers:
                # The stop waits for the answer; no further request goes to the child.
                attempt.held_back = lambda run: run.stop(grace)
                self._timer = self._loop.call_later(self.limits.request_seconds, self._go_on)
                return
        attempt.held_back = None
        attempt.run.stop(grace)

    def stuck(self, message: str) -> None:
        """Something of the child can't be signalled, for this reason: it stays on record until it ends by itself."""
        log.warning("%s", message, extra={"child": self.id})
        self.message = message[:MESSAGE_MAX]
        self.changed(urgent=True)

    def at_rest(self) -> None:
        """The request in hand is answered, or has taken too long: a stop that waited for it goes on."""
        self.in_hand = None
        self._go_on()

    def _go_on(self) -> None:
        """Carry out the stop that waited for an answer."""
        attempt = self._attempt
        if attempt is None or attempt.held_back is None:
            return
        self._cancel_timer()
        order, attempt.held_back = attempt.held_back, None
        if attempt.run is not None:
            order(attempt.run)

    def _start_timed_out(self) -> None:
        self._timer = None
        attempt = self._attempt
        assert attempt is not None
        self.settled = True
        text = f"not up within {self.limits.start_seconds:g} s"
        self._fail(attempt, ExitStatus(Reason.START_TIMEOUT, "start timed out", message=text))
        if attempt.run is not None:
            attempt.run.give_up()

    def hangs(self, message: str) -> None:
        """What runs does nothing any more, as its liveness probe says: it is ended, which is a crash."""
        attempt = self._attempt
        if attempt is None or attempt.run is None or attempt.stopping or self.handover.leaving:
            return
        self._cancel_timer()
        self._fail(attempt, ExitStatus(Reason.EXITED, message[:_EXIT_MAX], message=message))
        attempt.run.stop(self.limits.stop_seconds)

    def _fail(self, attempt: Attempt, verdict: ExitStatus) -> None:
        """Report that what runs has failed; its end follows."""
        attempt.verdict, attempt.stopping = verdict, True
        self.state, self.reason = State.FAILED, verdict.reason
        self.message = f"{verdict.message}; it is being ended"[:MESSAGE_MAX]
        self.changed(urgent=True)

    def ended(self, exit_status: ExitStatus) -> None:
        """Nothing of the incarnation is left."""
        self._cancel_timer()
        attempt, self._attempt = self._attempt, None
        self.pid = 0
        self.settled = True
        if self.desired is None:
            self._host.gone(self)
            return
        if attempt is None or not self.desired.same_run(attempt.desired):
            self._fresh()
            self.changed(urgent=True)
            self.advance()
            return
        if attempt.verdict is not None:
            exit_status = attempt.verdict
        leaving, self.handover.leaving = self.handover.leaving, False
        if leaving and not exit_status.fenced:
            self.state, self.reason, self.last_exit = State.STOPPING, "", exit_status.text
            self.message = "its state is handed over"
            self._host.news.quiesced.notify(self, exit_status)
            self.changed(urgent=True)
            self.advance()  # unless it is still to go
            return
        if self._host.closing or exit_status.fenced or (attempt.stopping and attempt.verdict is None):
            # Ended for the agent's own sake and still desired: it comes back when the Lease allows a start.
            self.state, self.reason, self.message, self.last_exit = State.PENDING, "", "", exit_status.text
            self.changed(urgent=True)
            self.advance()
            return
        self.last_exit = exit_status.text
        if exit_status.final:
            self.state, self.reason, self.message = State.FAILED, exit_status.reason, exit_status.message
            self.given_up = True
            self.changed(urgent=True)
        elif rests(self.desired.assignment.restart_policy, exit_status):
            self._rest(exit_status)
        else:
            self._restart(exit_status)

    def _rest(self, exit_status: ExitStatus) -> None:
        self.state, self.last_exit = State.STOPPED, exit_status.text
        self.reason = Reason.COMPLETED if exit_status.success else exit_status.reason
        self.message = exit_status.message
        self.settled = self.given_up = True
        self.changed(urgent=True)

    def _restart(self, exit_status: ExitStatus) -> None:
        """Start the child again after its back-off; fail for good where it has restarted too often."""
        cause = exit_status.message or exit_status.text
        limit, window = self.limits.restarts_max, self.limits.restarts_window
        delay = self._history.next_delay(self._loop.time(), limit, window)
        if delay is None:
            self.state, self.reason, self.given_up = State.FAILED, Reason.RESTARTS_EXCEEDED, True
            self.message = (
                f"more than {limit} restarts in {window:g} s, the last one: {cause}"
                "; it starts again when its spec changes"
            )[:MESSAGE_MAX]
            self.changed(urgent=True)
            return
        self._host.news.restarted.notify(self)
        self.state, self.reason = State.FAILED, exit_status.reason
        self.message = f"{cause}; BackOff: restart {self.restarts} after {delay:g} s"[:MESSAGE_MAX]
        if delay:
            self._timer = self._loop.call_later(delay, self._backed_off)
            self.changed(urgent=True)
        else:
            self.advance()
            if not self.alive:
                self.changed(urgent=True)

    def _backed_off(self) -> None:
        self._timer = None
        self.advance()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # its report

    def changed(self, *, urgent: bool) -> None:
        """The report has changed; ``urgent``: somebody may wait for it."""
        self._host.changed(self, urgent=urgent)

    def slice_gone(self, name: str, instead: str) -> None:
        """The slice that ordered what runs was deleted: its end is reported in the slice ``instead``."""
        attempt = self._attempt
        if attempt is not None and attempt.desired.slice == name != instead:
            attempt.desired = dataclasses.replace(attempt.desired, slice=instead)
            self.changed(urgent=True)
