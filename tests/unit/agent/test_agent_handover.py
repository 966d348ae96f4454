"""The target of a handover whose agent restarts: states that the previous agent received are lost."""
# ruff: noqa: ASYNC240 - nothing else happens meanwhile

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import xxhash
from memberparts import supervisor_of

from builders import make_slice
from processhub.agent.children.child import Child
from processhub.agent.children.runs import ExitStatus
from processhub.agent.frames import STATE_IN_MESSAGE_MAX
from processhub.agent.handover.transfer import Handovers
from processhub.agent.peers.statesender import SMALL_MAX, Batch, Content, SmallState
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.api.child import Python
from processhub.api.reasons import Reason, State
from processhub.api.slice import RegistrySlice, Settings
from processhub.registry.grammar import Assignment, Report

WORKLOAD = Python(target="module:Actor")
SIZES = [1, STATE_IN_MESSAGE_MAX + 1]  # one state is kept in memory, one in a file
assert max(SIZES) <= SMALL_MAX


class Launcher:
    """Starts nothing; records the state of each requested start."""

    def __init__(self) -> None:
        self.states: list[bytes | None] = []

    def launch(self, child: object, desired: DesiredRun, state: Content | None) -> Launcher:
        self.states.append(state.read_bytes() if isinstance(state, Path) else state)
        return self

    def stop(self, grace: float) -> None: ...

    def forget(self, child_id: str) -> None: ...


@dataclass
class Registry:
    """The slices of the hub's other members, as this one has read them."""

    slices: list[RegistrySlice] = field(default_factory=list)
    settings: Settings = field(default_factory=lambda: Settings(handover_seconds=10))

    def registry(self) -> Iterable[RegistrySlice]:
        return self.slices

    def source(self, entry: Assignment | None, report: Report | None = None) -> None:
        """Give hub-0 this entry of the child, with this report."""
        self.slices = [make_slice({"a": entry} if entry else {}, {"a": report} if report else {})]


@dataclass(frozen=True)
class Environment:
    run_dir: Path
    member: str = "hub-1"


@dataclass(frozen=True)
class Nobody:
    """No other member gets a request."""

    send_state: None = None
    send_states: None = None


class Agent:
    """The children and handovers of a member without processes; a new one keeps nothing of the last one."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.launcher = Launcher()
        children: dict[str, Child] = {}
        self.handovers = Handovers(Environment(folder), registry, Nobody(), children)  # type: ignore[arg-type]
        self.supervisor = supervisor_of({Python: self.launcher}, self.handovers, children=children)

    def set_desired(self, entry: Assignment) -> None:
        desired = DesiredRun(entry, WORKLOAD, "hub.hub-1.0", 1, startable=not entry.wait)
        self.supervisor.set_desired({"a": desired})

    def take(self, state: bytes, epoch: int = 7) -> None:
        (receipt,) = self.handovers.take(Batch((SmallState("a", "u", epoch, _sum(state), state),)))
        assert receipt.status == 204, receipt.detail

    @property
    def kept(self) -> str:
        return self.supervisor.children["a"].handover.kept

    @property
    def started(self) -> list[bytes | None]:
        return self.launcher.states


def _sum(state: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(state)


def committed(state: bytes) -> Assignment:
    return Assignment(uid="u", epoch=8, workload="w", state=_sum(state))


async def looked() -> None:
    """Run what the agent does after a list has arrived."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


WAITING = Assignment(uid="u", epoch=7, workload="w", wait=True)
SOURCE = Assignment(uid="u", epoch=3, workload="w", to="hub-1:7")
GAVE = Report(uid="u", epoch=3, state="Stopping", gave=f"7:{_sum(b'1')}")


@pytest.mark.parametrize("size", SIZES)
async def test_a_child_starts_with_the_state_that_was_received_for_it(tmp_path: Path, size: int) -> None:
    state, registry = b"1" * size, Registry()
    registry.source(SOURCE, GAVE)
    agent = Agent(tmp_path, registry)
    agent.set_desired(WAITING)
    agent.take(state)

    agent.set_desired(committed(state))

    assert agent.started == [state]


@pytest.mark.parametrize("size", SIZES)
async def test_after_a_restart_a_child_waits_for_its_state_while_its_source_has_it(tmp_path: Path, size: int) -> None:
    state, registry = b"1" * size, Registry()
    registry.source(SOURCE, GAVE)
    before = Agent(tmp_path, registry)
    before.set_desired(WAITING)
    before.take(state)

    agent = Agent(tmp_path, registry)
    agent.set_desired(committed(state))
    agent.handovers.registry_changed()
    await looked()
    assert agent.started == []
    assert agent.kept == "8:lost"

    again = Assignment(uid="u", epoch=9, workload="w", wait=True)
    agent.set_desired(again)
    assert agent.kept == ""


