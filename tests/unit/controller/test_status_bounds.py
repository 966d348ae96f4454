"""The operator's reports about many objects: they fit the schema, and their writes stay within the budget."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any, cast

import msgspec
import pytest
import virtualtime

from builders import known_slice, make_child, make_hub, make_member, make_observation, make_slice
from processhub.api.child import Child, ChildSpec, ChildStatus, NodeStatus
from processhub.api.childset import ChildSet, ChildSetSpec, ChildSetStatus
from processhub.api.hub import HubSpec, HubStatus, Members, MemberStatus, RegistryEntry, RegistryNode
from processhub.api.kubernetes import Pod
from processhub.api.meta import MESSAGE_MAX, Condition, ObjectMeta, condition_of, find_condition, merge_conditions
from processhub.api.reasons import EventReason, State
from processhub.api.slice import RegistrySlice, stored_bytes
from processhub.cluster.client import Client
from processhub.cluster.errors import InvalidError
from processhub.cluster.tokenbucket import Buckets, TokenBucket
from processhub.controller.observe.members import Member
from processhub.controller.report.child import NODES_MAX, child_status, copies_of
from processhub.controller.report.childqueue import ChildStatuses
from processhub.controller.report.childset import tallies
from processhub.controller.report.deferredwrites import HUB_BURST, HUB_RATE
from processhub.controller.report.hub import MEMBERS_MAX, REGISTRY_BYTES, REGISTRY_MAX, hub_status, registry_of
from processhub.controller.report.hubprogress import Work
from processhub.controller.report.refusedstatuses import RefusedStatuses
from processhub.controller.report.statusrate import OF_HUBS, OF_SETS, StatusRate
from processhub.controller.report.writer import AppliedStatuses
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.round import Requeue
from processhub.controller.store.childsets import SeenSet, known_set
from processhub.controller.store.informers import Store
from processhub.core.acceptance import unknown_member
from processhub.core.listing import MemberNames
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.quorum import Verdict
from processhub.registry.grammar import Assignment, Report

ENVELOPE = 2048  # bytes of metadata and managed fields that the API server adds
NOW = "2026-01-01T00:00:00Z"


def member(number: int, exit_text: str = "", ids: Collection[str] = ("a",), phase: Phase = Phase.LIVE) -> Member:
    """A member that runs a copy of the child ``a``, or of each of the ``ids``."""
    name = f"hub-{number}"
    report = Report(uid="u", epoch=5, state=State.RUNNING, pid=7, last_exit=exit_text)
    entry = Assignment(uid="u", epoch=5, workload="w")
    item = make_slice(dict.fromkeys(ids, entry), dict.fromkeys(ids, report), member=name, holder="x/1")
    return make_member(name, item, phase=phase, holder="x/1")


def child(name: str = "a", status: ChildStatus | None = None) -> Child:
    return make_child(name, status=status, resource_version="5", generation=1)


def test_more_copies_than_a_status_lists_are_counted() -> None:
    members = {f"hub-{number}": member(number) for number in range(140)}

    status = child_status(child(), copies_of("a", members), None, None, NOW)
    registry, _ = registry_of(members)

    assert len(status.nodes) == NODES_MAX == 100
    placed = find_condition(status.conditions, "Placed")
    assert placed is not None
    assert placed.message == f"on {status.nodes[0].name}; status.nodes has 100 of its 140 copies"
    assert len(registry[0].nodes) == 100


@pytest.mark.no_cover
def test_the_registry_of_a_hub_with_many_copies_of_many_children_fits_into_its_status() -> None:
    ids = [f"{'child' * 40}-{number}" for number in range(600)]
    registry, counts = registry_of({f"hub-{number}": member(number, ids=ids) for number in range(60)})

    assert stored_bytes(registry) <= REGISTRY_BYTES
    assert 20 <= len(registry) < REGISTRY_MAX
    assert [entry.id for entry in registry] == sorted(ids)[: len(registry)], "the first ones, whole"
    assert {len(entry.nodes) for entry in registry} == {60}
    assert counts == {State.RUNNING: 600}, "all are counted"


def test_more_members_than_a_status_lists_are_counted() -> None:
    hub = make_hub()
    members = {f"hub-{number}": member(number) for number in range(MEMBERS_MAX + 200)}
    quorum = Verdict(required=0, live=1200, largest_seen=1200, quorate=True, partitioned=False, reason="", why="")
    observation = make_observation(members=members, quorum=quorum)

    def reported(members: dict[str, Member]) -> tuple[HubStatus, str]:
        plan = Plan(entries={}, unplaced={}, next_epoch=6)
        status = hub_status(hub, Work(msgspec.structs.replace(observation, members=members), plan), NOW)
        ready = find_condition(status.conditions, "Ready")
        assert ready is not None
        return status, ready.message

    for there in (members, {**members, "hub-7": member(7, phase=Phase.GONE)}):
        status, message = reported(there)
        assert len(status.members) == MEMBERS_MAX == 1000
        assert status.summary is not None
        assert status.summary.members == f"{sum(item.ready for item in there.values())}/1200"
        assert message.endswith("; status.members has 1000 of its members, of which there are 1200")


def test_a_member_that_was_scaled_away_is_listed_until_it_has_ended_and_is_empty() -> None:
    """One of its slices may stay as long as this operator leads: its creation was not answered."""
    quorum = Verdict(required=0, live=1, largest_seen=1, quorate=True, partitioned=False, reason="", why="")
    ended = make_member("hub-3", make_slice(member="hub-3"), phase=Phase.GONE, wanted=False)
    changes: dict[str, dict[str, Any]] = {
        "lives": {"judgement": make_member(phase=Phase.LIVE).judgement},
        "has children": {"slices": member(3).slices},
        "is wanted": {"wanted": True},
    }
    others = {name: msgspec.structs.replace(ended, name=name, **change) for name, change in changes.items()}
    observation = make_observation(members={"hub-3": ended, **others}, quorum=quorum)

    status = hub_status(make_hub(), Work(observation, Plan(entries={}, unplaced={}, next_epoch=6)), NOW)

    assert [listed.name for listed in status.members] == list(changes)


def test_a_status_has_the_counts_of_a_hub_without_members_and_children() -> None:
    """``kubectl wait --for=jsonpath='{.status.registrySize}'=0`` waits for ever for a field that is not there."""
    quorum = Verdict(required=0, live=0, largest_seen=0, quorate=True, partitioned=False, reason="", why="")
    work = Work(make_observation(members={}, quorum=quorum), Plan(entries={}, unplaced={}, next_epoch=6))

    empty = make_hub(spec=HubSpec(members=Members(replicas=0)))
    written = msgspec.to_builtins(hub_status(empty, work, NOW))

    assert {name: written.get(name) for name in ("replicas", "readyReplicas", "registrySize")} == {
        "replicas": 0,
        "readyReplicas": 0,
        "registrySize": 0,
    }
    assert not {"replicas", "readyReplicas", "registrySize"} & msgspec.to_builtins(make_hub().status).keys(), (
        "before the first round nothing is known"
    )
    ready = find_condition(hub_status(empty, work, NOW).conditions, "Ready")
    assert ready is not None
    assert ready.message == "the hub has no members: spec.members.replicas is 0"


def hub_reported(running: int, *, ready: bool = True, cpu: int = 0) -> HubStatus:
    """A status of 500 registry entries, some of which run."""
    registry = tuple(
        RegistryEntry(
            id=f"child-{number}",
            nodes=tuple(
                RegistryNode(name=f"hub-{copy}", state=State.RUNNING if number < running else State.FAILED)
                for copy in range(4)
            ),
        )
        for number in range(500)
    )
    condition = condition_of("Ready", ready, "MembersReady", f"{running} of 500 children running", 1)
    members = (MemberStatus(name="hub-0", pod="hub-0", ready=ready, cpu=f"{cpu}m"),)
    return HubStatus(conditions=(condition,), observed_generation=1, registry=registry, members=members)


def test_crash_loops_write_into_their_hubs_status_within_its_budget() -> None:
    hub = make_hub()
    rate, budget = StatusRate(OF_HUBS), OF_HUBS.budget()
    stored, written, writes, last = hub_reported(0), 0, 0, 0.0
    crashing = [hub_reported(running, cpu=running) for running in range(3)]
    unready = hub_reported(0, ready=False)
    for half in range(2400):
        now, pressing = half / 2, half % 400 == 399
        status = unready if pressing else crashing[half % 3]
        if rate.wait(now) > 0 or rate.reserve(msgspec.structs.replace(hub, status=stored), status, now, budget) > 0:
            assert not pressing, "what somebody waits for is reported at once"
            continue
        written += stored_bytes(msgspec.structs.replace(hub, status=status)) + ENVELOPE
        stored, writes, gap, last = status, writes + 1, now - last, now
        assert gap <= 5.0, "the counts are reported in the end"
    assert written <= OF_HUBS.bytes_burst + 1200 * OF_HUBS.bytes_rate + 12 * stored_bytes(stored), (
        "beside what can't wait"
    )
    assert writes < 2000, "it is the budget that bounds"


def test_an_exit_that_is_longer_than_the_schema_allows_is_cut() -> None:
    members = {"hub-0": member(0, "x" * 1024)}
    (known,) = members["hub-0"].slices
    known.reports["a"] = msgspec.structs.replace(known.reports["a"], last_exit="y" * 5000)

    assert len(child_status(child(), copies_of("a", members), None, None, NOW).nodes[0].last_exit) == 1024


def test_a_message_is_never_longer_than_the_schema_allows() -> None:
    reported = merge_conditions((), (condition_of("Ready", False, "Pending", "x" * 100_000, 1),), NOW)

    assert len(reported[0].message) == MESSAGE_MAX == 32768


def test_a_child_of_an_unknown_member_reports_some_members_and_how_many_more() -> None:
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
    """Stores writes as an API server does, or rejects them."""

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


def writer_of(server: Server, wanted: dict[str, ChildStatus]) -> ChildStatuses:
    client = cast("Client", server)
    store = Store(client, (), lambda _: None)

    def latest(key: tuple[str, str]) -> tuple[Child, ChildStatus]:
        return child(key[1], server.stored.get(key[1])), wanted[key[1]]

    return ChildStatuses(client, store, latest, RefusedStatuses(lambda _: None))


@pytest.mark.no_cover
def test_crash_loops_of_ten_thousand_children_write_within_their_hubs_budget() -> None:
    async def ten_minutes() -> None:
        server = Server()
        wanted = {f"tenant-{number}": status_of(1) for number in range(10_000)}
        writer = writer_of(server, wanted)
        running = asyncio.create_task(writer.run())
        for restarts in range(1, 21):
            wanted |= dict.fromkeys(wanted, status_of(restarts))
            for name in wanted:
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
        }, "each is reported in the end"
        running.cancel()

    virtualtime.run(ten_minutes())


@pytest.mark.no_cover
def test_constantly_changing_messages_write_within_their_hubs_budget() -> None:
    def denied(number: int, reason: str = "HookDenied") -> ChildStatus:
        said = f"hook gate gave no answer: {number} {'x' * 900}"
        conditions = tuple(
            Condition(type=kind, status="False", reason=reason, message=said, last_transition_time=NOW)
            for kind in ("Accepted", "Placed", "Ready")
        )
        return ChildStatus(conditions=conditions, observed_generation=1, id="a", state=State.PENDING)

    async def ten_minutes() -> None:
        server = Server()
        wanted = {f"tenant-{number}": denied(0) for number in range(2000)}
        writer = writer_of(server, wanted)
        running = asyncio.create_task(writer.run())
        for turn in range(1, 31):
            wanted |= dict.fromkeys(wanted, denied(turn))
            for name in wanted:
                writer.mark(("ns", name))
            await asyncio.sleep(19)
            name = f"tenant-{turn}"
            wanted[name] = denied(turn, "InvalidChild")
            writer.mark(("ns", name))
            await asyncio.sleep(1)
            assert server.stored[name].conditions[0].reason == "InvalidChild", "another reason is reported at once"
        assert server.bytes <= 2100 * 6000 + HUB_BURST + 600 * HUB_RATE
        running.cancel()

    virtualtime.run(ten_minutes())


def test_crash_loops_of_sets_write_into_their_statuses_within_their_hubs_budget() -> None:
    class Sets:
        """Stores applied objects, and counts their total bytes."""

        def __init__(self, items: dict[str, ChildSet]) -> None:
            self.items, self.bytes = items, 0
            self.writes: Counter[str] = Counter()

        async def apply(self, kind: object, namespace: str, name: str, body: Any, *, subresource: str) -> ChildSet:
            await asyncio.sleep(0.01)
            item = self.items[name] = msgspec.structs.replace(self.items[name], status=body["status"])
            self.bytes += stored_bytes(item)
            self.writes[name] += 1
            return item

    def reported(turn: int, accepted: bool = True) -> ChildSetStatus:
        reason = ("ChildrenFailed", "Pending", "Started")[turn % 3]
        conditions = (
            condition_of("Accepted", accepted, "Accepted" if accepted else "Invalid", "", 1),
            condition_of("Ready", reason == "Started", reason, f"{turn} of 10000 children running", 1),
        )
        return ChildSetStatus(conditions=conditions, observed_generation=1, desired=10_000, running=turn)

    async def ten_minutes() -> None:
        ids = tuple(f"tenant-{number}" for number in range(10_000))
        sets = Sets(
            {
                f"set-{number}": ChildSet(
                    metadata=ObjectMeta(name=f"set-{number}", namespace="ns", uid=f"set-{number}", generation=1),
                    spec=ChildSetSpec(hub="hub", ids=ids, template=ChildSpec(hub="")),
                )
                for number in range(20)
            }
        )
        client = cast("Client", sets)
        writer = AppliedStatuses(
            client, Store(client, (), lambda _: None), lambda _: None, OF_SETS, RefusedStatuses(lambda _: None)
        )
        names = list(sets.items)

        async def report(status: ChildSetStatus) -> None:
            writer.report(("ns", "hub"), list(sets.items.values()), lambda: dict.fromkeys(names, status), Requeue())
            await asyncio.sleep(0.5)

        for turn in range(1, 1201):
            accepted = turn % 400 > 0
            await report(reported(turn, accepted))
            if not accepted:
                for _ in range(3):
                    await report(reported(turn, accepted))
                assert {item.status.conditions[0].status for item in sets.items.values()} == {"False"}
        size = max(map(stored_bytes, sets.items.values()))
        assert sets.bytes <= OF_SETS.bytes_burst + 604 * OF_SETS.bytes_rate + 7 * 20 * size, (
            "beside those that somebody waits for"
        )
        assert min(sets.writes.values()) > 0.7 * max(sets.writes.values()), "each has its turn"

    virtualtime.run(ten_minutes())


def test_a_status_that_changes_while_it_is_written_is_written_again() -> None:
    async def a_change() -> None:
        server, wanted = Server(), {"a": status_of(1)}
        writer = writer_of(server, wanted)
        running = asyncio.create_task(writer.run())
        writer.mark(("ns", "a"))
        await asyncio.sleep(0.005)
        assert (server.tries, server.stored) == (1, {}), "it is being written"

        wanted["a"] = status_of(1, State.STOPPED, "Completed")
        writer.mark(("ns", "a"))
        await asyncio.sleep(5)

        assert server.stored["a"].state == State.STOPPED
        running.cancel()

    virtualtime.run(a_change())


def test_a_status_that_is_always_rejected_backs_off() -> None:
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


def test_buckets_of_deleted_objects_are_dropped() -> None:
    buckets: Buckets[int, TokenBucket] = Buckets(lambda: TokenBucket(1.0, 10.0))
    first = buckets.of(0, 0.0)
    first.take(0.0)
    assert buckets.of(0, 0.0) is first

    for number in range(100_000):
        buckets.of(number, number / 100).take(number / 100)

    assert len(buckets) <= 2500


def test_summarising_events_are_bounded_too() -> None:
    class Events:
        def __init__(self) -> None:
            self.said: Counter[str] = Counter()

        async def create(self, kind: object, namespace: str, event: dict[str, Any]) -> None:
            self.said[event["involvedObject"]["kind"]] += 1

    async def ten_minutes() -> None:
        events = Events()
        recorder = EventRecorder(cast("Client", events), "test")
        running = asyncio.create_task(recorder.run())
        hub = make_hub()
        for number in range(6000):
            for count in range(3):
                item = make_child(uid=f"{number}-{count}")
                recorder.about_child(hub, item, EventReason.PLACED, "on hub-0")
            recorder.flush(hub)
            await asyncio.sleep(0.1)
        running.cancel()
        assert events.said["Child"] <= 50 + 600 * 5
        assert 100 < events.said["Hub"] <= 5 + 600 * 0.2

    virtualtime.run(ten_minutes())


def test_a_child_whose_status_cannot_be_built_blocks_no_other() -> None:
    async def a_minute() -> None:
        server = Server()
        broken = True

        def latest(key: tuple[str, str]) -> tuple[Child, ChildStatus]:
            if key[1] == "broken" and broken:
                raise ValueError("it can't be made")
            return child(key[1], server.stored.get(key[1])), status_of(1)

        client = cast("Client", server)
        writer = ChildStatuses(client, Store(client, (), lambda _: None), latest, RefusedStatuses(lambda _: None))
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


def test_a_hub_is_counted_by_its_slices_and_each_of_them_again_when_it_changes() -> None:
    spec = {"hub": "hub", "replicas": 4, "template": {"exec": {"command": ["sleep"]}}}
    item = msgspec.convert({"metadata": {"name": "x", "namespace": "ns", "uid": "u"}, "spec": spec}, ChildSet)
    wanted = known_set(item, None)
    entries = {f"x-{number}": Assignment(uid="u", epoch=1, workload=wanted.digest) for number in range(6)}
    halves = [{key: entries[key] for key in sorted(entries)[part::2]} for part in range(2)]

    def version(part: int, state: str) -> RegistrySlice:
        reports = {key: Report(uid="u", epoch=1, state=state) for key in halves[part]}
        return make_slice(halves[part], reports, name=f"hub.hub-0.{part}")

    slices = [known_slice(version(part, "Running")) for part in range(2)]
    members = {"hub-0": make_member("hub-0", *slices)}

    def look(distinct: int) -> tuple[object, ...]:
        registry, counts = registry_of(members, distinct)
        tally = tallies({"u": SeenSet(wanted)}, members, distinct)["u"]
        return registry, counts, tally.count(State.RUNNING), tally.failed, tally.former, tally.ending

    whole = look(-1)
    assert whole[1:4] == (Counter(Running=6), 4, [])
    assert whole[5] == {"x-4", "x-5"}
    assert look(6) == whole

    slices[1].update(version(1, "Failed"))
    changed = look(-1)
    assert changed[1:4] == (Counter(Running=3, Failed=3), 2, ["x-1", "x-3"])
    assert look(6) == changed


class Counted(dict[str, Assignment]):
    """Entries of a slice that was counted, and must not be counted again."""

    def items(self) -> Any:
        raise AssertionError("counted again")


def test_slices_are_not_counted_again_while_children_are_put_on_record() -> None:
    spec = {"hub": "hub", "ids": ["a"], "template": {"exec": {"command": ["sleep"]}}}
    item = msgspec.convert({"metadata": {"name": "x", "namespace": "ns", "uid": "u"}, "spec": spec}, ChildSet)
    sets = {"u": SeenSet(known_set(item, None))}
    slices = [
        known_slice(make_slice({child_id: Assignment(uid="u", epoch=1, workload="w")}, index=index))
        for index, child_id in enumerate("ab")
    ]

    def look() -> object:  # the round that has written "b" saw one on record
        members = {"hub-0": make_member("hub-0", *slices)}
        return registry_of(members, 1), tallies(sets, members, 1)["u"].former

    before = look()
    slices[0].assignments = Counted(slices[0].assignments)
    assert look() == before


def test_counts_follow_what_a_member_reports_in_slice_0_though_the_slice_of_the_entry_stays() -> None:
    entry = known_slice(make_slice({"a": Assignment(uid="u", epoch=1, workload="w")}, index=1, holder="x/1"))

    def running(state: str) -> tuple[int, str]:
        report = Report(uid="u", epoch=1, state=state, view=3)
        first = known_slice(make_slice({}, {"a": report}, holder="x/1"))
        (row,), counts = registry_of({"hub-0": make_member("hub-0", first, entry, holder="x/1")}, 1)
        return counts[State.RUNNING], row.nodes[0].state

    assert [running(state) for state in ("Starting", "Running", "Stopping")] == [
        (0, "Starting"),
        (1, "Running"),
        (0, "Stopping"),
    ]


def test_a_row_of_the_registry_follows_its_member_though_its_slice_stays() -> None:
    whole = member(0)
    pod = Pod(metadata=ObjectMeta(name="another"))
    rows = set()

    for seen in (
        whole,
        msgspec.structs.replace(whole, pod=pod),
        msgspec.structs.replace(whole, judgement=msgspec.structs.replace(whole.judgement, restarting=True)),
        msgspec.structs.replace(whole, judgement=msgspec.structs.replace(whole.judgement, phase=Phase.GONE)),
        msgspec.structs.replace(whole, lease=None),
    ):
        (row,), _ = registry_of({"hub-0": seen})
        (copy,) = copies_of("a", {"hub-0": seen})
        (node,) = row.nodes
        assert (node.state, node.pid) == (copy.state, 7 if copy.shown else 0)
        assert node.pod == (seen.pod.metadata.name if seen.pod else "")
        rows.add(node)

    assert len(rows) == 3, "Running, Pending, and Running in another pod"
