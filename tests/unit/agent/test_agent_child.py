"""The state machine of a child, on a simulated clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processhub.agent.children.child import Child
from processhub.agent.children.childhost import ChildNews
from processhub.agent.children.report import report_text
from processhub.agent.children.runs import ExitStatus, Limits
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.api.child import Exec
from processhub.api.reasons import Reason
from processhub.registry.grammar import Assignment, Report, parse_report


class Clock:
    """The part of an event loop that a child uses; time passes when the test moves it."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.now + delay, callback, args, self)  # type: ignore[arg-type]
        heapq.heappush(self._due, (handle.when(), next(self._order), handle))
        return handle

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def pass_(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            at, _, handle = heapq.heappop(self._due)
            self.now = max(self.now, at)
            if not handle.cancelled():
                handle._run()
        self.now = end


class Supervisor:
    """Records the child's requests, as the other side of the protocol."""

    closing = False

    def __init__(self) -> None:
        self.news: ChildNews[Child] = ChildNews()
        self.open = True
        self.launched: list[DesiredRun] = []
        self.orders: list[str] = []
        self.gone_: list[str] = []
        self.urgent = 0

    def may_start(self, child: Child, *, again: bool) -> bool:
        return self.open

    def launch(self, child: Child, desired: DesiredRun) -> Supervisor:
        self.launched.append(desired)
        child.begun()
        return self

    def stop(self, grace: float) -> None:
        self.orders.append(f"stop {grace:g}")

    def desired_again(self) -> None: ...

    def give_up(self) -> None:
        self.orders.append("give up")

    def hand_over(self, *_: object, **__: object) -> None:
        pass

    def role(self, role: str, epoch: int, *, notify: bool) -> None:
        self.orders.append(f"role {role} of {epoch}{', told' if notify else ''}")

    def changed(self, child: Child, *, urgent: bool) -> None:
        self.urgent += urgent

    def gone(self, child: Child) -> None:
        self.gone_.append(child.id)


def desired(epoch: int = 1, *, slice_: str = "s0", policy: str = "Permanent", **fields: Any) -> DesiredRun:
    startable = fields.pop("startable", True)
    entry = Assignment(uid="u", epoch=epoch, workload="w", restart_policy=policy, **fields)
    return DesiredRun(assignment=entry, workload=Exec(command=("x",)), slice=slice_, term=1, startable=startable)


CRASH = ExitStatus(Reason.EXITED, "exit code 1")
DONE = ExitStatus(Reason.EXITED, "exit code 0", success=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host() -> Supervisor:
    return Supervisor()


@pytest.fixture
def child(host: Supervisor, clock: Clock) -> Child:
    return Child("a", host, Limits(), clock)  # type: ignore[arg-type]


def said(child: Child, slice_: str = "s0") -> Report:
    text = report_text(child, slice_)
    assert text is not None
    return parse_report(text)


def test_the_first_restart_is_immediate_and_the_back_off_doubles_up_to_thirty_seconds(
    child: Child, host: Supervisor, clock: Clock
) -> None:
    child.set_desired(desired())
    delays = []
    for _ in range(13):
        count = len(host.launched)
        child.running(7)
        child.ended(CRASH)
        began = clock.now
        while len(host.launched) == count:
            clock.pass_(0.05)
        delays.append(round(clock.now - began, 2))

    assert delays[:5] == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8], abs=0.06)  # the clock moves in steps
    assert delays[-2:] == pytest.approx([30.0, 30.0], abs=0.06)
    assert child.history.restarts == 13


def test_the_back_off_is_reset_after_ten_seconds_of_running(child: Child, host: Supervisor, clock: Clock) -> None:
    child.set_desired(desired())
    for _ in range(4):
        child.running(7)
        child.ended(CRASH)
        clock.pass_(5)
    child.running(7)
    clock.pass_(10)
    count = len(host.launched)

    child.ended(CRASH)

    assert len(host.launched) == count + 1


def test_a_child_in_back_off_keeps_the_reason_of_its_end(child: Child) -> None:
    child.set_desired(desired())
    child.ended(CRASH)
    child.ended(ExitStatus(Reason.COMMAND_NOT_FOUND, "not started", message="command x: not there"))

    report = said(child)

    assert (report.state, report.reason) == ("Failed", "CommandNotFound")
    assert "command x: not there" in report.message
    assert "BackOff: restart 2 after 0.1 s" in report.message


def test_a_start_that_takes_too_long_is_aborted_and_retried(child: Child, host: Supervisor, clock: Clock) -> None:
    child.set_desired(desired())
    clock.pass_(10)
    assert host.orders == ["give up"]
    assert said(child).reason == "StartTimeout"
    assert len(host.launched) == 1

    clock.pass_(100)
    assert len(host.launched) == 1  # the old process is not proven to have ended

    child.ended(ExitStatus(Reason.EXITED, "killed by SIGKILL"))
    assert len(host.launched) == 2
    assert said(child).reason == "StartTimeout"


def test_a_new_incarnation_starts_only_when_the_old_one_is_gone_and_no_longer_reported(
    child: Child, host: Supervisor
) -> None:
    child.set_desired(desired(1))
    child.running(7)

    child.set_desired(desired(2))
    assert host.orders == ["stop 10"]
    assert (said(child).epoch, said(child).state, said(child).pid) == (1, "Stopping", 7)
    assert len(host.launched) == 1

    child.ended(DONE)
    assert host.launched[-1].assignment.epoch == 2
    assert said(child).epoch == 2
    assert said(child).restarts == 0


