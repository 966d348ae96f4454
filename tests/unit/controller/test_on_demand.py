"""Children on demand in the operator: which there are, as what, how many, and when each is to end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from a_round import a_round
from observing import observed_by

from builders import make_child, make_hub, make_member, make_slice
from processhub.api.child import ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import HubSpec
from processhub.api.meta import find_condition
from processhub.api.reasons import Reason, State
from processhub.cluster.timestamps import utc_now
from processhub.controller.observe.facts import learn
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation
from processhub.controller.report.hub import hub_status
from processhub.controller.report.hubprogress import Work
from processhub.controller.store.hubstate import HubState
from processhub.core.acceptance import refuse_hub
from processhub.core.model.plan import Plan
from processhub.registry.grammar import Assignment, Report, format_assignment, is_on_demand, parse_assignment
from processhub.registry.workloads import encode_workload

CACHE = {"python": {"target": "m:Cache"}}
CRASH = {"exec": {"command": ["false"]}}
NOW = "2026-01-01T00:00:00.000Z"


def digest_of(template: dict[str, Any]) -> str:
    return encode_workload(msgspec.convert(template, ChildSpec))[0]


class Demanded:
    """A hub with one member, and what is on record there, reported and asked for."""

    def __init__(self, template: dict[str, Any] | None = None, **spec: Any) -> None:
        self.state, self.memory = HubState(("ns", "hub")), ObserveMemory(1)
        self.hub = make_hub(spec={"onDemand": template or CACHE, **spec}, uid="h")
        self.entries: dict[str, Assignment] = {}
        self.reports: dict[str, Report] = {}
        self.asks: tuple[str, ...] = ()
        self.again_in: float | None = None
        self.term = 1  # the leader's

    def has(self, child_id: str, state: str = State.RUNNING, epoch: int = 1, **more: Any) -> None:
        """Put a child on record, and have its member report it."""
        entry = {name: more.pop(name) for name in ("restart_policy", "wait", "uid", "origin") if name in more}
        workload = more.pop("workload", digest_of(CACHE))
        self.entries[child_id] = Assignment(
            **{"uid": "h", "epoch": epoch, "workload": workload, "on_demand": True, **entry}
        )
        uid = self.entries[child_id].uid
        self.reports[child_id] = Report(**{"uid": uid, "epoch": epoch, "state": state, "started_at": NOW, **more})

    def look(self, now: float = 0.0) -> Observation:
        item = make_slice(self.entries, self.reports, holder="p/1")
        status = msgspec.structs.replace(item.status, asks=self.asks)
        self.state.slices.put(msgspec.structs.replace(item, status=status))
        member = make_member("hub-0", self.state.slices[item.metadata.name], holder="p/1")
        round = a_round(self.hub, self.state, now=lambda: now, term=self.term)
        found = observed_by(learn(round, self.memory, {"hub-0": member}))
        self.again_in = round.requeue.after
        return found

    def wanted(self, now: float = 0.0) -> set[str]:
        return set(self.look(now).snapshot.children)


def test_what_is_on_record_under_the_hubs_uid_is_wanted_with_the_hubs_workload() -> None:
    site = Demanded({**CACHE, "idleSeconds": 60})
    site.has("a")
    site.has("other", uid="somebody")

    found = site.look()

    assert set(found.snapshot.children) == {"a"}
    wanted = found.snapshot.children["a"]
    assert (wanted.uid, wanted.workload, wanted.on_demand, wanted.idle_seconds) == ("h", digest_of(CACHE), True, 60)
    assert found.owner("a", "h") is site.hub


def test_what_a_deposed_leader_has_created_late_is_on_no_record() -> None:
    site = Demanded()
    site.has("a")
    site.term = 2

    found = site.look()

    assert not found.snapshot.record
    assert not found.snapshot.children


def test_an_edit_that_changes_only_the_kind_of_a_value_is_a_new_template() -> None:
    site = Demanded({"python": {"target": "m:C", "args": {"flag": 1}}})
    site.has("a", workload=digest_of({"python": {"target": "m:C", "args": {"flag": 1}}}))
    site.look()

    site.hub = make_hub(spec={"onDemand": {"python": {"target": "m:C", "args": {"flag": True}}}}, uid="h")
    demand = site.look().demand(site.hub)

    assert demand is not None
    assert demand.known.digest == digest_of({"python": {"target": "m:C", "args": {"flag": True}}})


def test_an_ask_is_placed_from_the_member_that_was_asked() -> None:
    site = Demanded(distribution={"strategy": "Local"})
    site.asks = ("new", "line\nbreak", "x" * 254)

    assert site.wanted() == {"new"}, "no Child could have another id"
    assert site.look().snapshot.children["new"].origin == "hub-0"

    site.asks = ()
    assert site.wanted() == set(), "nobody waits for it any more"


def test_a_later_leader_places_by_the_member_that_was_asked_first() -> None:
    site = Demanded(distribution={"strategy": "NotLocal"})
    site.asks = ("a",)
    entry = site.look().snapshot.children["a"].entry(1)

    later = Demanded(distribution={"strategy": "NotLocal"})
    later.has("a", origin=parse_assignment(format_assignment(entry)).origin)

    assert later.look().snapshot.children["a"].origin == "hub-0"


def test_an_ask_makes_no_more_than_the_hub_may_have_and_starts_nothing_that_is_declared() -> None:
    site = Demanded({**CACHE, "max": 3}, distribution={"strategy": "LeastLoaded"})
    site.has("a")
    site.state.put_child(make_child("declared", {"exec": {"command": ["x"]}}, uid="c", generation=1))
    site.asks = ("b", "c", "d", "declared")

    found = site.look()

    assert set(found.snapshot.children) == {"a", "b", "c", "declared"}
    assert found.snapshot.children["declared"].uid == "c"


def test_what_still_ends_counts_for_max_until_its_member_reports_its_end() -> None:
    site = Demanded({**CACHE, "max": 2}, distribution={"strategy": "LeastLoaded"})
    site.has("a")
    site.has("ends", state=State.STOPPING)
    del site.entries["ends"]
    site.asks = ("b",)

    assert site.wanted() == {"a"}

    del site.reports["ends"]
    assert site.wanted() == {"a", "b"}


def test_a_suspended_hub_starts_nothing_for_requests() -> None:
    site = Demanded(suspend=True)
    site.has("a")
    site.asks = ("b",)

    found = site.look()

    assert {child_id: child.suspended for child_id, child in found.snapshot.children.items()} == {"a": True}


def test_a_declared_child_has_the_id_before_what_a_request_started() -> None:
    site = Demanded()
    site.has("a")
    site.has("b")
    site.state.put_child(make_child("a", {"exec": {"command": ["x"]}}, uid="c", generation=1))
    spec = {"hub": "hub", "ids": ["b"], "template": {"exec": {"command": ["x"]}}}
    metadata = {"name": "set", "namespace": "ns", "uid": "s", "generation": 1}
    site.state.sets.put(msgspec.convert({"metadata": metadata, "spec": spec}, ChildSet))

    found = site.look()

    assert {child_id: child.uid for child_id, child in found.snapshot.children.items()} == {"a": "c", "b": "s"}


def test_a_declared_child_that_is_not_accepted_leaves_what_runs() -> None:
    site = Demanded()
    site.has("a")
    site.state.put_child(make_child("a", {"exec": {"command": ["x"]}, "nodes": ["hub-0"]}, uid="c", generation=1))

    found = site.look()

    assert found.snapshot.children["a"].uid == "h"
    assert found.owner("a", "h") is site.hub


@pytest.mark.parametrize(
    ("report", "ends"),
    [
        ({}, False),
        ({"state": State.STOPPED, "reason": Reason.IDLE}, True),
        ({"state": State.FAILED, "restart_policy": "Temporary"}, True),
        ({"state": State.STOPPED, "reason": Reason.COMPLETED, "restart_policy": "Temporary"}, True),
        ({"state": State.STOPPED, "reason": Reason.COMPLETED, "restart_policy": "Transient"}, True),
        ({"state": State.FAILED, "restart_policy": "Transient"}, False),
        ({"state": State.FAILED}, False),
        ({"state": State.STOPPED, "restart_policy": "Temporary", "uid": "somebody"}, False),
    ],
)
def test_a_child_ends_when_it_is_idle_or_its_policy_starts_it_no_more(report: dict[str, Any], ends: bool) -> None:
    site = Demanded()
    site.has("a", **report)
    site.has("b")

    assert ("a" not in site.wanted()) is (ends or report.get("uid") == "somebody")
    assert "b" in site.wanted()


def test_an_end_that_an_earlier_run_reported_ends_nothing() -> None:
    site = Demanded()
    site.has("a", State.STOPPED, epoch=7, reason=Reason.IDLE)
    site.entries["a"] = msgspec.structs.replace(site.entries["a"], epoch=8)

    assert site.wanted() == {"a"}


def test_its_time_counts_from_its_first_start_over_restarts() -> None:
    site = Demanded({**CACHE, "ttlSeconds": 100})
    site.has("a", started_at=utc_now().isoformat())

    assert site.wanted(1000.0) == {"a"}
    assert site.again_in == pytest.approx(100, abs=1)
    site.has("a", epoch=2, started_at=utc_now().isoformat())
    assert site.wanted(1098.0) == {"a"}
    assert site.wanted(1100.5) == set()


def test_a_members_wrong_clock_does_not_end_what_it_has_just_started() -> None:
    site = Demanded({**CACHE, "ttlSeconds": 100})
    assert site.wanted(1000.0) == set()

    for number in (1, 2):
        site.has("a", epoch=number, started_at=(utc_now() - timedelta(hours=1)).isoformat())
        assert site.wanted(1000.0 + number) == {"a"}
    assert site.wanted(1100.0) == {"a"}
    assert site.wanted(1101.5) == set()


@pytest.mark.parametrize("started_at", ["yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:60Z"])
def test_a_report_with_a_time_that_is_none_ends_no_round(started_at: str) -> None:
    site = Demanded({**CACHE, "ttlSeconds": 100})
    site.has("a", started_at=started_at)
    site.has("b", State.PENDING, started_at="")

    assert site.wanted(1000.0) == {"a", "b"}
    assert site.wanted(1101.0) == set()


def test_one_that_never_starts_has_its_time_from_when_it_was_seen_on_record() -> None:
    site = Demanded({**CACHE, "ttlSeconds": 100})
    site.has("a", State.PENDING, started_at="")

    assert site.wanted(1000.0) == {"a"}
    assert site.wanted(1101.0) == set()


def test_an_order_stops_the_run_that_it_names_and_no_later_one() -> None:
    site = Demanded()
    site.has("a", epoch=7)
    site.has("b", epoch=7)
    site.hub = make_hub(
        spec={"onDemand": CACHE}, uid="h", annotations={"processhub.dev/stop": '{"a": 7, "b": 6, "c": 1}'}
    )

    assert site.wanted() == {"b"}


class Rolled(Demanded):
    """A hub with 20 children on demand that run on one member."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(20):
            self.has(f"c{number:02}")

    def roll(self, template: dict[str, Any], now: float = 0.0) -> Observation:
        """Observe the hub with this template, and restart those whose turn it is: they fail if it is CRASH."""
        self.hub = make_hub(spec={"onDemand": template}, uid="h")
        found = self.look(now)
        fails = {"reason": "Exited", "last_exit": "exit code 1", "restarts": 1} if template == CRASH else {}
        for child_id, child in found.snapshot.children.items():
            entry = self.entries.get(child_id)
            if entry is not None and child.workload != entry.workload:
                state = State.FAILED if fails else State.RUNNING
                self.has(child_id, state, entry.epoch + 1, workload=child.workload, **fails)
        return found

    def with_template(self, template: dict[str, Any]) -> int:
        return sum(entry.workload == digest_of(template) for entry in self.entries.values())


