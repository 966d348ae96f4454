"""The status that an agent writes to a slice; the test is the API server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from test_agent_supervisor import desired, supervised
from waiting import until

from builders import make_slice
from processhub.agent.children.runs import ExitStatus
from processhub.agent.metrics import Metrics
from processhub.agent.reporting.reporter import StatusReporter
from processhub.agent.reporting.reportwriter import WriterIdentity
from processhub.api.reasons import Reason, State
from processhub.api.slice import MAX_ENTRIES, RegistrySlice, SliceStatus
from processhub.cluster.config import ConfigError
from processhub.registry.grammar import parse_report


class Server:
    """Stores each status that is written."""

    def __init__(self) -> None:
        self.generation = 0
        self.status = SliceStatus()
        self.troubles: list[Exception] = []  # the outcomes of the next writes

    @property
    def slice(self) -> RegistrySlice:
        return make_slice(status=self.status, name="s", generation=self.generation)

    async def replace(
        self, kind: object, namespace: str, name: str, body: dict[str, Any], *, subresource: str
    ) -> RegistrySlice:
        if self.troubles:
            raise self.troubles.pop()
        self.status = body["status"]
        return self.slice


def reporter_of(server: Server) -> StatusReporter:
    reporter = StatusReporter(
        WriterIdentity(server, "pod/nonce", "", 8080, lambda: 1, Metrics(), lambda _: None, lambda: False, lambda: 1)  # type: ignore[arg-type]
    )
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

    await until(lambda: "a" in server.status.entries, "the status")
    await reporter.flush(5)


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
    await until(lambda: "new-1" in server.status.entries, "what there is room for")
    order(new, [])
    await until(lambda: parse_report(server.status.entries["new-1"]).state == State.STOPPING, "its end's begin")
    assert "new-2" not in server.status.entries
    assert server.status.observed_generation == 1

    first = supervisor.children[old[0]]
    first.ended(ExitStatus(Reason.EXITED, "exit code 0"))
    reporter.child_changed(first, urgent=True)
    await until(lambda: server.status.observed_generation == 3, "an answer once there is room")
    assert "new-2" in server.status.entries
    await reporter.flush(5)