def test_a_successor_in_another_slice_is_pending_there_while_the_old_one_stops(child: Child) -> None:
    child.set_desired(desired(1, slice_="s0"))
    child.running(7)

    child.set_desired(desired(2, slice_="s1"))

    assert (said(child, "s0").epoch, said(child, "s0").state) == (1, "Stopping")
    assert (said(child, "s1").epoch, said(child, "s1").state) == (2, "Pending")
    child.ended(DONE)
    assert report_text(child, "s0") is None
    assert said(child, "s1").state == "Starting"


def test_a_removed_child_is_reported_until_it_is_reaped(child: Child, host: Supervisor) -> None:
    child.set_desired(desired())
    child.running(7)

    child.set_desired(None)
    assert said(child).state == "Stopping"
    assert host.gone_ == []

    child.ended(DONE)
    assert host.gone_ == ["a"]


def test_tags_policy_and_role_are_applied_without_a_restart(child: Child, host: Supervisor) -> None:
    child.set_desired(desired())
    child.running(7)

    child.set_desired(desired(tags=("eu",), policy="Temporary", role="Passive"))

    assert host.orders == ["role Passive of 1"]
    assert (said(child).state, said(child).role) == ("Running", "Passive")
    child.ended(CRASH)
    assert said(child).state == "Stopped"


def test_no_child_starts_while_starts_are_not_permitted(child: Child, host: Supervisor) -> None:
    host.open = False
    child.set_desired(desired())
    assert said(child).state == "Pending"
    assert host.launched == []

    host.open = True
    child.advance()
    assert len(host.launched) == 1


def test_an_end_by_fencing_is_no_crash(child: Child, host: Supervisor) -> None:
    child.set_desired(desired(policy="Temporary"))
    child.running(7)
    host.open = False

    child.ended(ExitStatus(Reason.EXITED, "killed by SIGKILL", fenced=True))
    assert (said(child).state, said(child).restarts) == ("Pending", 0)

    host.open = True
    child.advance()
    assert len(host.launched) == 2


def test_a_child_fenced_during_a_handover_serves_again_and_a_later_crash_counts(child: Child, host: Supervisor) -> None:
    child.set_desired(desired())
    child.running(7)
    child.set_desired(desired(to="hub-1:9"))
    child.quiesce(Path("state"), ask=False)
    child.ended(ExitStatus(Reason.EXITED, "killed by SIGKILL", fenced=True))

    child.set_desired(desired(10, run=1))
    child.running(8)
    assert child.serving

    child.ended(CRASH)
    assert (said(child).state, said(child).restarts) == ("Starting", 1)


def test_more_restarts_than_the_limit_in_the_window_fail_until_the_spec_changes(host: Supervisor, clock: Clock) -> None:
    child = Child("a", host, Limits(restarts_max=2, restarts_window=60), clock)  # type: ignore[arg-type]
    child.set_desired(desired())
    for _ in range(2):
        child.running(7)
        child.ended(CRASH)
        clock.pass_(1)
    child.running(7)
    child.ended(CRASH)
    clock.pass_(1000)
    count = len(host.launched)
    assert said(child).reason == "RestartsExceeded"

    child.set_desired(desired(tags=("x",)))
    clock.pass_(1000)
    assert len(host.launched) == count

    child.set_desired(desired(2))
    assert len(host.launched) == count + 1


def test_restarts_outside_the_window_do_not_count(host: Supervisor, clock: Clock) -> None:
    child = Child("a", host, Limits(restarts_max=1, restarts_window=60), clock)  # type: ignore[arg-type]
    child.set_desired(desired())
    for _ in range(5):
        child.running(7)
        clock.pass_(61)
        child.ended(CRASH)

    assert child.history.restarts == 5
    assert len(host.launched) == 6


@pytest.mark.parametrize(
    ("policy", "end", "state", "reason"),
    [
        ("Temporary", DONE, "Stopped", "Completed"),
        ("Temporary", CRASH, "Stopped", "Exited"),
        ("Transient", DONE, "Stopped", "Completed"),
        ("Transient", CRASH, "Starting", "Exited"),
        ("Permanent", DONE, "Starting", "Exited"),
    ],
)
def test_the_restart_policy_decides_whether_an_exit_is_a_failure(
    child: Child, policy: str, end: ExitStatus, state: str, reason: str
) -> None:
    child.set_desired(desired(policy=policy))
    child.running(7)

    child.ended(end)

    assert (said(child).state, said(child).reason) == (state, reason)
    assert said(child).last_exit == end.text


@pytest.mark.parametrize(
    ("policy", "state", "starts"),
    [
        ("Temporary", "Running", 0),
        ("Temporary", "Stopped", 0),
        ("Permanent", "Running", 1),
        ("Transient", "Stopped", 0),
    ],
)
def test_the_reports_of_an_earlier_agent_are_adopted(
    child: Child, host: Supervisor, policy: str, state: str, starts: int
) -> None:
    child.adopt(Report(uid="u", epoch=1, state=state, restarts=3, reason="Completed"))

    child.set_desired(desired(policy=policy))

    assert len(host.launched) == starts
    assert said(child).restarts == 3
    assert said(child).state == ("Starting" if starts else "Stopped")


def test_a_promoted_child_keeps_running_and_is_notified_if_the_hub_says_so(host: Supervisor, clock: Clock) -> None:
    child = Child("a", host, Limits(redundancy_signal="Active"), clock)  # type: ignore[arg-type]
    child.set_desired(desired(role="Passive"))
    child.running(7)

    child.set_desired(desired(2, role="Active", run=1))

    assert host.orders == ["role Active of 2, told"]
    report = said(child)
    assert (report.state, report.role, report.epoch, report.pid) == ("Running", "Active", 2, 7)
