"""On-demand children in the operator: their workload, their maximum number, and when their time starts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from observing import observed

from builders import make_child, make_hub, make_member, make_slice
from processhub.api.child import Child, ChildSpec, ChildStatus
from processhub.api.hub import Hub, HubSpec
from processhub.api.meta import find_condition
from processhub.api.reasons import State
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation
from processhub.controller.report.firststart import first_started
from processhub.controller.report.hub import hub_status
from processhub.controller.report.memory import ReportMemory
from processhub.controller.store.hubstate import HubState
from processhub.core.acceptance import refuse_child, refuse_hub
from processhub.core.model.plan import Plan
from processhub.registry.grammar import Assignment, Report, format_assignment, is_on_demand
from processhub.registry.workloads import encode_workload

CACHE = {"python": {"target": "m:Cache"}}


def hub(**spec: Any) -> Hub:
    return make_hub(spec=spec)


def demanded(name: str, *, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Child:
    spec = {"onDemand": True, **spec}
    return make_child(name, spec, uid=f"uid-{name}", generation=1, creation_timestamp=created)


def seen(of: Hub, *children: Child, state: HubState | None = None) -> Observation:
    state = state or HubState(("ns", "hub"))
    for child in children:
        state.put_child(child)
    return observed(of, state, {}, ObserveMemory(1))


def test_an_on_demand_child_has_the_hubs_workload_and_follows_its_edits() -> None:
    state = HubState(("ns", "hub"))
    wanted = seen(hub(onDemand=CACHE), demanded("a"), state=state).snapshot.children["a"]
    digest, _ = encode_workload(msgspec.convert(CACHE, ChildSpec))
    assert (wanted.workload, wanted.on_demand) == (digest, True)

    other = {"exec": {"command": ["cache"]}, "idleSeconds": 60}
    wanted = seen(hub(onDemand=other), state=state).snapshot.children["a"]
    digest, text = encode_workload(msgspec.convert({"exec": {"command": ["cache"]}}, ChildSpec))
    assert (wanted.workload, wanted.idle_seconds) == (digest, 60)
    assert state.children["a"].workload == text
    assert state.children.expiring == {"a"}


CRASH = {"exec": {"command": ["false"]}}


def digest_of(template: dict[str, Any]) -> str:
    return encode_workload(msgspec.convert(template, ChildSpec))[0]


class Rolled:
    """A hub with 20 children on demand that run on one member."""

    def __init__(self) -> None:
        self.state, self.memory = HubState(("ns", "hub")), ObserveMemory(1)
        self.ids = [f"c{number:02}" for number in range(20)]
        self.runs = {child_id: (digest_of(CACHE), 1, State.RUNNING) for child_id in self.ids}
        for child_id in self.ids:
            self.state.put_child(demanded(child_id))

    def look(self, template: dict[str, Any], now: float = 0.0) -> Observation:
        """Observe the hub with this template, and restart those whose turn it is: they fail if it is CRASH."""
        entries, reports = {}, {}
        for child_id, (workload, epoch, state) in self.runs.items():
            uid, failed = f"uid-{child_id}", state == State.FAILED
            exits = {"reason": "Exited", "last_exit": "exit code 1", "restarts": 1} if failed else {}
            entries[child_id] = Assignment(uid=uid, epoch=epoch, workload=workload)
            reports[child_id] = Report(uid=uid, epoch=epoch, state=state, **exits)
        member = make_member("hub-0", make_slice(entries, reports, holder="p/1"), holder="p/1")
        self.hub = hub(onDemand=template)
        found = observed(self.hub, self.state, {"hub-0": member}, self.memory, now)
        for child_id, child in found.snapshot.children.items():
            workload, epoch, _ = self.runs.get(child_id, ("", 0, ""))
            if child.workload != workload:
                state = State.FAILED if template["exec"] == CRASH["exec"] else State.RUNNING
                self.runs[child_id] = (child.workload, epoch + 1, state)
        return found

    def with_template(self, template: dict[str, Any]) -> int:
        return sum(workload == digest_of(template) for workload, _, _ in self.runs.values())


def test_a_template_that_fails_stops_its_roll_out_and_the_hub_says_so() -> None:
    site = Rolled()
    for second in range(10):
        found = site.look(CRASH, second)

    assert site.with_template(CRASH) == 2, "10 % of 20"
    nothing = Plan(entries={}, unplaced={}, next_epoch=1)
    stalled = find_condition(hub_status(site.hub, found, nothing, "2026-01-01T00:00:00Z").conditions, "Stalled")
    assert stalled is not None
    assert (stalled.reason, stalled.message) == (
        "RolloutStopped",
        "2 children on demand fail with the changed spec.onDemand (maxFailed 10%): c00 (Exited, exit code 1), c01"
        " (Exited, exit code 1); 18 run on with the former one; edit spec.onDemand",
    )

    site.state.put_child(demanded("new"))
    assert site.look(CRASH, 10).snapshot.children["new"].workload == digest_of(CRASH), "one that is new has no former"


def test_a_template_that_runs_reaches_all_as_its_children_are_proven() -> None:
    site, better = Rolled(), {"exec": {"command": ["cache"]}, "maxFailed": 5, "minReadySeconds": 3}
    reached = []
    for _ in range(8):
        site.look(better, now=len(reached) * 1.5)
        reached.append(site.with_template(better))

    assert reached == [5, 5, 5, 10, 10, 10, 15, 15]


def test_its_own_lifetimes_override_the_templates() -> None:
    state = HubState(("ns", "hub"))
    seen(hub(onDemand={**CACHE, "ttlSeconds": 5}), demanded("a"), demanded("b", ttlSeconds=9), state=state)

    assert [state.children[name].spec.ttl_seconds for name in "ab"] == [5, 9]


def test_without_a_template_it_is_rejected_with_what_to_write() -> None:
    refusal = seen(hub(), demanded("a")).refusals["a"]

    assert refusal.message.startswith("spec.onDemand is true, but the hub has no spec.onDemand")


def test_over_the_limit_the_latest_children_wait_and_none_is_stopped() -> None:
    early, late, latest = (demanded(name, created=f"2026-01-01T00:00:0{second}Z") for second, name in enumerate("abc"))
    limited = hub(onDemand={**CACHE, "max": 2})
    found = seen(limited, latest, late, early)

    assert set(found.snapshot.children) == {"a", "b"}
    assert found.refusals["c"].reason == "CapacityExceeded"
    assert "spec.onDemand.max" in found.refusals["c"].message


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


def test_a_child_of_a_template_is_accepted() -> None:
    assert refuse_child(demanded("a").spec, msgspec.convert({"onDemand": CACHE}, HubSpec)) is None


def test_members_can_count_them_without_parsing() -> None:
    entry = Assignment(uid="u", epoch=1, workload="w", on_demand=True, tags=("demand", "a demand"))

    assert is_on_demand(format_assignment(entry))
    assert not is_on_demand(format_assignment(msgspec.structs.replace(entry, on_demand=False)))


def test_the_first_start_is_read_from_the_status() -> None:
    memory = ReportMemory()
    fresh = demanded("a")
    assert first_started(fresh, [], memory) == "", "it has not run yet"

    known = msgspec.structs.replace(fresh, status=ChildStatus(first_started_at="2026-01-01T00:00:00.250Z"))
    memory.first_started["uid-a"] = "2026-01-02T00:00:00.000Z"
    assert first_started(known, [], memory) == "2026-01-01T00:00:00.250Z"
    assert memory.first_started == {}