def test_a_template_that_fails_stops_its_roll_out_and_the_hub_says_so() -> None:
    site = Rolled()
    for second in range(10):
        found = site.roll(CRASH, second)

    assert site.with_template(CRASH) == 2, "10 % of 20"
    nothing = Plan(entries={}, unplaced={}, next_epoch=1)
    stalled = find_condition(hub_status(site.hub, Work(found, nothing), "2026-01-01T00:00:00Z").conditions, "Stalled")
    assert stalled is not None
    assert (stalled.reason, stalled.message) == (
        "RolloutStopped",
        "2 children on demand fail with the changed spec.onDemand (maxFailed 10%): c00 (Exited, exit code 1), c01"
        " (Exited, exit code 1); 18 run on with the former one; edit spec.onDemand",
    )


def test_a_template_that_runs_reaches_all_as_its_children_are_proven() -> None:
    site, better = Rolled(), {"exec": {"command": ["cache"]}, "maxFailed": 5, "minReadySeconds": 3}
    reached = []
    for _ in range(8):
        site.roll(better, now=len(reached) * 1.5)
        reached.append(site.with_template(better))

    assert reached == [5, 5, 5, 10, 10, 10, 15, 15]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"distribution": {"strategy": "Guided"}}, "a Guided hub places a child where its spec.nodes say"),
        (
            {"onDemand": {**CACHE, "onOwnerLost": "Local"}, "partitionTolerance": {"strategy": "MajorityQuorum"}},
            "onOwnerLost Local needs partitionTolerance.strategy Divergence",
        ),
        ({"onDemand": {"pod": {"template": {}}}}, "spec.onDemand.pod.template has no spec.containers"),
    ],
)
def test_templates_that_could_never_start_are_rejected_on_the_hub(spec: dict[str, Any], words: str) -> None:
    refusal = refuse_hub(msgspec.convert({"onDemand": CACHE, **spec}, HubSpec))

    assert refusal is not None
    assert words in refusal.message
    assert refuse_hub(msgspec.convert({"onDemand": CACHE}, HubSpec)) is None


def test_members_can_count_them_without_parsing() -> None:
    entry = Assignment(uid="u", epoch=1, workload="w", on_demand=True, tags=("demand", "a demand"))

    assert is_on_demand(format_assignment(entry))
    assert not is_on_demand(format_assignment(msgspec.structs.replace(entry, on_demand=False)))
