"""All children of a member: what a hub that loses its quorum means for them."""

from __future__ import annotations

import asyncio

from memberparts import supervisor_of

from processhub.agent.children.child import Child
from processhub.agent.children.runs import ExitStatus
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.supervisor import Supervisor
from processhub.api.child import Exec
from processhub.api.reasons import Reason, State
from processhub.api.slice import Settings
from processhub.registry.grammar import Assignment


class Launcher:
    """Starts nothing; remembers what was asked of it."""

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


async def test_settings_that_change_amid_a_partition_stop_nothing_twice() -> None:
    supervisor, launcher = supervised()
    supervisor.set_desired({"a": desired("a")})
    supervisor.apply(Settings(partitioned=True))

    supervisor.apply(Settings(partitioned=True, lease_seconds=20))

    assert len(launcher.stopped) == 1
