"""The status that an agent writes to a slice; the test is the API server."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import virtualtime
from test_agent_supervisor import desired, supervised
from waiting import until

from builders import make_slice
from processhub.agent.children.runs import ExitStatus
from processhub.agent.handover.reports import report_received
from processhub.agent.metrics import Metrics
from processhub.agent.reporting.noise import NoiseBudget
from processhub.agent.reporting.pace import Pace
from processhub.agent.reporting.refusals import Refusals
from processhub.agent.reporting.reporter import StatusReporter
from processhub.agent.reporting.reportwriter import WriterIdentity
from processhub.api.reasons import Reason, RestartPolicy, State
from processhub.api.slice import MAX_ENTRIES, Activation, RegistrySlice, SliceStatus
from processhub.cluster.config import ConfigError
from processhub.cluster.errors import ConflictError, ConnectionFailedError, ForbiddenError, UnavailableError
from processhub.registry.grammar import Assignment, parse_report

OPEN = Activation(view=7, phase="Open", holder="pod/nonce")
ORDERS = (OPEN, OPEN, msgspec.structs.replace(OPEN, phase="Closing"))


class Server:
    """Stores each status that is written."""

    def __init__(self) -> None:
        self.generation = 0
        self.entries: dict[str, Assignment] = {}
        self.status = SliceStatus()
        self.troubles: list[Exception] = []  # the outcomes of the next writes
        self.held = True  # the member's Lease, by its agent

    @property
    def slice(self) -> RegistrySlice:
        return make_slice(self.entries, status=self.status, name="s", generation=self.generation)

    async def replace(
        self, kind: object, namespace: str, name: str, body: dict[str, Any], *, subresource: str
    ) -> RegistrySlice:
        if self.troubles:
            raise self.troubles.pop()
        self.status = body["status"]
        return self.slice

    async def patch(
        self, kind: object, namespace: str, name: str, patch: dict[str, Any], *, subresource: str
    ) -> RegistrySlice:
        if self.troubles:
            raise self.troubles.pop()
        self.status = msgspec.structs.replace(self.status, lease_refused=patch["status"]["leaseRefused"])
        return self.slice


def reporter_of(
    server: Server, refused: Callable[[str], None] = lambda _: None, *, opened: bool = True
) -> StatusReporter:
    writer = WriterIdentity(
        server,  # type: ignore[arg-type]
        *("pod/nonce", "", 8080),
        lambda: server.held,
        lambda: 1,
        Metrics(),
        lambda item: reporter.slice_changed(item, item.metadata.name),
        lambda: False,
        lambda: 1,
        refused=refused,
    )
    reporter = StatusReporter(writer)
    if opened:
        reporter.open()
    return reporter


@pytest.mark.parametrize(
    "trouble", [ConfigError("no token"), msgspec.ValidationError("no slice")], ids=["401", "answer"]
)
async def test_a_status_that_was_not_written_for_any_reason_is_written_again(trouble: Exception) -> None:
    server, supervisor = Server(), supervised()[0]
    reporter = reporter_of(server)
    server.generation, server.troubles = 1, [trouble]
    supervisor.set_desired({"a": desired("a")})

    reporter.slice_changed(server.slice, "s", supervisor.children.values())

    await until(lambda: "a" in server.status.reports, "the status")
    await reporter.flush(5)


async def test_why_no_status_is_stored_is_told_until_one_is() -> None:
    server, supervisor, told = Server(), supervised()[0], list[str]()
    reporter = reporter_of(server, told.append)
    server.generation, server.troubles = 1, [ForbiddenError(403, "Forbidden", "slices are\nkept " + "here" * 500)]
    supervisor.set_desired({"a": desired("a")})

    reporter.slice_changed(server.slice, "s", supervisor.children.values())

    await until(lambda: len(told) == 2, "what is told")
    assert told[0].startswith("slices are kept here")
    assert len(told[0]) == 500
    assert told[1] == ""
    await reporter.flush(5)


async def test_an_agent_that_never_held_the_lease_says_why_beside_what_its_holder_reports() -> None:
    server = Server()
    server.generation, server.status = 1, SliceStatus(holder="another", observed_generation=1)
    reporter = reporter_of(server, opened=False)
    server.troubles = [ForbiddenError(403, "Forbidden", "not now")]
    reporter.slice_changed(server.slice, "s", ())

    reporter.lease_refused("s", "leases are kept here")

    await until(lambda: server.status.lease_refused, "the words")
    assert server.status == SliceStatus(holder="another", observed_generation=1, lease_refused="leases are kept here")

    reporter.lease_refused("s", "")
    reporter.open()
    await until(lambda: server.status.holder == "pod/nonce", "its own status")
    assert not server.status.lease_refused
    await reporter.flush(5)


def test_a_short_outage_is_no_refusal_and_what_is_gone_is_not_refused() -> None:
    told: list[str] = []
    refusals, down = Refusals(told.append), UnavailableError(503, "Unavailable", "down")

    refusals.failed("s.0", down, 10)
    refusals.failed("s.0", down, 14)
    refusals.failed("s.0", ConnectionFailedError("no answer"), 20)
    refusals.failed("s.0", ConflictError(409, "Conflict", "changed"), 20)
    assert told == []

    refusals.failed("s.0", down, 15)
    refusals.failed("s.1", ForbiddenError(403, "Forbidden", "no"), 15)
    refusals.ended("s.0")
    refusals.ended("s.1")
    assert told == ["down", "no", ""]


async def test_a_status_without_room_for_all_running_children_keeps_its_observed_generation() -> None:
    server, supervisor = Server(), supervised()[0]
    reporter = reporter_of(server)
    old = [f"old-{number}" for number in range(MAX_ENTRIES - 1)]
    new = ["new-1", "new-2"]

    def order(stop: list[str], start: list[str]) -> None:
        server.generation += 1
        supervisor.set_desired({**dict.fromkeys(stop), **{child_id: desired(child_id) for child_id in start}})
        for child_id in start:
            supervisor.children[child_id].running(7)
        reporter.slice_changed(server.slice, "s", supervisor.children.values())
        for child in supervisor.children.values():
            reporter.child_changed(child, urgent=True)

    order([], old)
    await until(lambda: server.status.observed_generation == 1, "the first answer")
    order(old, new)
    await until(lambda: "new-1" in server.status.reports, "what there is room for")
    order(new, [])
    await until(lambda: parse_report(server.status.reports["new-1"]).state == State.STOPPING, "its end's begin")
    assert "new-2" not in server.status.reports
    assert server.status.observed_generation == 1

    first = supervisor.children[old[0]]
    first.ended(ExitStatus(Reason.EXITED, "exit code 0"))
    reporter.child_changed(first, urgent=True)
    await until(lambda: server.status.observed_generation == 3, "an answer once there is room")
    assert "new-2" in server.status.reports
    await reporter.flush(5)


async def test_the_last_status_of_an_agent_says_which_children_have_taken_up_their_state() -> None:
    """Otherwise the next agent would ask for that state once more, which is older than the child."""
    server, supervisor = Server(), supervised()[0]
    reporter, entry = reporter_of(server), Assignment(uid="u", epoch=1, workload="w", state="sum")
    entries = {"up": entry, "never-up": entry, "afresh": msgspec.structs.replace(entry, state=""), "removed": entry}
    supervisor.set_desired({id_: dataclasses.replace(desired(id_), assignment=entries[id_]) for id_ in entries})
    for child_id in ("up", "afresh", "removed"):
        supervisor.children[child_id].running(7)
    server.entries = entries
    reporter.slice_changed(server.slice, "s", supervisor.children.values())
    await until(lambda: server.status.reports.keys() == entries.keys(), "the first status")
    reporter.slice_changed(server.slice, "s")

    supervisor.news.changed.listen(reporter.child_changed)
    stopped = asyncio.ensure_future(supervisor.stop_all(1, 1))
    await until(lambda: all(child.stopping for child in supervisor.children.values()), "the stop")
    for child in supervisor.children.values():
        child.ended(ExitStatus(Reason.EXITED, "killed by SIGTERM"))
    await stopped
    supervisor.forget_all()
    await until(lambda: server.status.reports.keys() == {"up", "removed"}, "the last reports")
    del server.entries["removed"]
    server.generation += 1
    reporter.slice_changed(server.slice, "s")
    await reporter.flush(5)

    assert server.status.reports.keys() == {"up"}
    report = parse_report(server.status.reports["up"])
    assert (report.uid, report.epoch, report.state, report.pid) == ("u", 1, State.PENDING, 0)
    assert report.started_at


async def test_the_last_status_of_an_agent_says_which_children_are_not_started_again() -> None:
    """Otherwise the next agent would run them once more."""
    server, supervisor = Server(), supervised()[0]
    reporter = reporter_of(server)
    policies = {"done": RestartPolicy.TRANSIENT, "once": RestartPolicy.TEMPORARY, "runs": RestartPolicy.TEMPORARY}
    entry = Assignment(uid="u", epoch=1, workload="w")
    server.entries = {id_: msgspec.structs.replace(entry, restart_policy=policies[id_]) for id_ in policies}
    supervisor.set_desired({id_: dataclasses.replace(desired(id_), assignment=server.entries[id_]) for id_ in policies})
    reporter.slice_changed(server.slice, "s", supervisor.children.values())
    for child in supervisor.children.values():
        child.running(7)
    supervisor.children["done"].ended(ExitStatus(Reason.COMPLETED, "exit code 0", success=True))
    supervisor.children["once"].ended(ExitStatus(Reason.EXITED, "exit code 1"))

    supervisor.news.changed.listen(reporter.child_changed)
    stopped = asyncio.ensure_future(supervisor.stop_all(1, 1))
    await until(lambda: supervisor.children["runs"].stopping, "the stop")
    supervisor.children["runs"].ended(ExitStatus(Reason.EXITED, "killed by SIGTERM"))
    await stopped
    supervisor.forget_all()
    await reporter.flush(5)

    reports = {child_id: parse_report(text) for child_id, text in server.status.reports.items()}
    assert {child_id: (said.state, said.reason) for child_id, said in reports.items()} == {
        "done": (State.STOPPED, Reason.COMPLETED),
        "once": (State.STOPPED, Reason.EXITED),
    }


@pytest.mark.parametrize(("held", "observed"), [(True, 1), (False, 0)])
async def test_nothing_is_reported_while_the_lease_is_not_held(held: bool, observed: int) -> None:
    """Another agent may hold it, and have started by then what this one says has ended."""
    server = Server()
    reporter = reporter_of(server)
    reporter.slice_changed(server.slice, "s")
    await until(lambda: server.status.holder, "the first status")
    server.held, server.generation = held, 1
    reporter.slice_changed(server.slice, "s")

    await reporter.flush(5)

    assert server.status.observed_generation == observed


class Slices(Server):
    """Stores the asks of each slice's last status."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: dict[str, tuple[str, ...]] = {}

    async def replace(
        self, kind: object, namespace: str, name: str, body: dict[str, Any], **more: Any
    ) -> RegistrySlice:
        self.asks[name] = body["status"].asks
        return make_slice(status=body["status"], name=name)


