"""When a member is live, held or gone: by its Lease, the end of its container and the signs of a restart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.core.model.membership import LEASE_GRACE_SECONDS, Judgement, MemberFacts, Phase, judge

LIMIT = 15 + LEASE_GRACE_SECONDS


def of(**facts: Any) -> Judgement:
    return judge(MemberFacts(**{"holder": "pod-a/n1", "pod_uid": "pod-a", **facts}))


def test_a_member_is_live_until_its_lease_would_expire() -> None:
    judged = of(unrenewed_seconds=4.0)

    assert judged.phase is Phase.LIVE
    assert judged.recheck_seconds == LIMIT - 4.0


def test_a_member_whose_lease_expired_without_a_restart_is_lost_at_once() -> None:
    assert of(unrenewed_seconds=LIMIT - 0.01).phase is Phase.LIVE
    assert of(unrenewed_seconds=LIMIT, holds=True, hold_seconds=3600).phase is Phase.GONE


def test_the_duration_in_the_lease_counts() -> None:
    assert of(unrenewed_seconds=20.0, lease_seconds=60).phase is Phase.LIVE
    assert of(unrenewed_seconds=61.0, lease_seconds=60).phase is Phase.GONE


@pytest.mark.parametrize(
    "facts",
    [
        {"pod_uid": "", "holder": "pod-a/n1"},
        {"pod_uid": "pod-b"},
        {"pod_deleting": True},
        {"node_ready": False, "pod_deleting": True},
    ],
    ids=["no pod object", "replaced pod", "terminating", "terminating on a dead node"],
)
def test_a_missing_or_terminating_pod_proves_nothing_while_the_lease_is_valid(facts: dict[str, Any]) -> None:
    judged = of(**facts)

    assert judged.phase is Phase.HELD
    assert judged.recheck_seconds == LIMIT


@pytest.mark.parametrize(
    "facts",
    [
        {"holder": ""},
        {"holder_terminated": True},
        {"unrenewed_seconds": LIMIT, "pod_uid": "pod-b"},
        {"unrenewed_seconds": LIMIT, "pod_deleting": True},
    ],
    ids=["released", "container ended", "ran out and replaced", "ran out and terminating"],
)
def test_a_restart_on_a_ready_node_is_held_for_hold_seconds_and_then_lost(facts: dict[str, Any]) -> None:
    seen_now = of(**facts)
    later = of(**facts, restarting_seconds=29.0)
    over = of(**facts, restarting_seconds=30.0)

    assert (seen_now.phase, seen_now.restarting, seen_now.recheck_seconds) == (Phase.HELD, True, 30.0)
    assert (later.phase, later.recheck_seconds) == (Phase.HELD, 1.0)
    assert (over.phase, over.restarting) == (Phase.GONE, False)


@pytest.mark.parametrize(
    "why_not",
    [{"holds": False}, {"hold_seconds": 0}, {"node_ready": False}, {"ordered_away": True}],
    ids=["Move", "holdSeconds 0", "node not ready", "drained"],
)
def test_without_hold_a_restart_is_a_loss(why_not: dict[str, Any]) -> None:
    assert of(holder_terminated=True, **why_not).phase is Phase.GONE


@pytest.mark.parametrize(
    "facts",
    [
        {"ordered_away": True},
        {"pod_deleting": True, "pod_disrupted": True},
        {"pod_deleting": True, "node_unschedulable": True},
    ],
    ids=["ordered", "evicted", "cordoned node"],
)
def test_a_member_that_leaves_for_good_is_drained(facts: dict[str, Any]) -> None:
    assert of(**facts).draining


@pytest.mark.parametrize("facts", [{"pod_deleting": True}, {"node_unschedulable": True}, {"pod_disrupted": True}])
def test_a_member_that_only_restarts_is_not_drained(facts: dict[str, Any]) -> None:
    assert not of(**facts).draining


def test_a_drained_member_with_a_valid_lease_is_not_gone() -> None:
    assert of(ordered_away=True).phase is Phase.LIVE
    assert of(pod_deleting=True, pod_disrupted=True).phase is Phase.HELD


def test_a_new_holder_of_entries_granted_to_an_earlier_one_shows_a_restart() -> None:
    restarted = of(holder="pod-a/n2", granted_to="pod-a/n1")
    same = of(holder="pod-a/n1", granted_to="pod-a/n1")
    any_holder = of(holder="pod-a/n2", granted_to="")

    assert (restarted.phase, restarted.why) == (Phase.GONE, "restarted")
    assert restarted.serving
    assert same.phase is Phase.LIVE
    assert any_holder.phase is Phase.LIVE


def test_a_new_holder_is_waited_for_until_it_reports_what_it_runs() -> None:
    silent = of(holder="pod-a/n2", granted_to="pod-a/n1", answered=False)
    earlier = of(holder="pod-a/n2", granted_to="pod-a/n1", runs=True)

    assert (silent.phase, silent.restarting) == (Phase.HELD, False)
    assert silent.recheck_seconds is not None
    assert earlier.phase is Phase.LIVE, "it has started its children before they were granted to another"


def test_each_judgement_has_a_reason() -> None:
    assert of(holder="", holds=False).why == "it stopped"
    assert of(holder_terminated=True, holds=False).why == "its container ended"
    assert of(unrenewed_seconds=LIMIT).why == "its Lease was not renewed for 16 s"


facts_of_any_kind = st.builds(
    MemberFacts,
    holder=st.sampled_from(["", "pod-a/n1", "pod-a/n2", "pod-b/n1"]),
    granted_to=st.sampled_from(["", "pod-a/n1"]),
    unrenewed_seconds=st.floats(0, 40),
    pod_uid=st.sampled_from(["", "pod-a", "pod-b"]),
    pod_deleting=st.booleans(),
    pod_disrupted=st.booleans(),
    holder_terminated=st.booleans(),
    node_ready=st.booleans(),
    node_unschedulable=st.booleans(),
    holds=st.booleans(),
    restarting_seconds=st.floats(0, 60),
    ordered_away=st.booleans(),
)


@given(facts_of_any_kind)
def test_a_member_is_judged_gone_only_with_a_proof(facts: MemberFacts) -> None:
    judged = judge(facts)

    released = not facts.holder
    ran_out = facts.unrenewed_seconds >= LIMIT
    succeeded = bool(facts.granted_to) and facts.granted_to != facts.holder
    if judged.phase is Phase.GONE:
        assert released or facts.holder_terminated or ran_out or succeeded
    if judged.phase is Phase.LIVE:
        assert facts.holder.partition("/")[0] == facts.pod_uid
        assert not any((facts.pod_deleting, facts.holder_terminated))
        assert not ran_out


@given(facts_of_any_kind)
def test_every_judgement_but_gone_has_a_time_for_the_next_check(facts: MemberFacts) -> None:
    judged = judge(facts)

    assert (judged.recheck_seconds is None) == (judged.phase is Phase.GONE)
    assert judged.recheck_seconds is None or 0 < judged.recheck_seconds <= max(LIMIT, facts.hold_seconds)
    assert not judged.restarting or (judged.phase is Phase.HELD and facts.holds and facts.node_ready)
