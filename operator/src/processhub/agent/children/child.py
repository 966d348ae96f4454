"""One child on this member: a state machine between what is desired and what runs.

The states are:

    Pending → Starting → Running → Stopping → (removed)
                 ↓          ↓
              Failed     Stopped

Failed: the child waits for its next start, or has failed for good. Stopped: the child has finished, and its restart
policy does not start it again. Only one incarnation exists at a time. A newer one waits until nothing of the old one is
left.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path

from processhub.agent.children.backoff import RunHistory, rests
from processhub.agent.children.childhost import ChildHost
from processhub.agent.children.childstate import Attempt, HandoverState, RunStatus
from processhub.agent.children.runs import ExitStatus, Limits, RunHandle
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import Request
from processhub.api.child import PodWorkload
from processhub.api.reasons import Reason, RestartPolicy, State
from processhub.cluster.timestamps import now_seconds
from processhub.registry.copies import has_ended
from processhub.registry.grammar import Report

log = logging.getLogger(__name__)
_EXIT_MAX, MESSAGE_MAX = 200, 500  # the longest text of an exit, and message, in characters, that a report carries


class Child:
    """The state machine of one child. All methods are called on the event loop's thread."""

    __slots__ = (
        "_attempt",
        "_host",
        "_loop",
        "_timer",
        "desired",
        "given_up",
        "handover",
        "history",
        "id",
        "idle",
        "in_hand",
        "limits",
        "settled",
        "status",
    )

    def __init__(self, child_id: str, host: ChildHost[Child], limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.id = child_id
        self._host, self.limits, self._loop = host, limits, loop
        self.desired: DesiredRun | None = None
        self._attempt: Attempt | None = None  # the attempt to run the child, from its start to its end
        self.in_hand: Request | None = None  # the request that the child may still answer in time
        # Fires at the next start, or at the time limit of the present one.
        self._timer: asyncio.TimerHandle | None = None
        self._fresh()

    def _fresh(self, started_at: str = "", received: str = "") -> None:
        """Reset everything that belongs to an incarnation, because a new one is desired."""
        self.status = RunStatus(started_at=started_at)
        self.history = RunHistory()
        self.idle = False  # the child takes no more requests and waits to be stopped
        self.given_up = False  # not started again until its spec changes: it has finished, or failed for good
        self.settled = False  # the child ran or failed once, so readiness does not wait for it any more
        self.handover = HandoverState(received=received)

    @property
    def alive(self) -> bool:
        """Whether any process of the child may be running."""
        return self.run is not None

    @property
    def run(self) -> RunHandle | None:
        """The handle of the present run, or None if nothing runs."""
        return self._attempt.run if self._attempt is not None else None

    @property
    def started_for(self) -> DesiredRun | None:
        """The desired run for which the present incarnation was started, or None if none was."""
        return self._attempt.desired if self._attempt is not None else None

    @property
    def stopping(self) -> bool:
        """Whether the present run has been asked to end."""
        return self._attempt is not None and self._attempt.stopping

    @property
    def off_record(self) -> bool:
        """Whether this member has started the child by itself, and has no entry for it yet."""
        return self.desired is not None and self.desired.view > 0

    @property
    def serving(self) -> bool:
        """Whether the child takes requests now: it is up, not idle, and neither stopping nor being moved."""
        away = self.stopping or self.handover.leaving or self.idle
        return self.run is not None and self.status.state == State.RUNNING and not away

    @property
    def _may_leave_state(self) -> bool:
        """Whether the present run can still leave its state for the next one. It may be doing so for a handover."""
        return self.limits.handover_seconds > 0 and (self.serving or (self.handover.leaving and not self.stopping))

    @property
    def _answers(self) -> bool:
        """Whether the child works on a request whose answer is awaited before the child is stopped."""
        return self.limits.answers_first and self.in_hand is not None and self.in_hand.begun

    # The desired state.

    def set_desired(self, desired: DesiredRun | None) -> None:
        """Set the run that is desired; None stops the child."""
        before, self.desired = self.desired, desired
        attempt = self._attempt
        if desired is None or before is None or not desired.inherits(before):
            if attempt is not None:
                attempt.leaves_state = False
        elif desired.assignment.uid != before.assignment.uid:
            self._host.news.adopted.notify(self, before.assignment.uid)
        if attempt is not None and attempt.run is not None:
            self.handover.received = self.handover.received_for(desired, before)
            if desired is None or not desired.same_run(attempt.desired):
                if desired is not None and self._may_leave_state and desired.continues(attempt.desired):
                    self._host.news.replaced.notify(self)
                elif desired is None or not attempt.leaves_state:
                    self.stop(self.limits.stop_seconds)
                return
            if attempt.stopping:
                attempt.run.desired_again()
            before, attempt.desired, entry = attempt.desired, desired, desired.assignment
            if (entry.role, entry.epoch) != (before.assignment.role, before.assignment.epoch):
                attempt.run.role(entry.role, entry.epoch, notify=self.limits.notifies(entry.role))
            if self.idle and entry.idle_seconds != before.assignment.idle_seconds:
                # By the new idleSeconds the child is not idle.
                self.idle = False
                self.status.show(self.status.state, Reason.STARTED)
            self._follow_handover(before)
            self.changed(urgent=False)
        elif desired is None:
            self._cancel_timer()
            self._host.gone(self)
        else:
            if before is not None and not desired.same_run(before):
                self._cancel_timer()
                started_at = self.status.started_at if desired.has_state_of(before) else ""
                self._fresh(started_at, self.handover.received_for(desired, before))
                before = None
            self._follow_handover(before)
            self.changed(urgent=False)
            self.advance()

    def _follow_handover(self, before: DesiredRun | None) -> None:
        """Begin the handover that the entry orders. ``before``: the same incarnation as desired before, or None."""
        assert self.desired is not None
        order, attempt = self.desired.assignment.to, self._attempt
        if order != (before.assignment.to if before is not None else ""):
            self.handover.forget_order()
            if order:
                self._host.news.handover_ordered.notify(self, self.desired)
            elif self.handover.leaving and attempt is not None and attempt.held_back is not None:
                attempt.held_back = None  # it still answers a request, and was not asked to leave
                self.stays()

    def quiesce(self, path: Path, *, ask: bool) -> None:
        """End the child for a handover, with its state at ``path`` or in its exit status.

        ``ask``: only if the child agrees. Either ``stays`` or ``ended`` is called next.
        """
        self.handover.leaving = True
        self.changed(urgent=False)
        grace = self.limits.stop_seconds
        attempt = self._attempt
        if attempt is None or attempt.run is None:
            return
        if self._answers:
            # The child answers first. Waiting requests go to the member that runs the child next.
            attempt.held_back = lambda run: run.hand_over(path, grace, ask=ask)
        else:
            attempt.run.hand_over(path, grace, ask=ask)

    def leave_state(self, path: Path) -> None:
        """End the child for its next run here, with its state at ``path`` or in its exit status."""
        attempt = self._attempt
        if attempt is None or attempt.run is None:
            return
        self._cancel_timer()
        attempt.stopping = attempt.leaves_state = True
        attempt.held_back = lambda run: self._leave(run, path)
        self.status.state = State.STOPPING
        self.changed(urgent=False)
        if self._answers:
            self._timer = self._loop.call_later(self.limits.request_seconds, self._go_on)
        else:
            self._go_on()

    def _leave(self, run: RunHandle, path: Path) -> None:
        run.hand_over(path, self.limits.stop_seconds, ask=False)
        # An actor may be busy for long. Then it is stopped, without its state.
        self._timer = self._loop.call_later(self.limits.handover_seconds, run.stop, self.limits.stop_seconds)

    def stays(self) -> None:
        """Serve requests again: the child declined to be moved."""
        self.handover.leaving = False
        self._host.news.handover_declined.notify(self)
        self.changed(urgent=False)

    def adopt(self, report: Report) -> None:
        """Take over an earlier report of the child. One that had finished, or failed for good, is not started again.

        Call this before ``set_desired`` for a report of an earlier agent.
        """
        self.history.adopt(report)
        self.status.started_at, self.status.last_exit = report.started_at, report.last_exit
        if has_ended(report):
            self.status.show(State(report.state), report.reason, report.message)
            self.settled = self.given_up = True

    # The run.

    def advance(self) -> None:
        """Start the child if it is desired, may start, and has no process left."""
        desired = self.desired
        if desired is None or self.alive or self._timer is not None or self.given_up:
            return
        if desired.assignment.to:
            return  # its state is being handed over; if that fails, an entry with a newer epoch follows
        if not self._host.may_start(self, again=self.history.tried):
            return
        if self.handover.kept:
            self.handover.kept = self.status.message = ""
        ended_with_agent = self.history.interrupted and not isinstance(desired.workload, PodWorkload)
        if ended_with_agent and desired.assignment.restart_policy == RestartPolicy.TEMPORARY:
            self._rest(ExitStatus(Reason.EXITED, "ended with the member's container"))
            return
        self.history.tried, self.history.interrupted = True, False
        attempt = self._attempt = Attempt(desired, self._loop.time())
        self.status.state, self.status.pid = State.STARTING, 0
        if not self.history.restarts and not self.status.reason:
            self.status.reason = Reason.STARTING
        self.changed(urgent=False)
        attempt.run = self._host.launch(self, desired)

    def begun(self) -> None:
        """Start the time limit of the start.

        The launcher calls this when the start no longer waits for other starts: startSeconds count from here.
        """
        assert self._attempt is not None
        self._attempt.began = self._loop.time()
        if not self._attempt.stopping:
            self._cancel_timer()
            self._timer = self._loop.call_later(self.limits.start_seconds, self._start_timed_out)

    def running(self, pid: int) -> None:
        """Record that the child is up."""
        self.status.pid = pid
        self.settled = True
        self.idle = False
        self.history.up_since = self._loop.time()
        self.status.started_at = now_seconds()
        if self._attempt is None or self._attempt.stopping:
            return
        self._cancel_timer()
        self.status.show(State.RUNNING, Reason.STARTED)
        self.handover.received = ""
        self._host.news.started.notify(self, self.history.up_since - self._attempt.began)
        self.changed(urgent=not self.off_record)  # the answer to a request says that the child runs

    def blocked(self, state: State, reason: Reason, message: str) -> None:
        """Record why the child is not up. It may still come up without a new start."""
        news = (state, reason, message[:MESSAGE_MAX])
        if self.stopping or news == (self.status.state, self.status.reason, self.status.message):
            return
        self.status.show(*news)
        self.changed(urgent=True)

    def is_idle(self, seconds: float) -> None:
        """Report the child as idle and take no more requests for it. The operator then stops it."""
        self.idle = True
        text = f"no request for {seconds:g} s (idleSeconds); the operator stops it"
        self.status.show(self.status.state, Reason.IDLE, text)
        self.changed(urgent=True)

    def stop(self, grace: float) -> None:
        """Stop the child. The next step depends on what is desired when it has ended."""
        attempt = self._attempt
        if attempt is None or attempt.run is None:
            return
        self._cancel_timer()
        if not attempt.stopping:
            attempt.stopping = True
            self.status.state = State.STOPPING
            self.changed(urgent=False)
            if self._answers:
                # The stop waits for the answer. The child gets no further request.
                attempt.held_back = lambda run: run.stop(grace)
                self._timer = self._loop.call_later(self.limits.request_seconds, self._go_on)
                return
        attempt.held_back = None
        attempt.run.stop(grace)

    def stuck(self, message: str) -> None:
        """Report that a process of the child can't be signalled. The child stays on record until that process ends."""
        log.warning("%s", message, extra={"child": self.id})
        self.status.message = message[:MESSAGE_MAX]
        self.changed(urgent=True)

    def at_rest(self) -> None:
        """Carry out a stop that waited for a request: the request was answered, or took too long."""
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
        """Stop a child whose liveness probe has failed, or that runs on after a crash. Both count as a crash."""
        attempt = self._attempt
        if attempt is None or attempt.run is None or attempt.stopping or self.handover.leaving:
            return
        self._cancel_timer()
        self._fail(attempt, ExitStatus(Reason.EXITED, message[:_EXIT_MAX], message=message))
        attempt.run.stop(self.limits.stop_seconds)

    def _fail(self, attempt: Attempt, verdict: ExitStatus) -> None:
        """Report the attempt as failed while its process is being stopped."""
        attempt.verdict, attempt.stopping = verdict, True
        self.status.show(State.FAILED, verdict.reason, f"{verdict.message}; it is being stopped"[:MESSAGE_MAX])
        self.changed(urgent=True)

    def ended(self, exit_status: ExitStatus) -> None:
        """Record that nothing of the incarnation is left, and decide what follows."""
        self._cancel_timer()
        attempt, self._attempt = self._attempt, None
        self.status.pid = 0
        self.settled = True
        if self.desired is None:
            self._host.gone(self)
            return
        if attempt is not None and attempt.leaves_state and not exit_status.fenced:
            self._host.news.left.notify(self, exit_status)
        if attempt is None or not self.desired.same_run(attempt.desired):
            took = attempt is not None and self.desired.has_state_of(attempt.desired)
            # What was received, and is ordered, while the earlier incarnation was ending is for the present entry.
            self._fresh(self.status.started_at if took else "", self.handover.received)
            self._follow_handover(None)
            self.changed(urgent=True)
            self.advance()
            return
        if attempt.verdict is not None:
            exit_status = attempt.verdict
        self.status.last_exit = exit_status.text
        leaving, self.handover.leaving = self.handover.leaving, False
        if leaving and not exit_status.fenced:
            self.status.show(State.STOPPING, message="its state is handed over")
            self._host.news.quiesced.notify(self, exit_status)
            self.changed(urgent=True)
            self.advance()  # starts again if the handover was cancelled meanwhile
        elif self._host.closing or exit_status.fenced or (attempt.stopping and attempt.verdict is None):
            # The agent ended it, and it is still desired. It starts again when the Lease allows a start.
            self.status.show(State.PENDING)
            self.changed(urgent=True)
            self.advance()
        elif exit_status.final:
            self.status.show(State.FAILED, exit_status.reason, exit_status.message)
            self.given_up = True
            self.changed(urgent=True)
        elif rests(self.desired.assignment.restart_policy, exit_status):
            self._rest(exit_status)
        else:
            self._restart(exit_status)

    def _rest(self, exit_status: ExitStatus) -> None:
        reason = Reason.COMPLETED if exit_status.success else exit_status.reason
        self.status.show(State.STOPPED, reason, exit_status.message)
        self.status.last_exit = exit_status.text
        self.settled = self.given_up = True
        self.changed(urgent=True)

    def _restart(self, exit_status: ExitStatus) -> None:
        """Restart the child after its back-off, or let it fail for good if the restart limit is exceeded."""
        cause = exit_status.message or exit_status.text
        limit, window = self.limits.restarts_max, self.limits.restarts_window
        delay = self.history.next_delay(self._loop.time(), limit, window, own=not exit_status.by_other)
        if delay is None:
            text = f"more than {limit} restart{'s' if limit > 1 else ''} in {window:g} s, the last one: {cause}"
            text = f"{text}; it starts again when its spec changes"[:MESSAGE_MAX]
            self.status.show(State.FAILED, Reason.RESTARTS_EXCEEDED, text)
            self.given_up = True
            self.changed(urgent=True)
            return
        self._host.news.restarted.notify(self)
        text = f"{cause}; BackOff: restart {self.history.restarts} after {delay:g} s"[:MESSAGE_MAX]
        self.status.show(State.FAILED, exit_status.reason, text)
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

    # The report.

    def changed(self, *, urgent: bool) -> None:
        """Report that the child's report has changed; ``urgent``: a client may wait for it."""
        self._host.changed(self, urgent=urgent)

    def slice_gone(self, name: str, instead: str) -> None:
        """Report the end of the present run in the slice ``instead``, because its own slice was deleted."""
        attempt = self._attempt
        if attempt is not None and attempt.desired.slice == name != instead:
            attempt.desired = dataclasses.replace(attempt.desired, slice=instead)
            self.changed(urgent=True)
