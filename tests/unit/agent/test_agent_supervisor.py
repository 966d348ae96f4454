"""All children of a member: which may start, and the effect on them when a hub loses its quorum."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import msgspec
from memberparts import supervisor_of

from processhub.agent.children.child import Child
from processhub.agent.children.report import report_text
from processhub.agent.children.restartlog import RestartLog
from processhub.agent.children.runs import ExitStatus
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.supervisor import Supervisor
from processhub.api.child import Exec
from processhub.api.reasons import Reason, State
from processhub.api.slice import Settings
from processhub.registry.grammar import Assignment, Report, format_end, parse_report


class Launcher:
    """Starts nothing; records the requests."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[float] = []

    def launch(self, child: Child, desired: DesiredRun, *_: object) -> Launcher:
        self.started.append(child.id)
        return self

    def stop(self, grace: float) -> None:
        self.stopped.append(grace)

    def give_up(self) -> None: ...

    def forget(self, child_id: str) -> None: ...

    def shut_down(self) -> None: ...

    def role(self, role: str, epoch: int, *, notify: bool) -> None: ...


def supervised() -> tuple[Supervisor, Launcher]:
    launcher = Launcher()
    return supervisor_of({Exec: launcher}), launcher


def desired(child_id: str) -> DesiredRun:
    entry = Assignment(uid=f"u-{child_id}", epoch=1, workload="w")
    return DesiredRun(assignment=entry, workload=Exec(command=("x",)), slice="s", term=1, startable=True)


async def test_a_partition_stops_all_children_and_its_end_starts_them_again() -> None:
    supervisor, launcher = supervised()
    supervisor.set_desired({"a": desired("a"), "b": desired("b")})
    for child in supervisor.children.values():
        child.running(7)

    supervisor.apply(Settings(partitioned=True, stop_seconds=3))
    assert launcher.stopped == [3, 3]
    for child in supervisor.children.values():
        child.ended(ExitStatus(Reason.EXITED, "killed by SIGTERM"))
    assert {child.status.state for child in supervisor.children.values()} == {State.PENDING}
    assert {child.history.restarts for child in supervisor.children.values()} == {0}

    supervisor.set_desired({"c": desired("c")})
    await asyncio.sleep(0)
    assert launcher.started == ["a", "b"]

    supervisor.apply(Settings())
    assert launcher.started == ["a", "b", "a", "b", "c"]


async def test_settings_that_change_during_a_partition_stop_no_child_twice() -> None:
    supervisor, launcher = supervised()
    supervisor.set_desired({"a": desired("a")})
    supervisor.apply(Settings(partitioned=True))

    supervisor.apply(Settings(partitioned=True, lease_seconds=20))

    assert len(launcher.stopped) == 1


async def test_what_has_run_is_started_again_while_its_slice_is_of_an_earlier_term() -> None:
    supervisor, launcher = supervised()
    supervisor.set_desired({"a": desired("a")})
    behind = {child_id: dataclasses.replace(desired(child_id), startable=False) for child_id in ("a", "b")}
    supervisor.set_desired(behind)

    end_in_time(supervisor.children["a"])

    assert launcher.started == ["a", "a"], "b has not run here"


async def test_what_was_granted_to_another_holder_meanwhile_is_not_started_again() -> None:
    supervisor, launcher = supervised()
    supervisor.set_desired({"a": desired("a")})
    supervisor.set_desired({"a": dataclasses.replace(desired("a"), startable=False, restartable=False)})

    end_in_time(supervisor.children["a"])
    assert launcher.started == ["a"]

    supervisor.set_desired({"a": desired("a")})
    assert launcher.started == ["a", "a"], "it was granted to this one"


async def test_readiness_waits_for_no_child_that_is_leaving() -> None:
    """One that is suspended meanwhile stays so for as long as it is suspended."""
    supervisor, launcher = supervised()
    entry = Assignment(uid="u-a", epoch=1, workload="w", to="hub-1:7")
    leaving = dataclasses.replace(desired("a"), assignment=entry)

    supervisor.set_desired({"a": leaving})
    supervisor.advance()

    assert supervisor.all_settled
    supervisor.set_desired({"a": leaving, "b": desired("b")})
    assert not supervisor.all_settled
    assert launcher.started == ["b"]


async def test_a_child_that_has_ended_elsewhere_is_reported_so_and_not_started() -> None:
    supervisor, launcher = supervised()
    end = Report(
        uid="u-a",
        epoch=1,
        state=State.FAILED,
        reason=Reason.RESTARTS_EXCEEDED,
        restarts=4,
        started_at="2026-01-01T00:00:00Z",
        last_exit="exit code 1",
        message="more than 3 restarts",
    )
    before = desired("a")
    entry = msgspec.structs.replace(before.assignment, epoch=3, ended=format_end(end))
    waits = msgspec.structs.replace(entry, epoch=2, wait=True)
    supervisor.set_desired({"a": dataclasses.replace(before, assignment=waits, startable=False)})
    supervisor.set_desired({"a": dataclasses.replace(before, assignment=entry)})
    supervisor.advance()
    await asyncio.sleep(0)

    assert launcher.started == []
    text = report_text(supervisor.children["a"], "s")
    assert text is not None
    assert parse_report(text) == msgspec.structs.replace(end, epoch=3)

    edited = msgspec.structs.replace(before.assignment, epoch=4, workload="edited")
    supervisor.set_desired({"a": dataclasses.replace(before, assignment=edited)})
    assert launcher.started == ["a"]


def end_in_time(child: Child) -> None:
    """Let the child end once it was up for long enough to be started again at once."""
    child.running(7)
    child.stop(1.0)
    child.ended(ExitStatus(Reason.EXITED, "killed by SIGTERM"))


def crashing(folder: Path, earlier: Report | None) -> Child:
    """The child of an agent of the pod with this folder; it may be restarted twice in ten minutes."""
    supervisor = supervisor_of({Exec: Launcher()}, earlier=earlier, restarts=RestartLog(lambda name: folder / name))
    supervisor.apply(Settings(restarts_max=2, restarts_window_seconds=600))
    supervisor.set_desired({"a": desired("a")})
    return supervisor.children["a"]


def crash(child: Child) -> Report:
    child.running(7)
    child.ended(ExitStatus(Reason.EXITED, "exit code 1"))
    text = report_text(child, "s")
    assert text is not None
    return parse_report(text)


async def test_the_window_of_restarts_outlives_the_container(tmp_path: Path) -> None:
    said = crash(crashing(tmp_path, None))
    assert said.restarts == 1
    for restarts in (2, 2):
        said = crash(crashing(tmp_path, msgspec.structs.replace(said, state="Running")))
        assert said.restarts == restarts

    assert (said.state, said.reason) == (State.FAILED, Reason.RESTARTS_EXCEEDED)


async def test_restarts_of_another_incarnation_or_before_a_restart_of_the_machine_do_not_count(tmp_path: Path) -> None:
    crash(crashing(tmp_path, None))
    kept, now = RestartLog(lambda name: tmp_path / name), asyncio.get_running_loop().time()
    assert len(kept.times("a", desired("a"), now)) == 1

    other = Assignment(uid="u-a", epoch=2, workload="w")
    assert kept.times("a", dataclasses.replace(desired("a"), assignment=other), now) == []
    assert kept.times("a", desired("a"), 0.0) == []


async def test_an_agent_keeps_running_when_restarts_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no folder")

    assert crash(crashing(tmp_path, None)).restarts == 1
    assert RestartLog(lambda name: tmp_path / name).times("a", desired("a"), 1e9) == []
