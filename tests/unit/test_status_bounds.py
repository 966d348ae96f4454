"""What an operator says of many: it fits the schema whatever there is, and costs what it may."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import msgspec
import virtualtime

from processhub.api.child import Child, ChildSpec, ChildStatus, NodeStatus
from processhub.api.hub import Hub
from processhub.api.kubernetes import Lease, LeaseSpec
from processhub.api.meta import MESSAGE_MAX, Condition, ObjectMeta, condition_of, find_condition, merge_conditions
from processhub.api.reasons import EventReason, State
from processhub.api.slice import (
    Assignment,
    RegistrySlice,
    Report,
    SliceSpec,
    SliceStatus,
    format_assignment,
    format_report,
    stored_bytes,
)
from processhub.cluster.client import Client
from processhub.cluster.errors import InvalidError
from processhub.cluster.tokenbucket import Buckets, TokenBucket
from processhub.core.acceptance import unknown_member
from processhub.core.listing import MemberNames
from processhub.core.membership import Judgement, Phase
from processhub.operator.childstatus import NODES_MAX, child_status, copies_of
from processhub.operator.events import EventRecorder
from processhub.operator.hubstate import KnownLease, KnownSlice
from processhub.operator.hubstatus import registry_of
from processhub.operator.members import Member
from processhub.operator.quietwrites import HUB_BURST, HUB_RATE
from processhub.operator.statuswriter import StatusWriter
from processhub.operator.store import Store

LIVE = Judgement(Phase.LIVE, draining=False, restarting=False, recheck_seconds=None, why="")
ENVELOPE = 2048  # bytes of metadata and managed fields that the API server adds
NOW = "2026-01-01T00:00:00Z"


def member(number: int, exit_text: str = "") -> Member:
    """One that runs a copy of the child ``a``."""
    name = f"hub-{number}"
    report = Report(uid="u", epoch=5, state=State.RUNNING, pid=7, last_exit=exit_text)
    spec = SliceSpec(
        hub="hub",
        hub_uid="h",
        member=name,
        term=1,
        entries={"a": format_assignment(Assignment(uid="u", epoch=5, workload="w"))},
    )
    status = SliceStatus(observed_generation=1, holder="x/1", entries={"a": format_report(report)})
    known = KnownSlice()
    known.update(RegistrySlice(metadata=ObjectMeta(name=f"{name}.0", generation=1), spec=spec, status=status))
    lease = KnownLease(Lease(metadata=ObjectMeta(name=name), spec=LeaseSpec(holder_identity="x/1")), 0.0)
    return Member(name=name, wanted=True, weight=1, pod=None, lease=lease, slices=(known,), judgement=LIVE)


def child(name: str = "a", status: ChildStatus | None = None) -> Child:
    metadata = ObjectMeta(name=name, namespace="ns", uid="u", resource_version="5", generation=1)
    return Child(metadata=metadata, spec=ChildSpec(hub="hub"), status=status or ChildStatus())


def test_more_copies_than_a_status_lists_are_counted() -> None:
    members = {f"hub-{number}": member(number) for number in range(140)}

    status = child_status(child(), copies_of("a", members), None, None, NOW)
    registry, _ = registry_of(members)

    assert len(status.nodes) == NODES_MAX == 100
    placed = find_condition(status.conditions, "Placed")
    assert placed is not None
    assert placed.message == f"on {status.nodes[0].name}; status.nodes has 100 of its 140 copies"
    assert len(registry[0].nodes) == 100


def test_an_exit_that_is_longer_than_the_schema_allows_is_cut() -> None:
    members = {"hub-0": member(0, "x" * 1024)}
    (known,) = members["hub-0"].slices
    known.reports["a"] = msgspec.structs.replace(known.reports["a"], last_exit="y" * 5000)

    assert len(child_status(child(), copies_of("a", members), None, None, NOW).nodes[0].last_exit) == 1024


def test_a_message_is_never_longer_than_the_schema_allows() -> None:
    told = merge_conditions((), (condition_of("Ready", False, "Pending", "x" * 100_000, 1),), NOW)

    assert len(told[0].message) == MESSAGE_MAX == 32768


def test_a_child_of_an_unknown_member_is_told_of_some_members_and_how_many_more() -> None:
    refusal = unknown_member(
        ChildSpec(hub="hub", nodes=("other",)), MemberNames(f"node-{number:04}" for number in range(1000))
    )

    assert refusal is not None
    assert refusal.message.endswith("node-0008, node-0009 and 990 more")


def status_of(restarts: int, state: str = State.FAILED, reason: str = "Exited") -> ChildStatus:
    node = NodeStatus(name="hub-0", state=state, restarts=restarts, epoch=5, last_exit="exit code 1")
    message = f"exit code 1; BackOff: restart {restarts} after 30 s"
    ready = Condition(type="Ready", status="False", reason=reason, message=message, last_transition_time=NOW)
    return ChildStatus(conditions=(ready,), observed_generation=1, id="a", member="hub-0", state=state, nodes=(node,))


class Server:
    """Stores what is written, as an API server does, or refuses it."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.tries = 0
        self.stored: dict[str, ChildStatus] = {}
        self.bytes = 0

    async def replace(self, kind: object, namespace: str, name: str, body: Child, *, subresource: str) -> Child:
        self.tries += 1
        if self.refuses:
            raise InvalidError(422, "Invalid", "status.nodes: too many")
        await asyncio.sleep(0.01)
        self.stored[name] = body.status
        self.bytes += stored_bytes(body) + ENVELOPE
        return body