async def test_asks_are_written_into_slice_0_alone_until_they_are_withdrawn() -> None:
    server, asks = Slices(), [("a", "b")]
    writer = WriterIdentity(
        server,  # type: ignore[arg-type]
        *("pod/nonce", "", 8080),
        lambda: True,
        lambda: 1,
        Metrics(),
        lambda item: reporter.slice_changed(item, item.metadata.name),
        lambda: False,
        lambda: 1,
        asks=lambda: asks[-1],
    )
    reporter = StatusReporter(writer)
    reporter.open()
    for index in range(2):
        reporter.slice_changed(make_slice(name=f"s.{index}"), f"s.{index}")
    await until(lambda: server.asks == {"s.0": ("a", "b"), "s.1": ()}, "both statuses")

    asks.append(("b",))
    reporter.asks_changed("s.0", False)
    await until(lambda: server.asks["s.0"] == ("b",), "one ask less")


async def test_the_pace_of_reports_does_not_hold_back_asks() -> None:
    """Requests wait for them. Reports have used up the writes that the pace allows at once."""
    pace = Pace(NoiseBudget(lambda: 1), lambda: False)
    now = asyncio.get_running_loop().time()
    while pace._bucket.take(now):
        pass
    pace.kick(pressing=True)
    pace.hurry()
    due = asyncio.create_task(pace.due())
    await asyncio.sleep(0)

    pace.hurry(awaited=True)
    await due

    assert not pace._awaited_bucket.full(now), "the write has taken a token of its own"


