"""Quorums: the members that each strategy needs, what survives a change of leader, and plans without a quorum."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planned_hub import PlannedHub, child, children_of

from builders import make_hub, make_lease, make_member, make_slice
from processhub.api.hub import Hub, HubSpec, HubStatus, PartitionTolerance, Quorum
from processhub.api.kubernetes import Lease
from processhub.api.meta import Condition
from processhub.api.naming import ANNOTATION_QUORUM_RESET
from processhub.api.reasons import Reason
from processhub.api.slice import Settings
from processhub.controller.observe.members import Member
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.store.hubstate import HubState
from processhub.core.acceptance import refuse_hub
from processhub.core.model.membership import Judgement, Phase
from processhub.core.model.quorum import QuorumFacts, Verdict, quorum

STATIC = PartitionTolerance(strategy="StaticQuorum", quorum_size=2)
MAJORITY = PartitionTolerance(strategy="MajorityQuorum")
DYNAMIC = PartitionTolerance(strategy="DynamicQuorum")
QUORUMS = (STATIC, MAJORITY, DYNAMIC)


def judged(spec: PartitionTolerance, live: int, **facts: Any) -> Verdict:
    return quorum(spec, QuorumFacts(**{"live": live, "renewing": live, "recent": live, **facts}))


# the rule of each strategy


def test_divergence_needs_nothing() -> None:
    found = judged(PartitionTolerance(), 0, partitioned=True)

    assert (found.quorate, found.partitioned, found.required, found.reason) == (True, False, 0, "NotRequired")


@pytest.mark.parametrize(("live", "quorate"), [(3, True), (2, True), (1, False), (0, False)])
def test_a_static_quorum_is_the_configured_number(live: int, quorate: bool) -> None:
    found = judged(STATIC, live)

    assert (found.required, found.quorate, found.partitioned) == (2, quorate, not quorate)


@pytest.mark.parametrize(("largest", "required"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (10, 6)])
def test_a_majority_is_of_the_largest_number_of_live_members(largest: int, required: int) -> None:
    assert judged(MAJORITY, required, largest_seen=largest).quorate
    assert judged(MAJORITY, required, largest_seen=largest).required == required
    assert judged(MAJORITY, required - 1, largest_seen=largest).partitioned


def test_a_majority_grows_with_the_hub() -> None:
    assert judged(MAJORITY, 5, largest_seen=3).largest_seen == 5


@pytest.mark.parametrize(
    ("percent", "recent", "required"), [(50, 3, 2), (50, 4, 2), (100, 3, 3), (1, 3, 1), (34, 3, 2), (50, 0, 1)]
)
def test_a_dynamic_quorum_is_a_share_of_the_recently_live_members(percent: int, recent: int, required: int) -> None:
    spec = msgspec.structs.replace(DYNAMIC, quorum_percent=percent)

    assert judged(spec, required, recent=recent).required == required
    assert judged(spec, required, recent=recent).quorate
    assert not judged(spec, required - 1, recent=recent).quorate


@pytest.mark.parametrize("spec", [STATIC, msgspec.structs.replace(DYNAMIC, quorum_percent=100)])
def test_a_hub_that_is_still_forming_is_not_partitioned(spec: PartitionTolerance) -> None:
    found = judged(spec, 0, formed=False)

    assert (found.quorate, found.partitioned, found.reason) == (False, False, "Forming")


def test_the_message_has_the_live_and_the_required_members() -> None:
    assert judged(MAJORITY, 1, largest_seen=3).why == (
        "1 member is live, MajorityQuorum needs 2, more than half of the 3 that were live at most; "
        "all children are stopped until so many are live again"
    )
    assert judged(STATIC, 2).why == "2 members are live, StaticQuorum needs 2 (quorumSize)"


facts = st.builds(
    QuorumFacts,
    live=st.integers(0, 9),
    renewing=st.integers(0, 9),
    recent=st.integers(0, 9),
    largest_seen=st.integers(0, 9),
    at_least=st.integers(0, 9),
    partitioned=st.booleans(),
    formed=st.booleans(),
).filter(lambda facts: facts.renewing <= facts.live <= max(facts.recent, facts.live))


@given(spec=st.sampled_from(QUORUMS), facts=facts)
def test_every_verdict_is_consistent(spec: PartitionTolerance, facts: QuorumFacts) -> None:
    found = quorum(spec, facts)

    assert found.required >= 1
    assert found.quorate == (found.live >= found.required)
    assert not (found.quorate and found.partitioned)
    assert found.largest_seen >= facts.largest_seen
    if facts.partitioned:
        assert found.live == facts.renewing
        assert found.quorate or found.partitioned, "one that was partitioned is so until it has its quorum"
    if facts.formed and not found.quorate:
        assert found.partitioned
    if spec is MAJORITY and found.quorate:
        assert 2 * found.live > found.largest_seen


@given(spec=st.sampled_from(QUORUMS), facts=facts, more=st.integers(1, 5))
def test_another_live_member_never_costs_the_quorum(spec: PartitionTolerance, facts: QuorumFacts, more: int) -> None:
    grown = msgspec.structs.replace(
        facts, live=facts.live + more, renewing=facts.renewing + more, recent=max(facts.recent, facts.live) + more
    )
    if spec is MAJORITY:
        grown = msgspec.structs.replace(grown, largest_seen=max(facts.largest_seen, grown.live))

    if quorum(spec, facts).quorate and spec is STATIC:
        assert quorum(spec, grown).quorate
    if grown.renewing == grown.live == grown.recent == grown.largest_seen and not grown.at_least and spec is not STATIC:
        assert quorum(spec, grown).quorate, "all that ever were are live"


# what is accepted


@pytest.mark.parametrize(
    ("tolerance", "said"),
    [
        ({"strategy": "StaticQuorum"}, "StaticQuorum needs quorumSize, for example quorumSize: 2"),
        ({"strategy": "DynamicQuorum", "quorumPercent": 0}, "quorumPercent is 0; write 1 to 100"),
        ({"strategy": "DynamicQuorum", "quorumPercent": 101}, "quorumPercent is 101; write 1 to 100"),
        ({"strategy": "DynamicQuorum", "thresholdSeconds": 0}, "thresholdSeconds is 0; write 1 or more"),
    ],
)
def test_an_incomplete_quorum_is_rejected(tolerance: dict[str, Any], said: str) -> None:
    refusal = refuse_hub(msgspec.convert({"partitionTolerance": tolerance}, HubSpec))

    assert refusal is not None
    assert refusal.reason is Reason.INVALID
    assert said in refusal.message


@pytest.mark.parametrize("tolerance", QUORUMS)
def test_quorums_are_accepted_whatever_the_number_of_members(tolerance: PartitionTolerance) -> None:
    assert refuse_hub(HubSpec(partition_tolerance=tolerance)) is None


# from round to round


class Watched:
    """A hub of named members whose quorum is judged."""

    def __init__(self, tolerance: PartitionTolerance, *names: str, status: Quorum | None = None) -> None:
        self.hub = make_hub(spec=HubSpec(partition_tolerance=tolerance), status=HubStatus(quorum=status))
        self.state = HubState(self.hub.metadata.key)
        self.now = 0.0
        self.members = {name: self._member(name) for name in names}
        self.watch = QuorumWatch(self.hub, self.state)

    def _member(self, name: str, phase: Phase = Phase.LIVE, *, renewing: bool = True, wanted: bool = True) -> Member:
        self.state.put_lease(self._lease(name, "first"), self.now)
        if renewing:
            self.state.put_lease(self._lease(name, "second"), self.now)
        return make_member(name, phase=phase, wanted=wanted, lease=self.state.leases.of_member(name))

    def _lease(self, name: str, renewed: str) -> Lease:
        return make_lease(name, f"pod-{name}/1", renew_time=f"{renewed} at {self.now}")

    def set(self, name: str, phase: Phase = Phase.LIVE, **more: bool) -> None:
        self.members[name] = self._member(name, phase, **more)

    def partition_on_record(self) -> None:
        self.state.put_slice(make_slice(member="a", settings=Settings(partitioned=True)))

    def new_leader(self) -> None:
        for name, member in self.members.items():
            self.members[name] = msgspec.structs.replace(member, lease=None)
        self.state.leases.clear()
        for name, member in self.members.items():
            self.set(name, member.phase, renewing=False)
        self.watch = QuorumWatch(self.hub, self.state)

    def look(self, formed: bool = True, after: float = 0.0) -> Verdict:
        self.now += after
        return self.watch.look(self.hub, self.members, formed, self.now)


def test_a_lease_that_is_held_but_not_renewed_restores_no_quorum() -> None:
    hub = Watched(STATIC, "a", "b", "c")
    assert hub.look().quorate
    hub.set("b", Phase.GONE)
    hub.set("c", Phase.GONE)
    assert hub.look().partitioned

    hub.state.leases.clear()
    hub.set("b", renewing=False)  # the clocks of Leases started again: it may be dead as before
    assert hub.look().partitioned

    hub.set("b")
    assert hub.look().quorate


def test_a_member_that_has_restarted_counts_before_it_has_its_entries_again() -> None:
    """A roll-out deletes the pod of the next member as soon as this one is ready."""
    hub = Watched(STATIC, "a", "b", "c")
    assert hub.look().quorate
    hub.set("c", Phase.GONE)
    hub.set("b", Phase.HELD)
    assert hub.look().partitioned

    restarted = Judgement(Phase.GONE, False, False, None, "restarted", serving=True)
    hub.set("c")
    hub.members["c"] = msgspec.structs.replace(hub.members["c"], judgement=restarted)
    assert hub.look().quorate


def test_restarted_clocks_prove_nothing() -> None:
    hub = Watched(STATIC, "a", "b")

    hub.state.leases.restart_clocks(hub.now)

    lease = hub.state.leases.of_member("a")
    assert lease is not None
    assert not lease.renewing


def test_a_partitioned_hub_stays_partitioned_under_a_new_leader_until_members_renew() -> None:
    hub = Watched(STATIC, "a", "b", "c")
    hub.partition_on_record()

    hub.new_leader()
    found = hub.look()
    assert found.partitioned, "all Leases are held, but by whom is not known yet"
    assert found.live == 0

    hub.set("a")
    hub.set("b")
    assert hub.look().quorate


def test_a_hub_with_its_quorum_keeps_it_under_a_new_leader() -> None:
    hub = Watched(STATIC, "a", "b", "c")

    hub.new_leader()

    assert hub.look().quorate


def test_the_largest_number_of_live_members_is_recorded_for_the_next_leader() -> None:
    hub = Watched(MAJORITY, "a", "b", status=Quorum(required=3, live=2, largest_seen=5))

    found = hub.look()

    assert (found.required, found.partitioned, found.largest_seen) == (3, True, 5)


def test_a_dynamic_quorum_forgets_slow_losses_and_not_quick_ones() -> None:
    hub = Watched(DYNAMIC, "a", "b", "c", "d")
    hub.look()

    hub.set("d", Phase.GONE)
    assert hub.look(after=1).required == 2
    assert hub.look(after=40).required == 2  # half of three
    hub.set("c", Phase.GONE)
    assert hub.look(after=1).quorate
    hub.look(after=40)
    hub.set("b", Phase.GONE)
    found = hub.look(after=1)
    assert (found.live, found.required, found.quorate) == (1, 1, True)


def test_waiting_alone_restores_no_dynamic_quorum() -> None:
    hub = Watched(DYNAMIC, "a", "b", "c")
    hub.look()
    hub.set("b", Phase.GONE)
    hub.set("c", Phase.GONE)
    assert hub.look(after=1).partitioned

    assert hub.look(after=1000).partitioned

    hub.set("b")
    assert hub.look(after=1).quorate


def test_the_required_number_of_a_partitioned_hub_survives_a_new_leader() -> None:
    hub = Watched(DYNAMIC, "a", "b", status=Quorum(required=3, live=2, largest_seen=5))
    hub.partition_on_record()
    hub.new_leader()
    hub.set("a")
    hub.set("b")

    found = hub.look()

    assert (found.required, found.partitioned) == (3, True)


def test_a_member_that_was_scaled_down_did_not_fail() -> None:
    hub = Watched(msgspec.structs.replace(DYNAMIC, quorum_percent=100), "a", "b", "c")
    hub.look()

    hub.set("c", Phase.GONE, wanted=False)

    assert hub.look(after=1).quorate


@pytest.mark.parametrize("tolerance", [MAJORITY, DYNAMIC])
def test_after_a_reset_the_live_members_are_the_whole_hub(tolerance: PartitionTolerance) -> None:
    hub = Watched(tolerance, *"abcde")
    hub.look()
    for name in "bcde":
        hub.set(name, Phase.GONE)
    assert hub.look(after=1).partitioned

    annotations = {ANNOTATION_QUORUM_RESET: "now"}
    hub.hub = msgspec.structs.replace(
        hub.hub, metadata=msgspec.structs.replace(hub.hub.metadata, annotations=annotations)
    )
    found = hub.look(after=1)

    assert (found.quorate, found.largest_seen, found.required) == (True, 1, 1)
    assert not hub.watch.reset_done(hub.hub), "the outcome is not on record yet"
    status = HubStatus(quorum=Quorum(required=1, live=1, largest_seen=1))
    assert hub.watch.reset_done(msgspec.structs.replace(hub.hub, status=status))
    hub.set("b")
    assert hub.look(after=1).largest_seen == 2, "an order is carried out once"


def test_the_status_of_a_hub_shows_whether_it_is_partitioned() -> None:
    def hub(status: str, reason: str) -> Hub:
        condition = Condition(type="Quorate", status=status, reason=reason, message="too few")
        return make_hub(status=HubStatus(conditions=(condition,)))

    assert hub("False", "Partitioned").partitioned == "too few"
    assert hub("False", "Forming").partitioned == ""
    assert hub("True", "Quorate").partitioned == ""
    assert make_hub().partitioned == ""


# what is planned without a quorum


def test_without_a_quorum_no_child_starts_and_all_stay_recorded() -> None:
    hub = PlannedHub()
    hub.want(children_of(30))
    hub.rest()
    before, record = hub.where(), {id_: dict(places) for id_, places in hub.record.items()}

    hub.change("hub-1", phase=Phase.GONE)
    hub.change("hub-2", phase=Phase.GONE)
    hub.partitioned = "1 of 3"
    hub.want([child("new")])
    planned = hub.step()

    assert planned.empty
    assert hub.where() == {}
    assert hub.record == record
    assert set(planned.unplaced) == set(hub.children)
    assert planned.unplaced["new"].reason is Reason.PARTITIONED
    assert planned.unplaced["new"].message == "the hub has lost its quorum: 1 of 3"

    hub.change("hub-1", phase=Phase.LIVE)
    hub.change("hub-2", phase=Phase.LIVE)
    hub.partitioned = ""
    hub.rest()
    after = hub.where()
    assert {id_: after[id_] for id_ in before} == before
    assert "new" in after


def test_when_the_quorum_returns_the_children_of_a_lost_member_run_elsewhere() -> None:
    hub = PlannedHub()
    hub.want(children_of(30))
    hub.rest()
    hub.change("hub-1", phase=Phase.GONE)
    hub.change("hub-2", phase=Phase.GONE)
    hub.partitioned = "1 of 3"
    hub.rest()

    hub.change("hub-1", phase=Phase.LIVE)
    hub.partitioned = ""
    hub.rest()

    assert set(hub.where()) == set(hub.children)
    assert set(hub.where().values()) == {"hub-0", "hub-1"}


def test_unwanted_children_are_removed_from_the_record_without_a_quorum_too() -> None:
    hub = PlannedHub()
    hub.want(children_of(3))
    hub.rest()
    hub.partitioned = "1 of 3"
    del hub.children["tenant/0"]
    hub.want([child("tenant/1", uid="another")])

    hub.step()

    assert {id_ for id_, places in hub.record.items() if places} == {"tenant/2"}
    hub.partitioned = ""
    hub.rest()
    assert set(hub.where()) == {"tenant/1", "tenant/2"}
