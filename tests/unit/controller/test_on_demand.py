"""On-demand children in the operator: their workload, their maximum number, and when their time starts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from observing import observed

from builders import make_child, make_hub
from processhub.api.child import Child, ChildSpec, ChildStatus
from processhub.api.hub import Hub, HubSpec
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation
from processhub.controller.report.firststart import first_started
from processhub.controller.report.memory import ReportMemory
from processhub.controller.store.hubstate import HubState
from processhub.core.acceptance import refuse_child, refuse_hub
from processhub.registry.grammar import Assignment, format_assignment, is_on_demand
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
