"""The source of a handover: the state of its children is sent completely, and kept until the target has it."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import xxhash
from memberparts import supervisor_of

from builders import make_slice
from processhub.agent.children.child import Child
from processhub.agent.children.runs import ExitStatus
from processhub.agent.handover.reports import report_received
from processhub.agent.handover.transfer import Handovers
from processhub.agent.peers.statesender import Batch, Content, Outgoing, Receipt
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import Request
from processhub.api.child import Python
from processhub.api.reasons import Reason, State
from processhub.api.slice import RegistrySlice, Settings
from processhub.registry.grammar import Assignment

WORKLOAD = Python(target="module:Actor")
WAITS = 40


class Launcher:
    """Starts nothing; records the state of each requested start, and where an actor was asked to leave its state."""

    def __init__(self) -> None:
        self.states: list[bytes | None] = []
        self.paths: list[Path] = []
        self.stops = 0

    def launch(self, child: object, desired: DesiredRun, state: Content | None) -> Launcher:
        self.states.append(state.read_bytes() if isinstance(state, Path) else state)
        return self

    def hand_over(self, path: Path, grace: float, *, ask: bool) -> None:
        self.paths.append(path)

    def stop(self, grace: float) -> None:
        self.stops += 1

    def desired_again(self) -> None: ...

    def give_up(self) -> None: ...

    def role(self, role: str, epoch: int, *, notify: bool) -> None: ...

    def forget(self, child_id: str) -> None: ...


class Registry:
    """The other members: each has a slice with a waiting entry of the child."""

    settings = Settings(handover_seconds=WAITS)

    def registry(self) -> Iterable[RegistrySlice]:
        for number in (2, 3):
            entry = Assignment(uid="u", epoch=7, workload="w", wait=True)
            yield make_slice({"a": entry}, member=f"hub-{number}", address=f"10.0.0.{number}")


@dataclass
class Targets:
    """The responses of the other members to states, and the states that were sent to them."""

    answer: Receipt = field(default_factory=lambda: Receipt(204))
    sent: list[bytes] = field(default_factory=list)

    async def send_state(self, address: str, state: Outgoing) -> Receipt:
        raise AssertionError("all states here are small")

    async def send_states(self, address: str, batch: Batch) -> tuple[Receipt, ...]:
        self.sent += [state.state for state in batch.states]
        return (self.answer,) * len(batch.states)


@dataclass(frozen=True)
class Environment:
    run_dir: Path
    member: str = "hub-1"


class Agent:
    """The children and handovers of a member, without processes."""

    def __init__(self, folder: Path) -> None:
        self.launcher, self.targets = Launcher(), Targets()
        handovers = Handovers(Environment(folder), Registry(), self.targets, {})  # type: ignore[arg-type]
        self.supervisor = supervisor_of({Python: self.launcher}, handovers)

    def set_desired(self, epoch: int, to: str = "", **fields: Any) -> Child:
        entry = Assignment(**{"uid": "u", "epoch": epoch, "workload": "w", "to": to, **fields})
        self.supervisor.set_desired({"a": DesiredRun(entry, WORKLOAD, "hub.hub-1.0", 1, startable=not entry.wait)})
        return self.supervisor.children["a"]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WAITS):
        while not holds():
            await asyncio.sleep(0.01)


async def test_the_state_in_a_childs_file_is_sent_to_the_target_of_a_later_order(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.set_desired(3).running(7)
    child = agent.set_desired(3, to="hub-2:7")
    await until(lambda: agent.launcher.paths)
    agent.launcher.paths[0].write_bytes(b"1")  # its state; it is ending now

    agent.set_desired(3, to="hub-3:8")
    await until(lambda: len(agent.launcher.paths) == 2)
    child.ended(ExitStatus(Reason.EXITED, "stopped"))
    await until(lambda: child.handover.sent or child.handover.kept)

    assert (child.handover.sent, child.handover.kept) == (f"8:{xxhash.xxh3_128_hexdigest(b'1')}", "")
    assert agent.targets.sent == [b"1"]


async def test_the_state_of_a_child_that_does_not_start_is_sent_to_the_target_of_a_later_order(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.set_desired(3).running(7)
    agent.targets.answer = Receipt(400, "not now")
    child = agent.set_desired(3, to="hub-2:7")
    await until(lambda: agent.launcher.paths)
    child.ended(ExitStatus(Reason.EXITED, "stopped", state=b"1"))
    await until(lambda: child.handover.kept)
    agent.supervisor.limits.start_seconds = 0
    agent.set_desired(9)
    assert agent.launcher.states == [None, b"1"]
    child.begun()
    await until(lambda: child.status.state == State.FAILED)  # it is being stopped

    agent.targets.answer = Receipt(204)
    agent.set_desired(9, to="hub-2:11")
    for _ in range(20):
        await asyncio.sleep(0)
    child.ended(ExitStatus(Reason.EXITED, "stopped"))
    await until(lambda: child.handover.sent or child.handover.kept)

    assert (child.handover.sent, child.handover.kept) == (f"11:{xxhash.xxh3_128_hexdigest(b'1')}", "")


def edited(tmp_path: Path, seconds: int = WAITS) -> tuple[Agent, Child]:
    """A running child in a hub whose handovers may take this long."""
    agent = Agent(tmp_path)
    agent.supervisor.apply(Settings(handover_seconds=seconds))
    child = agent.set_desired(1)
    child.running(7)
    return agent, child


STATE = ExitStatus(Reason.EXITED, "stopped", state=b"7")


async def test_an_edited_child_keeps_its_state_until_it_was_running(tmp_path: Path) -> None:
    agent, child = edited(tmp_path)

    agent.set_desired(2)
    agent.set_desired(3)  # edited again before it has ended
    assert len(agent.launcher.paths) == 1
    assert child.status.state == State.STOPPING
    child.ended(STATE)
    assert agent.launcher.states == [None, b"7"]

    child.ended(ExitStatus(Reason.IMPORT_ERROR, "not started"))
    assert agent.launcher.states == [None, b"7", b"7"], "it was never up: what it had left is not lost"
    child.running(8)
    child.ended(ExitStatus(Reason.EXITED, "exit code 1"))
    await until(lambda: len(agent.launcher.states) == 4)
    assert agent.launcher.states[-1] is None, "after a crash it starts afresh"


async def test_a_suspended_child_gets_its_state_when_it_is_resumed(tmp_path: Path) -> None:
    agent, child = edited(tmp_path)

    agent.set_desired(2, wait=True, asleep=True)
    child.ended(STATE)
    assert agent.launcher.states == [None]

    agent.set_desired(3)
    assert agent.launcher.states == [None, b"7"]


@pytest.mark.parametrize("in_file", [False, True], ids=["message", "file"])
@pytest.mark.parametrize("fields", [{}, {"wait": True, "asleep": True}], ids=["edited", "suspended"])
async def test_a_child_that_is_edited_or_suspended_while_it_leaves_for_a_move_keeps_its_state(
    tmp_path: Path, fields: dict[str, Any], *, in_file: bool
) -> None:
    agent, child = edited(tmp_path)
    agent.set_desired(1, to="hub-2:7")
    await until(lambda: agent.launcher.paths)
    if in_file:
        agent.launcher.paths[0].write_bytes(b"7")  # it is ending now

    agent.set_desired(2, **fields)  # the move is given up
    assert child.status.state == State.STOPPING
    child.ended(ExitStatus(Reason.EXITED, "stopped") if in_file else STATE)
    if fields:
        agent.set_desired(3)

    assert agent.launcher.states == [None, b"7"]
    assert agent.targets.sent == []


@pytest.mark.parametrize(
    ("seconds", "fields"), [(0, {}), (WAITS, {"role": "Passive"}), (WAITS, {"uid": "another"})],
    ids=["cold", "another role", "another child"],
)  # fmt: skip
async def test_a_child_starts_afresh_in_another_role_as_another_child_and_without_hot_swap(
    tmp_path: Path, seconds: int, fields: dict[str, Any]
) -> None:
    agent, child = edited(tmp_path, seconds)
    entry = Assignment(**{"uid": "u", "epoch": 2, "workload": "w", **fields})

    agent.supervisor.set_desired({"a": DesiredRun(entry, WORKLOAD, "hub.hub-1.0", 1, startable=True)})
    child.ended(STATE)

    assert agent.launcher.paths == []
    assert agent.launcher.states == [None, None]


@pytest.mark.parametrize("up", [False, True], ids=["before its end", "before its next start"])
async def test_the_object_that_adopts_a_child_gets_the_state_that_it_left(tmp_path: Path, *, up: bool) -> None:
    agent, child = edited(tmp_path)
    agent.set_desired(2)
    if up:
        child.ended(STATE)
        assert agent.launcher.states == [None, b"7"]

    agent.set_desired(3, uid="adopter", run=2)
    child.ended(ExitStatus(Reason.IMPORT_ERROR, "not started") if up else STATE)

    assert agent.launcher.states == [None, *[b"7"] * (1 + up)]


@pytest.mark.parametrize("removed", [False, True], ids=["replaced", "removed before"])
async def test_another_object_does_not_get_the_state_of_a_child_that_still_ends(
    tmp_path: Path, *, removed: bool
) -> None:
    agent, child = edited(tmp_path)
    agent.set_desired(2)
    if removed:
        agent.supervisor.set_desired({"a": None})

    agent.set_desired(3, uid="u" if removed else "another")
    assert agent.launcher.stops, "nobody gets its state"
    child.ended(STATE)

    assert agent.launcher.states == [None, None]


@pytest.mark.parametrize("seconds", [0, WAITS], ids=["stopped", "leaves its state"])
async def test_a_handover_ordered_while_an_edited_child_still_ends_begins_at_its_end(
    tmp_path: Path, seconds: int
) -> None:
    agent, child = edited(tmp_path, seconds)
    agent.set_desired(2)
    agent.set_desired(2, to="hub-2:7")

    child.ended(STATE)
    await until(lambda: child.handover.sent or child.handover.kept)

    assert agent.launcher.states == [None]
    assert agent.targets.sent == ([b"7"] if seconds else [])


async def test_a_state_received_while_an_earlier_run_still_ends_stays_reported(tmp_path: Path) -> None:
    agent, child = edited(tmp_path, seconds=0)
    agent.set_desired(2, wait=True)
    report_received(child, "checksum")

    child.ended(ExitStatus(Reason.EXITED, "stopped"))
    assert child.handover.received == "checksum"

    agent.set_desired(3, wait=True)
    assert not child.handover.received, "that was for an earlier entry"


async def test_a_handover_ordered_anew_with_an_edit_begins_anew(tmp_path: Path) -> None:
    agent, child = edited(tmp_path)
    agent.set_desired(1, to="hub-2:7")
    await until(lambda: agent.launcher.paths)
    child.ended(ExitStatus(Reason.EXITED, "stopped", state=b"1"))
    await until(lambda: child.handover.sent)

    agent.set_desired(2, to="hub-2:7")
    assert not child.handover.sent
    await until(lambda: child.handover.sent)

    assert agent.targets.sent == [b"1", b"1"]


async def test_a_child_that_answers_a_request_for_longer_than_its_move_may_take_stays_as_it_is(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    child = agent.set_desired(3)
    child.running(7)
    child.in_hand = Request("call", b"")
    child.in_hand.handed_over.set()
    agent.set_desired(3, to="hub-2:7")
    await until(lambda: child.handover.leaving)

    agent.set_desired(8, run=3)  # the move was given up
    assert child.serving
    child.at_rest()
    await asyncio.sleep(0)

    assert agent.launcher.paths == []
    assert child.serving


async def test_an_actor_that_leaves_no_state_in_time_is_stopped(tmp_path: Path) -> None:
    agent, child = edited(tmp_path, seconds=1)
    agent.set_desired(2)
    assert agent.launcher.stops == 0

    await until(lambda: agent.launcher.stops)
    child.ended(ExitStatus(Reason.EXITED, "stopped"))

    assert agent.launcher.states == [None, None]


async def test_a_child_deleted_during_its_handover_leaves_nothing(tmp_path: Path) -> None:
    agent, child = edited(tmp_path)
    agent.set_desired(2)
    agent.launcher.paths[0].write_bytes(b"7")

    agent.supervisor.set_desired({"a": None})
    child.ended(ExitStatus(Reason.EXITED, "stopped"))

    assert not list((tmp_path / "handover").iterdir())
