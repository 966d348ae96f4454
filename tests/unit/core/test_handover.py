"""Handovers of state, step by step, by the planner."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from handing_hub import SUM, HandingHub, _committed, _restart, _sent, hot_spec, started
from planned_hub import PlannedHub, child, one_pod

from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import MemberView, OnRecord
from processhub.core.planning.handover import Step, goes_to, next_step
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment


def test_on_a_join_states_move_with_their_children() -> None:
    hub = started(60)
    hub.change("hub-3", joining=True)
    hub.rest()

    assert len(hub.on("hub-3")) > 5
    assert hub.lost_states == []
    assert not hub.quiet
    assert {entry.uid for runs in hub.running.values() for entry in runs.values()} == {
        child.uid for child in hub.children.values()
    }


def test_the_source_keeps_its_copy_until_the_target_runs() -> None:
    hub = HandingHub(2)
    hub.want([child("a")])
    hub.rest()
    (source,) = hub.acting("a")
    (target,) = set(hub.members) - {source}
    hub.change(source, draining=True)

    hub.write(plan(hub.snapshot()))  # the move has started
    hub.write(plan(hub.snapshot()))  # the source has its order
    assert goes_to(hub.record["a"][source]) == target
    hub.acknowledge(source, target)
    hub.write(plan(hub.snapshot()))  # the move is committed
    assert hub.record["a"][target].state == SUM
    assert source in hub.record["a"]
    assert plan(hub.snapshot()).empty
    hub.acknowledge(target)
    hub.rest()

    assert hub.acting("a") == [target]
    assert set(hub.record["a"]) == {target}


def test_if_the_target_is_lost_after_the_commit_the_source_gets_the_child_with_a_newer_epoch() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    committed = hub.record["a"][target].epoch

    hub.change(target, phase=Phase.GONE)
    hub.write(plan(hub.snapshot()))

    assert target not in hub.record["a"]
    entry = hub.record["a"][source]
    assert entry.epoch > committed
    assert not entry.to
    hub.acknowledge(source)
    assert hub.acting("a") == [source]
    hub.rest()
    assert hub.lost_states == []


@pytest.mark.parametrize("ends", ["finished", "came_up"])
def test_a_child_that_ended_on_its_target_before_it_was_seen_running_leaves_its_source(ends: str) -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    # It is finished by its restart policy; or it failed after it was up, and restarts without its source's copy.
    getattr(hub, ends).add((target, "a"))
    if ends == "came_up":
        hub.failing.add((target, "a"))

    hub.acknowledge()
    hub.rest()

    assert set(hub.record["a"]) == {target}
    assert (source, "a") not in hub.state


@pytest.mark.parametrize("ends", ["failing", "given_up"])
def test_an_edit_starts_a_child_that_never_came_up_on_its_target_there_with_its_state(ends: str) -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    getattr(hub, ends).add((target, "a"))
    hub.acknowledge()
    hub.write(plan(hub.snapshot()))

    hub.want([child("a", workload="mended")])
    hub.write(plan(hub.snapshot()))

    entry = hub.record["a"][target]
    assert (entry.workload, entry.state) == ("mended", SUM)


def test_a_target_that_is_to_return_the_child_has_taken_over() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.acknowledge(target)
    hub.change(source, draining=False)
    hub.change(target, draining=True)
    hub.write(plan(hub.snapshot()))
    assert set(hub.record["a"]) == {target}
    assert not plan(hub.snapshot()).entries, "the source may still keep its copy, which is older than the child"
    hub.acknowledge(source)
    planned = plan(hub.snapshot())
    assert set(planned.entries) == {source, target}

    # The leader ends when it has written one of the two slices, and the target's agent restarts: it does not report
    # any more that the child was up.
    hub.write(msgspec.structs.replace(planned, entries={target: planned.entries[target]}))
    hub.acknowledge()
    hub.rest()

    assert hub.acting("a") == [source]
    assert hub.lost_states == []


def begun_with_a_pod() -> tuple[PlannedHub, str, str]:
    """Hub, source and target of a move whose source has its order."""
    hub = PlannedHub(3, hot_spec())
    hub.want([child("a", pod=True)])
    hub.rest()
    (source,) = hub.record["a"]
    hub.pods["a"] = one_pod(source, hub.record["a"][source].started_with)
    target = next(name for name in hub.members if name != source)
    hub.move_requests["a"] = target
    hub.write(plan(hub.snapshot()))
    assert hub.record["a"][source].to
    return hub, source, target


@pytest.mark.parametrize("change", [{"phase": Phase.GONE}, {"draining": True}])
def test_a_pod_child_keeps_running_where_it_is_when_its_target_is_invalid(change: dict[str, Any]) -> None:
    hub, source, target = begun_with_a_pod()
    hub.change(target, **change)

    hub.rest()

    assert set(hub.record["a"]) == {source}
    assert not hub.record["a"][source].to, "its own Pod is not in its way"


def test_the_source_keeps_the_state_of_a_child_that_does_not_come_up_on_its_target() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()

    assert plan(hub.snapshot()).entries == {}
    assert (source, "a") in hub.quiet
    hub.change(target, phase=Phase.GONE)
    hub.rest()

    assert hub.acting("a") == [source]
    assert hub.lost_states == []


def test_an_edit_of_a_child_that_does_not_come_up_on_its_target_starts_it_there_with_the_state() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()
    epoch = hub.record["a"][target].epoch

    hub.want([child("a", workload="mended")])
    hub.write(plan(hub.snapshot()))

    entry = hub.record["a"][target]
    assert (entry.workload, entry.state, entry.wait) == ("mended", SUM, False)
    assert entry.epoch > epoch
    assert source in hub.record["a"], "until it is up"


@pytest.mark.parametrize(
    "fields", [{"tags": ("eu",)}, {"metadata": (("k", "v"),)}, {"restart_policy": "Temporary"}, {"idle_seconds": 5}]
)
def test_an_edit_without_a_restart_reaches_a_child_that_does_not_come_up_on_its_target(
    fields: dict[str, Any],
) -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()
    before = hub.record["a"][target]

    hub.want([child("a", **fields)])
    hub.rest()

    assert hub.record["a"][target] == msgspec.structs.replace(before, **fields)
    assert source in hub.record["a"], "until it is up"


def test_a_drain_does_not_wait_for_a_child_that_does_not_come_up_on_its_target() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.failing.add((target, "a"))

    hub.acknowledge()
    hub.rest()

    assert set(hub.record["a"]) == {target}
    assert hub.state[target, "a"], "which has the state"
    assert (source, "a") not in hub.state


@pytest.mark.parametrize(
    ("fields", "state"), [({"workload": "mended"}, SUM), ({"tags": ("eu",)}, SUM), ({"uid": "another"}, "")]
)
def test_a_state_that_only_the_target_has_stays_with_a_child_that_is_edited(fields: dict[str, Any], state: str) -> None:
    hub = HandingHub(2)
    _, target = _committed(hub)
    hub.failing.add((target, "a"))
    hub.acknowledge()
    hub.rest()
    assert set(hub.record["a"]) == {target}

    hub.want([child("a", **fields)])
    hub.write(plan(hub.snapshot()))

    assert [entry.state for entry in hub.record["a"].values()] == ([state] if state else [])


def test_an_entry_does_not_name_a_state_any_more_with_which_the_child_was_up() -> None:
    hub = HandingHub(2)
    _, target = _committed(hub)
    hub.acknowledge()
    hub.rest()

    hub.want([child("a", workload="mended")])
    hub.write(plan(hub.snapshot()))

    assert hub.record["a"][target].state == ""


def test_a_drained_target_returns_a_child_that_does_not_come_up_once_it_has_ended_there() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()

    hub.change(target, draining=True)
    hub.write(plan(hub.snapshot()))
    assert set(hub.record["a"]) == {source}
    hub.acknowledge(source)
    assert plan(hub.snapshot()).empty
    assert hub.acting("a") == [target]
    hub.acknowledge(target)
    hub.rest()

    assert hub.acting("a") == [source]
    assert hub.lost_states == []


@pytest.mark.parametrize("back", [True, False])
def test_a_child_that_does_not_come_up_on_its_target_moves_on_request_with_its_state(back: bool) -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    hub.change(source, draining=False)
    hub.failing.add((target, "a"))
    hub.acknowledge()
    wanted = source if back else next(name for name in hub.members if name not in (source, target))

    hub.move_requests = {"a": wanted}
    hub.write(plan(hub.snapshot()))
    assert set(hub.record["a"]) == {source}
    assert hub.answers == ({"a": ""} if back else {})
    hub.acknowledge()
    hub.rest()

    assert hub.acting("a") == [wanted]
    assert hub.answers == {"a": ""}
    assert hub.lost_states == []


def test_a_rejected_request_does_not_move_a_child_that_does_not_come_up_on_its_target() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    hub.failing.add((target, "a"))
    hub.change(source, draining=False)
    hub.acknowledge()
    third = next(name for name in hub.members if name not in (source, target))
    hub.change(third, draining=True)

    hub.move_requests = {"a": third}
    hub.rest()

    assert hub.answers == {"a": f"member {third} is drained"}
    assert set(hub.record["a"]) == {source, target}


def test_a_source_waits_for_the_report_of_a_target_that_was_taken_for_gone_and_returned() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.acknowledge(target)
    # Its removal is written; its Lease, read again then, shows that it is back: the rest of the plan is withheld.
    hub.quiet.add((source, "a"))
    del hub.record["a"][target]
    hub.change(target, possibly_running=frozenset({"a"}))

    planned = plan(hub.snapshot())

    assert planned.entries == {}
    assert "not yet been seen to stop" in planned.unplaced["a"].message
    hub.acknowledge(target)
    hub.rest()
    assert len(hub.acting("a")) == 1
    assert hub.lost_states == []


@pytest.mark.parametrize("committed", [True, False])
def test_the_state_is_sent_again_to_a_target_that_restarts_without_it(committed: bool) -> None:
    hub = HandingHub(2)
    source, target = _committed(hub) if committed else _sent(hub)
    epoch = hub.record["a"][target].epoch

    _restart(hub, target)
    hub.acknowledge(target)
    assert hub.acting("a") == [], "it is not started afresh while the source has its state"
    hub.write(plan(hub.snapshot()))
    assert hub.record["a"][target].wait
    assert hub.record["a"][target].epoch > epoch
    assert (source, "a") in hub.quiet, "the source has its copy"

    hub.rest()
    assert hub.acting("a") == [target]
    assert set(hub.record["a"]) == {target}
    assert hub.lost_states == []


def test_a_target_that_restarts_when_its_source_is_lost_starts_afresh() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)

    hub.change(source, phase=Phase.GONE)
    _restart(hub, target)
    hub.rest()

    assert hub.acting("a") == [target]


def test_a_restarted_member_starts_a_child_that_was_handed_over_afresh() -> None:
    hub = HandingHub(2)
    source, target = _committed(hub)
    hub.acknowledge()
    hub.rest()
    assert source not in hub.record["a"]
    assert hub.record["a"][target].state == SUM

    _restart(hub, target)
    hub.acknowledge(target)

    assert hub.acting("a") == [target]


def test_if_a_target_restarts_and_is_lost_the_child_stays_with_its_source() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)

    _restart(hub, target)
    hub.acknowledge(target)
    hub.write(plan(hub.snapshot()))
    hub.change(target, phase=Phase.GONE)
    hub.write(plan(hub.snapshot()))
    hub.acknowledge(source)
    assert hub.acting("a") == [source]

    hub.rest()
    assert hub.lost_states == []


def test_if_the_source_is_lost_after_it_sent_the_state_the_target_has_the_child() -> None:
    hub = HandingHub(3)
    source, target = _committed(hub)
    hub.change(source, phase=Phase.GONE)
    hub.rest()

    assert hub.acting("a") == [target]
    assert hub.lost_states == []


@pytest.mark.parametrize("phase", [Phase.LIVE, Phase.GONE])
def test_a_target_that_waits_since_before_its_source_ran_on_starts_with_no_older_state(phase: Phase) -> None:
    """The move had failed, and the target's entry could not be removed. It waits anew for a source that is lost."""
    hub = HandingHub(3)
    source, target = _sent(hub)
    waited = hub.record["a"][target].epoch
    ran_on = hub.record["a"][source]
    hub.record["a"][source] = msgspec.structs.replace(ran_on, to="", epoch=waited + 1, run=ran_on.epoch)
    hub.next_epoch = waited + 2
    hub.change(source, phase=phase)

    entry = plan(hub.snapshot()).entries[target]["a"]

    if phase is Phase.LIVE:
        assert entry is None
    else:
        assert entry is not None
        assert entry.wait
        assert entry.epoch > waited + 1


