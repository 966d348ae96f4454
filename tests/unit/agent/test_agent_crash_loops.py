"""The writes and delays that crash loops cause: the test is the API server, on a simulated clock.

The children are an agent's own: they end as soon as they run, and are restarted after their back-off.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import virtualtime
from memberparts import supervisor_of

from builders import make_slice
from processhub.agent.children.child import Child
from processhub.agent.children.runs import ExitStatus
from processhub.agent.metrics import Metrics
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.reporting.noise import HUB_BURST, HUB_RATE
from processhub.agent.reporting.reporter import StatusReporter
from processhub.agent.reporting.reportwriter import WriterIdentity
from processhub.api.child import Exec, PodWorkload
from processhub.api.reasons import Reason, State
from processhub.api.slice import RegistrySlice, SliceStatus, stored_bytes
from processhub.registry.grammar import Assignment, parse_report

pytestmark = pytest.mark.no_cover  # minutes in the lives of ten thousand children
TEXT = "ValueError: " + "x y " * 47
UP_SECONDS = 0.5


class Looping:
    """Starts children that end soon, except those whose names mark them as well."""

    def __init__(self) -> None:
        self.awaits_pod = asyncio.Event()

    def launch(self, child: Child, desired: DesiredRun, *_: object) -> Looping:
        if isinstance(desired.workload, PodWorkload):
            self.awaits_pod.set()
            return self  # it is Starting until there is a Pod
        loop = asyncio.get_running_loop()
        loop.call_soon(child.begun)
        loop.call_soon(child.running, 7)
        if not child.id.startswith("well"):
            loop.call_later(UP_SECONDS, child.ended, ExitStatus(Reason.EXITED, TEXT))
        return self

    def stop(self, grace: float) -> None: ...

    def forget(self, child_id: str) -> None: ...

    def shut_down(self) -> None: ...


class Hub:
    """The slices of one member's children, and what the API server stores of them."""

    def __init__(self, slices: int, children: int, members: int = 1) -> None:
        self.specs = {
            f"hub.hub-0.{number}": {f"{name}-{number}": desired(f"hub.hub-0.{number}") for name in names_of(children)}
            for number in range(slices)
        }
        self.generations = dict.fromkeys(self.specs, 1)
        self.statuses = dict.fromkeys(self.specs, SliceStatus())
        self.writes: dict[str, list[tuple[float, int]]] = defaultdict(list)  # time and size of each write
        starter = self.starter = Looping()
        self.supervisor = supervisor_of({Exec: starter, PodWorkload: starter})
        self.reporter = StatusReporter(
            WriterIdentity(
                self,  # type: ignore[arg-type]
                *("pod/nonce", "", 8080),
                lambda: True,
                lambda: 1,
                Metrics(),
                self._stored,
                lambda: False,
                lambda: members,
            )
        )
        self.supervisor.news.changed.listen(self.reporter.child_changed)
        self.reporter.open()
        for name, children_of in self.specs.items():
            self.supervisor.set_desired(dict(children_of))
            self.reporter.slice_changed(self.slice(name), name, self.supervisor.children.values())

    def _stored(self, item: RegistrySlice) -> None:
        self.reporter.slice_changed(item, item.metadata.name)

    def slice(self, name: str) -> RegistrySlice:
        entries = {child_id: item.assignment for child_id, item in self.specs[name].items()}
        return make_slice(entries, status=self.statuses[name], name=name, generation=self.generations[name])

    def order_start(self, name: str, child_id: str, item: DesiredRun) -> Child:
        self.specs[name][child_id] = item
        self.generations[name] += 1
        self.supervisor.set_desired({child_id: item})
        self.reporter.slice_changed(self.slice(name), name)
        return self.supervisor.children[child_id]

    def order_stop(self, name: str, child_id: str) -> None:
        del self.specs[name][child_id]
        self.generations[name] += 1
        self.supervisor.set_desired({child_id: None})
        self.reporter.slice_changed(self.slice(name), name)

    async def replace(
        self, kind: object, namespace: str, name: str, body: dict[str, Any], *, subresource: str
    ) -> RegistrySlice:
        await asyncio.sleep(0.02)
        self.statuses[name] = body["status"]
        stored = self.slice(name)
        self.writes[name].append((asyncio.get_running_loop().time(), stored_bytes(stored)))
        return stored

    def written(self) -> int:
        return sum(size for writes in self.writes.values() for _, size in writes)


def names_of(children: int) -> list[str]:
    return ["well", *(f"tenant-{number}" for number in range(children - 1))]