def writer_of(server: Server, wanted: dict[str, ChildStatus]) -> StatusWriter:
    client = cast("Client", server)
    store = Store(client, (), lambda _: None)

    def latest(key: tuple[str, str]) -> tuple[Child, ChildStatus]:
        return child(key[1], server.stored.get(key[1])), wanted[key[1]]

    return StatusWriter(client, store, latest)


def test_crash_loops_of_ten_thousand_children_write_no_more_than_their_hub_may() -> None:
    async def ten_minutes() -> None:
        server = Server()
        wanted = {f"tenant-{number}": status_of(1) for number in range(10_000)}
        writer = writer_of(server, wanted)
        running = asyncio.create_task(writer.run())
        for restarts in range(1, 21):
            for name in wanted:
                wanted[name] = status_of(restarts)
                writer.mark(("ns", name))
            await asyncio.sleep(20)
            name = f"tenant-{restarts}"
            wanted[name] = status_of(restarts, State.STOPPED, "Completed")
            writer.mark(("ns", name))
            await asyncio.sleep(1)
            assert server.stored[name].state == State.STOPPED, "what is no crash loop's waits for nothing"
            await asyncio.sleep(9)
        assert server.bytes <= 2 * 10_000 * 3000 + HUB_BURST + 600 * HUB_RATE
        await asyncio.sleep(400)
        assert {name: status.nodes[0].restarts for name, status in server.stored.items() if name[7:] > "3"} == {
            name: 20 for name in wanted if name[7:] > "3"
        }, "each is told in the end"
        running.cancel()

    virtualtime.run(ten_minutes())


def test_a_status_that_is_refused_for_good_is_tried_ever_more_seldom() -> None:
    async def ten_minutes() -> None:
        server = Server(refuses=True)
        writer = writer_of(server, {"a": status_of(1)})
        running = asyncio.create_task(writer.run())
        writer.mark(("ns", "a"))
        await asyncio.sleep(600)
        assert 5 < server.tries < 20
        server.refuses = False
        await asyncio.sleep(61)
        assert server.stored["a"] == status_of(1)
        running.cancel()

    virtualtime.run(ten_minutes())


def test_buckets_of_what_is_gone_are_dropped() -> None:
    buckets: Buckets[int, TokenBucket] = Buckets(lambda: TokenBucket(1.0, 10.0))
    first = buckets.of(0, 0.0)
    first.take(0.0)
    assert buckets.of(0, 0.0) is first

    for number in range(100_000):
        buckets.of(number, number / 100).take(number / 100)

    assert len(buckets) <= 2500


def test_events_that_sum_up_are_bounded_too() -> None:
    class Events:
        def __init__(self) -> None:
            self.said: Counter[str] = Counter()

        async def create(self, kind: object, namespace: str, event: dict[str, Any]) -> None:
            self.said[event["involvedObject"]["kind"]] += 1

    async def ten_minutes() -> None:
        events = Events()
        recorder = EventRecorder(cast("Client", events), "test")
        running = asyncio.create_task(recorder.run())
        hub = msgspec.convert({"metadata": {"name": "hub", "namespace": "ns", "uid": "h"}, "spec": {}}, Hub)
        for number in range(6000):
            for count in range(3):
                item = msgspec.structs.replace(child(), metadata=ObjectMeta(name="a", uid=f"{number}-{count}"))
                recorder.about_child(hub, item, EventReason.PLACED, "on hub-0")
            recorder.flush(hub)
            await asyncio.sleep(0.1)
        running.cancel()
        assert events.said["Child"] <= 50 + 600 * 5
        assert 100 < events.said["Hub"] <= 5 + 600 * 0.2

    virtualtime.run(ten_minutes())


def test_a_child_whose_status_cant_be_made_keeps_no_other_from_being_told() -> None:
    async def a_minute() -> None:
        server = Server()
        broken = True

        def latest(key: tuple[str, str]) -> tuple[Child, ChildStatus]:
            if key[1] == "broken" and broken:
                raise ValueError("it can't be made")
            return child(key[1], server.stored.get(key[1])), status_of(1)

        client = cast("Client", server)
        writer = StatusWriter(client, Store(client, (), lambda _: None), latest)
        running = asyncio.create_task(writer.run())
        for name in ("broken", "a"):
            writer.mark(("ns", name))
        await asyncio.sleep(30)
        assert not running.done()
        assert server.stored.keys() == {"a"}
        broken = False
        await asyncio.sleep(30)
        assert server.stored.keys() == {"a", "broken"}
        running.cancel()

    virtualtime.run(a_minute())