async def test_the_pace_of_reports_does_not_hold_back_that_a_view_closes() -> None:
    """Requests for new ids wait until all members have acknowledged that."""
    server = Slices()
    reporter = reporter_of(server)
    slices = [make_slice(name="s.0", generation=1 + index, activation=order) for index, order in enumerate(ORDERS)]
    for item in slices[:2]:
        reporter.slice_changed(item, "s.0")
    pace = reporter._statuses["s.0"]._pace
    now = asyncio.get_running_loop().time()
    assert pace._awaited_bucket.full(now)
    assert not pace._awaited.is_set()

    reporter.slice_changed(slices[2], "s.0")

    assert pace._awaited.is_set()
    await reporter.flush(10)
    assert server.asks.keys() == {"s.0"}


def test_many_changes_for_which_no_client_waits_go_into_few_writes() -> None:
    """Children that the member has started by itself answer already, and one write is hardly dearer than another."""

    async def main() -> None:
        pace, loop = Pace(NoiseBudget(lambda: 1), lambda: False), asyncio.get_running_loop()
        times = []
        for urgent in (False, False, True):
            pace.kick(pressing=True)
            if urgent:
                pace.hurry()
            await pace.due()
            pace.gathered(100)
            pace.begin(1000, noise=False)
            times.append(round(loop.time(), 2))
        assert times == [0.05, 1.15, 1.25]

    virtualtime.run(main())


def test_a_child_that_waits_for_its_state_is_reported_with_its_arrival() -> None:
    """Nobody waits for the report that it waits, and a thousand of these would delay the states."""

    async def main() -> None:
        server, supervisor = Server(), supervised()[0]
        reporter, waiting = reporter_of(server), Assignment(uid="u", epoch=7, workload="w", wait=True)
        supervisor.news.changed.listen(reporter.child_changed)
        states = {}
        for child_id in ("arrives", "never"):
            server.entries[child_id] = waiting
            server.generation += 1
            run = dataclasses.replace(desired(child_id), assignment=waiting, startable=False)
            supervisor.set_desired({child_id: run})
            child = supervisor.children[child_id]
            reporter.slice_changed(server.slice, "s", (child,))
            await asyncio.sleep(0.2)
            states[child_id] = child_id in server.status.reports
            if child_id == "arrives":
                report_received(child, "sum")
            await asyncio.sleep(0.35)
            reporter.slice_changed(server.slice, "s")

        assert states == {"arrives": False, "never": False}
        assert parse_report(server.status.reports["arrives"]).got == "sum"
        assert server.status.observed_generation == 2, "it is reported soon in any case"
        reporter.slice_changed(None, "s")

    virtualtime.run(main())