@pytest.mark.parametrize(
    "entry",
    [None, Assignment(uid="u", epoch=9, workload="w"), Assignment(uid="other", epoch=9, workload="w", to="hub-1:7")],
)
async def test_a_child_starts_afresh_once_its_source_is_not_recorded_any_more(
    tmp_path: Path, entry: Assignment | None
) -> None:
    registry = Registry()
    registry.source(SOURCE, GAVE)
    agent = Agent(tmp_path, registry)
    agent.set_desired(committed(b"1"))
    assert agent.started == []

    registry.source(entry)
    agent.handovers.registry_changed()
    assert agent.started == [], "the rest of what is read may say otherwise"
    await looked()

    assert agent.started == [None]
    assert agent.kept == ""


async def test_a_child_that_ran_here_with_its_state_starts_afresh_after_a_crash_or_a_restart(tmp_path: Path) -> None:
    registry = Registry()
    registry.source(SOURCE, GAVE)
    agent = Agent(tmp_path, registry)
    agent.set_desired(WAITING)
    agent.take(b"1")
    agent.set_desired(committed(b"1"))
    child = agent.supervisor.children["a"]
    child.running(7)
    child.ended(ExitStatus(Reason.EXITED, "exit code 1"))
    assert agent.started == [b"1", None]

    registry.source(None)
    later = Agent(tmp_path, registry)
    later.set_desired(committed(b"1"))
    assert later.started == [None]


async def test_a_restarted_target_reports_that_a_waiting_childs_state_was_received_and_lost(tmp_path: Path) -> None:
    registry = Registry()
    registry.source(SOURCE)
    agent = Agent(tmp_path, registry)
    agent.set_desired(WAITING)
    agent.handovers.follow(agent.supervisor.children.values())
    await looked()
    assert agent.kept == "", "the source has not sent it yet"

    registry.source(SOURCE, GAVE)  # the previous agent had received it
    agent.handovers.registry_changed()
    await looked()
    assert agent.kept == "7:lost"


async def test_a_state_received_after_the_restart_is_not_lost(tmp_path: Path) -> None:
    registry = Registry()
    registry.source(SOURCE)
    agent = Agent(tmp_path, registry)
    agent.set_desired(WAITING)
    agent.handovers.follow(agent.supervisor.children.values())

    agent.take(b"1")
    registry.source(SOURCE, GAVE)
    agent.handovers.registry_changed()
    await looked()

    assert agent.kept == ""


async def test_two_attempts_to_send_a_large_state_do_not_mix(tmp_path: Path) -> None:
    state, agent = b"1" * SMALL_MAX + b"2" * SMALL_MAX, Agent(tmp_path, Registry())
    agent.set_desired(WAITING)
    rest = asyncio.Event()

    async def first() -> AsyncIterator[bytes]:
        yield state[:SMALL_MAX]
        await rest.wait()
        yield state[SMALL_MAX:]

    async def second() -> AsyncIterator[bytes]:
        yield state[:10]
        rest.set()
        await asyncio.wait((tries[0],))
        raise ConnectionResetError("the source has gone")

    def receive(body: AsyncIterator[bytes]) -> asyncio.Task[None]:
        work = agent.handovers.receive("a", "u", WAITING.epoch, _sum(state), body)
        return asyncio.get_running_loop().create_task(work)

    tries = [receive(first())]
    await asyncio.sleep(0)
    tries.append(receive(second()))
    ends = await asyncio.gather(*tries, return_exceptions=True)
    agent.set_desired(committed(state))

    assert (ends[0], type(ends[1])) == (None, ConnectionResetError)
    assert agent.started == [state]
    assert len(list(tmp_path.glob("handover/*"))) == 1


async def test_the_state_of_an_earlier_attempt_takes_no_room_once_the_next_has_come(tmp_path: Path) -> None:
    agent = Agent(tmp_path, Registry())
    for epoch in (7, 9):
        agent.set_desired(Assignment(uid="u", epoch=epoch, workload="w", wait=True))
        agent.take(b"%d" % epoch * (STATE_IN_MESSAGE_MAX + 1), epoch)

    assert [path.read_bytes()[:1] for path in tmp_path.glob("handover/*")] == [b"9"]


async def test_an_edited_child_restarts_without_its_state_where_no_file_can_be_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "handover").touch()  # as on a full disk, the folder can't be made
    agent = Agent(tmp_path, Registry())
    agent.supervisor.limits.handover_seconds = 10
    agent.set_desired(Assignment(uid="u", epoch=7, workload="w"))
    child = agent.supervisor.children["a"]
    child.running(7)

    agent.set_desired(Assignment(uid="u", epoch=8, workload="w"))
    assert child.status.state == State.STOPPING
    child.ended(ExitStatus(Reason.EXITED, "stopped"))

    assert agent.started == [None, None]


async def test_a_state_that_cannot_be_written_again_stays_as_received(tmp_path: Path) -> None:
    state, agent = b"1" * (STATE_IN_MESSAGE_MAX + 1), Agent(tmp_path, Registry())
    agent.set_desired(WAITING)
    agent.take(state)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (STATE_IN_MESSAGE_MAX, hard))
    try:  # its source has not received the response
        (receipt,) = agent.handovers.take(Batch((SmallState("a", "u", WAITING.epoch, _sum(state), state),)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    agent.set_desired(committed(state))

    assert receipt.status == 500
    assert agent.started == [state]
    assert len(list(tmp_path.glob("handover/*"))) == 1