def test_a_child_that_refuses_to_move_stays_and_is_not_asked_again_for_a_while() -> None:
    hub = started(40)
    hub.unwilling = set(hub.children)
    before = hub.where()
    hub.change("hub-3", joining=True)

    deferred: set[str] = set()
    for _ in range(6):
        planned = hub.step()
        deferred |= set(planned.deferred)
        hub.deferred = frozenset(deferred)

    assert deferred
    assert hub.where() == before
    assert hub.members["hub-3"].joining, "they are asked again later"
    assert all(not entry.to for places in hub.record.values() for entry in places.values())


def test_a_drained_member_does_not_ask_children_whether_they_may_move() -> None:
    hub = started(20)
    hub.unwilling = set(hub.children)
    hub.change("hub-0", draining=True)
    hub.rest()

    assert not hub.on("hub-0")
    assert hub.lost_states == []


LIVE, DRAINING = MemberView(name="s"), MemberView(name="s", draining=True)


ORDERED = "t:7"


@pytest.mark.parametrize(
    ("to", "words", "member", "step"),
    [
        ("", {}, LIVE, Step.ORDER),
        ("t:6", {}, LIVE, Step.ORDER),
        (ORDERED, {}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "7:aa"}, LIVE, Step.WAIT),
        (ORDERED, {"got": "aa"}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "7:aa", "got": "bb"}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "6:aa", "got": "aa"}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "7:aa", "got": "aa"}, LIVE, Step.COMMIT),
        (ORDERED, {"gave": "7:aa", "lost": "7:lost"}, LIVE, Step.AGAIN),
        (ORDERED, {"gave": "7:aa", "lost": "6:lost"}, LIVE, Step.WAIT),
        (ORDERED, {"gave": "7:aa", "got": "aa", "lost": "7:lost"}, LIVE, Step.COMMIT),
        (ORDERED, {"kept": "6:refused"}, LIVE, Step.WAIT),
        (ORDERED, {"kept": "7:refused"}, LIVE, Step.DEFER),
        (ORDERED, {"kept": "7:failed"}, LIVE, Step.DEFER),
        (ORDERED, {"kept": "7:stateless"}, LIVE, Step.COLD),
        (ORDERED, {}, DRAINING, Step.ORDER),
        (ORDERED + ":must", {"kept": "7:failed"}, DRAINING, Step.COLD),
        (ORDERED, {"gave": "7:aa"}, MemberView(name="s", phase=Phase.GONE), Step.COLD),
        (ORDERED, {"gave": "7:aa"}, MemberView(name="s", phase=Phase.HELD, ended=True), Step.COLD),
        (ORDERED, {"gave": "7:aa"}, None, Step.COLD),
    ],
)
def test_the_commit_needs_both_reports_for_one_epoch_and_one_checksum(
    to: str, words: dict[str, str], member: MemberView | None, step: Step
) -> None:
    waiting = Assignment(uid="u", epoch=7, workload="w", wait=True)
    target = OnRecord("t", waiting, got=words.get("got", ""), kept=words.get("lost", ""))
    entry = Assignment(uid="u", epoch=3, workload="w", to=to)
    source = OnRecord("s", entry, gave=words.get("gave", ""), kept=words.get("kept", ""))

    assert next_step(source, member, target).step is step