def crowded() -> Hub:
    """A hub whose crash loops use up the writes of this member, which shares them with three others."""
    return Hub(slices=10, children=100, members=4)


def desired(slice_name: str) -> DesiredRun:
    entry = Assignment(uid="0f0e0d0c-1111-2222-3333-444455556666", epoch=5_000_000_123, workload="4eb87135da9d56b4")
    return DesiredRun(assignment=entry, workload=Exec(command=("x",)), slice=slice_name, term=1, startable=True)


@pytest.mark.timeout(900)  # it computes for a minute, or for as long as other processes let it
@pytest.mark.parametrize(
    ("children", "members"),
    # A quarter of the writes of the hub, and all of them.
    [pytest.param(100, 4, id="1000"), pytest.param(1000, 1, id="10000", marks=pytest.mark.nightly)],
)
def test_thousands_of_crash_loops_stay_within_the_hubs_writes_and_delay_no_news(children: int, members: int) -> None:
    """Neither a stop, nor the first crash of a child, waits for the budget that others use up."""

    async def ten_minutes() -> None:
        hub = Hub(slices=10, children=children, members=members)
        await asyncio.sleep(400)
        before = len(hub.writes["hub.hub-0.3"])
        hub.order_stop("hub.hub-0.3", "well-3")
        await asyncio.sleep(1)
        assert parse_report(hub.statuses["hub.hub-0.3"].entries["well-3"]).state == State.STOPPING
        hub.supervisor.children["well-3"].ended(ExitStatus(Reason.EXITED, "exit code 0"))
        await asyncio.sleep(1)
        assert "well-3" not in hub.statuses["hub.hub-0.3"].entries
        assert hub.statuses["hub.hub-0.3"].observed_generation == 2
        assert len(hub.writes["hub.hub-0.3"]) > before
        hub.supervisor.children["well-4"].ended(ExitStatus(Reason.EXITED, "it was well"))
        await asyncio.sleep(1.5)
        assert parse_report(hub.statuses["hub.hub-0.4"].entries["well-4"]).last_exit == "it was well"
        await asyncio.sleep(196.5)

        assert hub.written() <= (HUB_BURST + 600 * HUB_RATE) / members
        late = {name: [at for at, _ in writes if at > 300] for name, writes in hub.writes.items()}
        assert all(late.values()), "a slice is told of no more"
        looping = [
            parse_report(text)
            for status in hub.statuses.values()
            for child_id, text in status.reports.items()
            if not child_id.startswith("well")
        ]
        # 18 restarts have happened by the time of a write after 300 s.
        assert min(report.restarts for report in looping if report.last_exit) >= 18

    virtualtime.run(ten_minutes())


def test_a_few_crash_loops_are_reported_as_they_happen() -> None:
    async def a_minute() -> None:
        hub = Hub(slices=1, children=10)
        child = hub.supervisor.children["tenant-0-0"]
        for _ in range(60):
            await asyncio.sleep(1.5)
            report = parse_report(hub.statuses["hub.hub-0.0"].entries["tenant-0-0"])
            assert child.history.restarts - 1 <= report.restarts <= child.history.restarts

    virtualtime.run(a_minute())


def test_a_new_pod_for_a_child_whose_pod_ended_is_requested_at_once() -> None:
    """The operator creates the Pod when the report says Starting."""

    async def ten_ends() -> None:
        hub = crowded()
        item = replace(desired("hub.hub-0.3"), workload=PodWorkload(template={}))
        child = hub.order_start("hub.hub-0.3", "pod", item)
        await asyncio.sleep(400)
        for _ in range(20):
            hub.starter.awaits_pod.clear()
            child.ended(ExitStatus(Reason.EXITED, "exit code 1"))
            await hub.starter.awaits_pod.wait()
            await asyncio.sleep(1.5)
            assert parse_report(hub.statuses["hub.hub-0.3"].entries["pod"]).state == State.STARTING
            child.blocked(State.FAILED, Reason.EXITED, "its container ended")
            await asyncio.sleep(15)

    virtualtime.run(ten_ends())


def test_members_share_the_writes_of_their_hub() -> None:
    async def ten_minutes(members: int) -> int:
        hub = Hub(slices=1, children=1000, members=members)
        await asyncio.sleep(600)
        return hub.written()

    assert virtualtime.run(ten_minutes(20)) <= HUB_BURST / 20 + 600 * HUB_RATE / 20 + 10 * 400_000
