"""Children that a member started because it could not reach their owner: when the planner records them there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from planned_hub import PlannedHub, child

from processhub.api.hub import HubSpec
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import Claim


def spec(how: str = "Local") -> HubSpec:
    return msgspec.convert({"onDemand": {"python": {"target": "m:C"}, "onOwnerLost": how}}, HubSpec)


class ClaimedHub(PlannedHub):
    """A hub with one on-demand child, "a"."""

    def __init__(self, of: HubSpec | None = None, **fields: Any) -> None:
        super().__init__(3, of or spec())
        self.want([child("a", **{"on_demand": True, **fields})])
        self.rest()
        self.owner = self.where()["a"]
        self.other = next(name for name in sorted(self.members) if name != self.owner)

    def claimed(self, member: str = "", **words: Any) -> Plan:
        """Return the plan after the other member (or this one) reports that it runs the child, in this form."""
        claim = Claim(member or self.other, words.get("uid", "uid-a"), words.get("epoch", self.epoch("a")))
        return self.plan(claims={"a": claim})


@pytest.mark.parametrize("phase", [Phase.LIVE, Phase.HELD, Phase.GONE])
def test_a_claimed_child_is_recorded_with_a_newer_epoch_and_keeps_running(phase: Phase) -> None:
    hub = ClaimedHub()
    before = hub.epoch("a")
    hub.change(hub.owner, phase=phase)

    planned = hub.claimed()

    entry = planned.entries[hub.other]["a"]
    assert entry is not None
    assert (entry.epoch > before, entry.run, entry.wait) == (True, before, False)
    assert planned.entries[hub.owner]["a"] is None
    (move,) = planned.moves
    assert (move.source, move.target, move.lost) == (hub.owner, hub.other, True)
    assert move.why == f"{hub.other} was asked for it and could not reach {hub.owner}"


def test_a_claimed_child_that_was_edited_meanwhile_restarts_where_it_was_started() -> None:
    hub = ClaimedHub()
    hub.want([child("a", on_demand=True, workload="other")])

    entry = hub.claimed().entries[hub.other]["a"]

    assert entry is not None
    assert (entry.run, entry.workload) == (0, "other")


@pytest.mark.parametrize(
    "words", [{"epoch": 1}, {"uid": "uid-of-another"}, {"member": "hub-9"}], ids=["stale", "other uid", "no member"]
)
def test_a_claim_that_does_not_match_the_record_changes_nothing(words: dict[str, Any]) -> None:
    hub = ClaimedHub()

    assert hub.claimed(**words).empty


@pytest.mark.parametrize(
    ("of", "fields"),
    [(spec("Wait"), {}), (spec(), {"on_demand": False}), (spec(), {"pinned": True})],
    ids=["Wait", "not on demand", "pinned"],
)
def test_only_claims_of_on_demand_children_of_a_hub_that_allows_them_are_followed(
    of: HubSpec, fields: dict[str, Any]
) -> None:
    hub = ClaimedHub(of, **fields)

    assert hub.claimed().empty


def test_a_drained_member_gets_no_claimed_child() -> None:
    hub = ClaimedHub()
    hub.change(hub.other, draining=True)

    assert "a" not in hub.claimed().entries.get(hub.other, {})
