"""Objects that declare a child which a request has started: it is theirs from then on (docs/protocol.md, rule 31)."""

from __future__ import annotations

from typing import Any

import pytest
from planned_hub import child, hub_spec

from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import HubSnapshot, MemberView, OnRecord
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment

COPIES = {"strategy": "Replication", "replicationFactor": 2}


def on_demand(epoch: int = 50, **fields: Any) -> Assignment:
    return Assignment(**{"uid": "h", "workload": "w", "on_demand": True, **fields}, epoch=epoch)


def planned(*places: OnRecord, redundancy: dict[str, Any] | None = None, **wanted: Any) -> Plan:
    """The plan for a declared child "a" with this record."""
    return plan(
        HubSnapshot(
            spec=hub_spec(redundancy=redundancy),
            members=(MemberView(name="m0"), MemberView(name="m1")),
            children={"a": child("a", **wanted)},
            record={"a": places},
            next_epoch=200,
        )
    )


def test_a_child_that_a_request_started_runs_on_under_the_object_that_declares_it() -> None:
    found = planned(OnRecord("m0", on_demand()), tags=("x",))

    assert found.entries == {"m0": {"a": Assignment(uid="uid-a", epoch=200, workload="w", run=50, tags=("x",))}}


def test_with_another_workload_it_is_restarted_where_it_is() -> None:
    found = planned(OnRecord("m0", on_demand()), workload="other")

    assert found.entries == {"m0": {"a": Assignment(uid="uid-a", epoch=200, workload="other")}}


def test_a_suspended_child_keeps_the_place_of_what_a_request_started() -> None:
    found = planned(OnRecord("m0", on_demand()), suspended=True)

    asleep = Assignment(uid="uid-a", epoch=200, workload="w", wait=True, asleep=True)
    assert found.entries == {"m0": {"a": asleep}}


def test_each_copy_is_taken_over() -> None:
    copies = OnRecord("m0", on_demand()), OnRecord("m1", on_demand(51))
    found = planned(*copies, redundancy=COPIES)

    assert {name: changes["a"].run for name, changes in found.entries.items() if changes["a"]} == {"m0": 50, "m1": 51}


@pytest.mark.parametrize(
    "places",
    [
        (OnRecord("m0", on_demand(wait=True)),),
        (OnRecord("m0", on_demand(to="m1:60")), OnRecord("m1", on_demand(60, wait=True))),
        (OnRecord("m0", on_demand(on_demand=False)),),
    ],
    ids=["about to start", "moves", "of another object"],
)
def test_what_is_under_way_or_another_objects_ends_first(places: tuple[OnRecord, ...]) -> None:
    found = planned(*places)

    assert found.entries == {place.member: {"a": None} for place in places}
    assert "still stopping" in found.unplaced["a"].message
