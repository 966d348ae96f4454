"""ChildSets: which ids they have, which of several owners gets an id, and what is kept between generations."""

from __future__ import annotations

from typing import Any

import msgspec
import observing
import pytest
from planned_hub import PlannedHub, child

from builders import make_child, make_hub, make_member, make_slice
from processhub.api.child import Child, ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub, HubSpec
from processhub.api.meta import Condition, find_condition
from processhub.api.reasons import Reason, State
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation
from processhub.controller.observe.ownership import wanted_of
from processhub.controller.report.childset import Tally, child_set_status, refused_set_status, tallies
from processhub.controller.store.childsets import KnownSet, SeenSet, known_set, refuse_set, shared_ids
from processhub.controller.store.hubstate import HubState
from processhub.core.acceptance import Refusal
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import attributes_digest
from processhub.registry.grammar import Assignment, Report
from processhub.registry.workloads import encode_workload

NOW = "2026-01-01T00:00:00Z"
HUB = make_hub()


def child_set(name: str = "x", *, created: str = NOW, generation: int = 1, uid: str = "", **spec: Any) -> ChildSet:
    template = spec.pop("template", {"exec": {"command": ["sleep"]}})
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": uid or f"uid-{name}",
                "generation": generation,
                "creationTimestamp": created,
            },
            "spec": {"hub": "hub", "template": template, **spec},
        },
        ChildSet,
    )


def one_child(name: str, *, created: str = NOW, **spec: Any) -> Child:
    spec = {"exec": {"command": ["sleep"]}, **spec}
    return make_child(name, spec, uid=f"uid-of-{name}", generation=1, creation_timestamp=created)


def state_of(*items: Child | ChildSet, entries: dict[str, str] | None = None) -> HubState:
    """``entries`` maps ids to the uid under which they are recorded on hub-0."""
    state = HubState(HUB.metadata.key)
    for item in items:
        state.sets.put(item) if isinstance(item, ChildSet) else state.put_child(item)
    if entries:
        digest, _ = encode_workload(msgspec.convert({"exec": {"command": ["sleep"]}}, ChildSpec))
        state.put_slice(
            make_slice({id_: Assignment(uid=uid, epoch=1, workload=digest) for id_, uid in entries.items()})
        )
    return state


def observed(state: HubState, hub: Hub = HUB) -> Observation:
    return observing.observed(hub, state, {}, ObserveMemory(1))


def wanted_by(observation: Observation) -> dict[str, str]:
    return {child_id: wanted.uid for child_id, wanted in observation.snapshot.children.items()}


# ids


def test_replicas_give_numbered_ids_and_a_list_gives_its_ids() -> None:
    assert child_set(replicas=3).ids == ("x-0", "x-1", "x-2")
    assert child_set(replicas=0).ids == ()
    assert child_set(ids=["b/1", "a"]).ids == ("b/1", "a")


@pytest.mark.parametrize(
    ("child_id", "has"),
    [("x-0", True), ("x-9", True), ("x-10", False), ("x-01", False), ("x-", False), ("y-1", False), ("x-²", False)],
)
def test_a_set_knows_its_ids_without_listing_them(child_id: str, has: bool) -> None:
    assert child_set(replicas=10).has(child_id) is has


def test_a_set_of_a_list_knows_its_ids() -> None:
    assert child_set(ids=["a"]).has("a")
    assert not child_set(ids=["a"]).has("x-0")


# expansion


def test_a_change_of_status_alone_does_not_expand_the_set_again() -> None:
    first = known_set(child_set(replicas=3), None)

    again = known_set(child_set(replicas=3), first)

    assert again.wanted is first.wanted


def test_scaling_keeps_what_was_expanded() -> None:
    first = known_set(child_set(replicas=2), None)

    more = known_set(child_set(replicas=3, generation=2), first)

    assert more.wanted["x-1"] is first.wanted["x-1"]
    assert list(more.wanted) == ["x-0", "x-1", "x-2"]
    assert {wanted.key for wanted in more.wanted.values()} == {child(name).key for name in more.wanted}


@pytest.mark.parametrize("value", [True, 1.0])
def test_an_edit_that_changes_only_the_kind_of_a_value_is_a_new_template(value: bool | float) -> None:
    def python(given: float) -> dict[str, Any]:
        return {"python": {"target": "m:C", "args": {"n": given}}}

    first = known_set(child_set(replicas=1, template=python(1)), None)

    edited = known_set(child_set(replicas=1, template=python(value), generation=2), first)

    assert edited.digest != first.digest
    assert edited.wanted["x-0"].workload == edited.digest


def test_the_fields_of_the_template_apply_to_each_child() -> None:
    template = {
        "exec": {"command": ["sleep"]},
        "pinned": True,
        "restartPolicy": "Transient",
        "tags": ["eu"],
        "metadata": {"k": "v"},
    }

    wanted = known_set(child_set(replicas=1, template=template), None).wanted["x-0"]

    assert (wanted.pinned, wanted.restart_policy, wanted.tags, wanted.metadata) == (
        True,
        "Transient",
        ("eu",),
        (("k", "v"),),
    )
    assert wanted.uid == "uid-x"
    assert wanted.paced


def test_a_re_created_set_has_other_children() -> None:
    first = known_set(child_set(replicas=1), None)

    second = known_set(child_set(replicas=1, uid="another"), first)

    assert second.wanted["x-0"].uid == "another"


def test_ids_of_several_sets_are_found() -> None:
    sets = [known_set(child_set(name, ids=ids), None) for name, ids in (("a", ["1", "2"]), ("b", ["2"]), ("c", ["2"]))]

    assert {child_id: [known.title for known in found] for child_id, found in shared_ids(sets).items()} == {
        "2": ["childset/a", "childset/b", "childset/c"]
    }


# who has an id


def test_an_older_child_keeps_its_id_and_the_set_has_the_others() -> None:
    state = state_of(one_child("x-1", created="2025-01-01T00:00:00Z"), child_set(replicas=3))

    found = observed(state)

    assert wanted_by(found) == {"x-0": "uid-x", "x-1": "uid-of-x-1", "x-2": "uid-x"}
    assert found.sets["uid-x"].taken == {"x-1": "child/x-1"}
    assert not found.refusals


def test_a_younger_child_waits_for_a_sets_id() -> None:
    state = state_of(one_child("x-1", created="2026-02-01T00:00:00Z"), child_set(replicas=3))

    found = observed(state)

    assert wanted_by(found) == dict.fromkeys(("x-0", "x-1", "x-2"), "uid-x")
    assert found.refusals["x-1"] == Refusal(
        Reason.ALREADY_STARTED, "the id 'x-1' belongs to childset/x; started when that is deleted"
    )
    assert found.has_seen(one_child("x-1"))


def test_a_recorded_owner_wins_over_an_older_one() -> None:
    state = state_of(one_child("x-1", created="2025-01-01T00:00:00Z"), child_set(replicas=2), entries={"x-1": "uid-x"})

    assert wanted_by(observed(state)) == dict.fromkeys(("x-0", "x-1"), "uid-x")


def test_of_two_sets_the_older_has_the_id() -> None:
    state = state_of(child_set("young", ids=["a", "b"], created="2026-01-02T00:00:00Z"), child_set("old", ids=["b"]))

    found = observed(state)

    assert wanted_by(found) == {"a": "uid-young", "b": "uid-old"}
    assert found.sets["uid-young"].taken == {"b": "childset/old"}


def test_an_id_is_available_again_when_its_set_is_scaled_down_or_deleted() -> None:
    state = state_of(one_child("x-1"), child_set(replicas=2, created="2025-01-01T00:00:00Z"))
    assert wanted_by(observed(state))["x-1"] == "uid-x"

    state.sets.put(child_set(replicas=1, generation=2))
    assert wanted_by(observed(state)) == {"x-0": "uid-x", "x-1": "uid-of-x-1"}

    state.sets.drop(child_set(replicas=1))
    assert wanted_by(observed(state)) == {"x-1": "uid-of-x-1"}
    assert not observed(state).sets


# what is not accepted


@pytest.mark.parametrize(
    ("template", "strategy", "reason", "said"),
    [
        ({"nodes": ["hub-0"]}, "ConsistentHashing", "InvalidChildMapping", "spec.template.nodes is for hubs with"),
        ({}, "Guided", "MissingChildMapping", "give spec.template.nodes"),
        ({"ttlSeconds": 5}, "ConsistentHashing", "Invalid", "spec.template.ttlSeconds: the children of a ChildSet"),
        ({"idleSeconds": 5}, "ConsistentHashing", "Invalid", "spec.template.idleSeconds: the children of a ChildSet"),
    ],
)
def test_a_template_is_accepted_or_rejected_like_a_child(
    template: dict[str, Any], strategy: str, reason: str, said: str
) -> None:
    known = known_set(child_set(replicas=1, template={"exec": {"command": ["x"]}, **template}), None)
    hub = msgspec.convert({"distribution": {"strategy": strategy}}, HubSpec)

    refusal = refuse_set(known, hub)

    assert refusal is not None
    assert refusal.reason == reason
    assert said in refusal.message


def test_a_rejected_template_leaves_the_record_unchanged() -> None:
    changed = child_set(replicas=3, template={"exec": {"command": ["other"]}, "nodes": ["hub-0"]}, generation=2)
    state = state_of(changed, entries={"x-0": "uid-x", "x-1": "uid-x"})
    on_record = state.slices["hub.hub-0.0"].assignments["x-0"].workload

    found = observed(state)

    assert {child_id: wanted.workload for child_id, wanted in found.snapshot.children.items()} == {
        "x-0": on_record,
        "x-1": on_record,
    }


@pytest.mark.parametrize("suspend", [True, False])
def test_a_rejected_template_resumes_only_children_that_its_hub_had_suspended(suspend: bool) -> None:
    changed = child_set(replicas=1, template={"exec": {"command": ["x"]}, "nodes": ["hub-0"], "suspend": suspend})
    state = state_of(changed)
    state.put_slice(make_slice({"x-0": Assignment(uid="uid-x", epoch=1, workload="w", wait=True, asleep=True)}))

    assert observed(state).snapshot.children["x-0"].suspended is suspend


@pytest.mark.parametrize("where", ["template", "hub"])
def test_no_child_of_a_suspended_set_is_to_run(where: str) -> None:
    template = {"exec": {"command": ["sleep"]}, "suspend": where == "template"}
    hub = msgspec.structs.replace(HUB, spec=HubSpec(suspend=where == "hub"))

    found = observed(state_of(child_set(replicas=3, template=template)), hub)

    assert len(found.snapshot.children) == 3
    assert not found.snapshot.to_run
    refusal = found.sets["uid-x"].refusal
    assert refusal is not None
    assert refusal.reason is Reason.SUSPENDED
    status = child_set_status(found.sets["uid-x"], Tally(), {}, NOW)
    assert ready(status.conditions).reason == "Suspended"
    assert find_condition(status.conditions, "Accepted").status == "True"  # type: ignore[union-attr]
    assert status.desired == 0


# status


def ready(conditions: tuple[Condition, ...]) -> Condition:
    found = find_condition(conditions, "Ready")
    assert found is not None
    return found


def tally(running: int = 0, failed: int = 0, former: int = 0) -> Tally:
    made = Tally()
    for number in range(running):
        made.add(f"r{number}", "Running", "")
    for number in range(failed):
        made.add(f"f{number}", "Failed", "CommandNotFound")
    made.former = {f"r{number}" for number in range(former)}
    return made


@pytest.mark.parametrize(
    ("counted", "taken", "unplaced", "expected"),
    [
        (tally(running=5), {}, {}, ("True", "Started", "5 of 5 children running")),
        (tally(running=3), {}, {}, ("False", "Pending", "3 of 5 children running")),
        (
            tally(running=4),
            {"x-1": "child/x-1"},
            {},
            ("False", "AlreadyStarted", "1 of 5 ids belongs to another: x-1 (child/x-1); started when that is deleted"),
        ),
        (tally(running=5, former=2), {}, {}, ("False", "Updating", "2 of 5 children still run the former template")),
        (
            tally(running=1, failed=4),
            {},
            {},
            (
                "False",
                "ChildrenFailed",
                "4 of 5 children failed: f0 (CommandNotFound), f1 (CommandNotFound), f2 (CommandNotFound) and 1 more",
            ),
        ),
        (
            tally(running=3),
            {},
            {"x-3": Unplaced(Reason.NO_MEMBERS, "no member"), "strange": Unplaced(Reason.WAITING, "no")},
            ("False", "NoMembers", "1 of 5 children is not placed, such as x-3: no member"),
        ),
    ],
)
def test_the_condition_ready_says_why_children_do_not_run(
    counted: Tally, taken: dict[str, str], unplaced: dict[str, Unplaced], expected: tuple[str, str, str]
) -> None:
    seen = SeenSet(known_set(child_set(replicas=5), None), None, taken)

    status = child_set_status(seen, counted, unplaced, NOW)

    found = ready(status.conditions)
    assert (found.status, found.reason, found.message) == expected
    assert status.desired == status.running + status.pending + status.failed == 5
    assert status.observed_generation == 1


@pytest.mark.parametrize(
    ("running", "former", "expected"),
    [
        (3, ["x-3"], ("False", "HookDenied", "1 of 5 children is refused, such as x-3: hook audit: no")),
        (5, ["x-3"], ("True", "Started", "5 of 5 children running")),
        (5, ["x-3", "x-4"], ("False", "Updating", "1 of 5 children still runs the former template")),
    ],
)
def test_a_set_whose_changed_template_a_hook_denies_waits_for_its_user(
    running: int, former: list[str], expected: tuple[str, str, str]
) -> None:
    """It is Ready if the children that keep the former template run and the others have the new one."""
    counted = tally(running=running)
    counted.former = set(former)
    unplaced = {"x-3": Unplaced(Reason.HOOK_DENIED, "hook audit: no")}

    conditions = child_set_status(SeenSet(known_set(child_set(replicas=5), None)), counted, unplaced, NOW).conditions

    assert (ready(conditions).status, ready(conditions).reason, ready(conditions).message) == expected
    found = find_condition(conditions, "Stalled")
    assert found is not None
    assert (found.reason, found.message) == ("HookDenied", "1 of 5 children is refused, such as x-3: hook audit: no")
    assert find_condition(conditions, "Reconciling") is None


@pytest.mark.parametrize(("running", "expected"), [(5, ("True", "Started")), (4, ("False", "InvalidChildMapping"))])
def test_a_set_with_a_rejected_edit_is_ready_while_its_children_run_by_the_spec_before(
    running: int, expected: tuple[str, str]
) -> None:
    seen = SeenSet(known_set(child_set(replicas=5), None), Refusal(Reason.INVALID_CHILD_MAPPING, "no nodes"))

    conditions = child_set_status(seen, tally(running=running, former=running), {}, NOW).conditions

    assert (ready(conditions).status, ready(conditions).reason) == expected
    for kind, status in (("Accepted", "False"), ("Stalled", "True")):
        found = find_condition(conditions, kind)
        assert found is not None
        assert (found.status, found.reason, found.message) == (status, "InvalidChildMapping", "no nodes")


def test_a_set_without_its_hub_reports_it_and_counts_no_child_as_running() -> None:
    item = msgspec.structs.replace(
        child_set(replicas=2), status=msgspec.convert({"desired": 2, "running": 2}, type(child_set(replicas=1).status))
    )

    status = refused_set_status(item, Refusal(Reason.HUB_NOT_FOUND, "no hub"), NOW)

    assert (status.desired, status.running, status.pending) == (2, 0, 2)
    assert ready(status.conditions).reason == "HubNotFound"


def test_children_are_counted_by_what_their_members_report() -> None:
    known = known_set(child_set(replicas=4), None)
    state = state_of(entries=dict.fromkeys(("x-0", "x-1", "x-2"), "uid-x"))
    entries = state.slices["hub.hub-0.0"].present.spec.entries
    reports = {
        "x-0": Report(uid="uid-x", epoch=1, state="Running", pid=1),
        "x-1": Report(uid="uid-x", epoch=1, state="Failed", reason="ImportError"),
        "x-2": Report(uid="uid-x", epoch=9, state="Running", pid=2),  # of another epoch
    }
    state.put_slice(make_slice(entries, reports))
    member = make_member("hub-0", *state.slices.values())

    found = tallies({"uid-x": SeenSet(known)}, {"hub-0": member})["uid-x"]

    assert (found.count(State.RUNNING), found.count(State.FAILED)) == (1, 1)
    assert found.failed == ["x-1"]
    assert found.described("x-1") == "x-1 (ImportError)"
    assert not found.former


def test_failed_children_are_named_in_order_with_their_exit_codes() -> None:
    known = known_set(child_set(replicas=12), None)
    state = state_of(entries=dict.fromkeys(("x-10", "x-9", "x-2", "x-1"), "uid-x"))
    entries = state.slices["hub.hub-0.0"].present.spec.entries
    failed = Report(uid="uid-x", epoch=1, state="Failed", reason="Exited", last_exit="exit code 9")
    state.put_slice(make_slice(entries, dict.fromkeys(entries, failed)))
    seen = SeenSet(known)

    tally = tallies({"uid-x": seen}, {"hub-0": make_member("hub-0", *state.slices.values())})["uid-x"]

    assert ready(child_set_status(seen, tally, {}, NOW).conditions).message == (
        "4 of 12 children failed: x-1 (Exited, exit code 9), x-2 (Exited, exit code 9), x-9 (Exited, exit code 9) and"
        " 1 more"
    )


def test_a_stopped_rollout_is_reported_and_the_remaining_children_stay_unchanged() -> None:
    known = known_set(child_set(replicas=3), None)
    seen = SeenSet(known, held={"x-1": "former", "x-2": "former"}, failing=("x-0",))
    tally = Tally()
    tally.add("x-0", State.FAILED, "Exited", "exit code 9")
    tally.former = {"x-1", "x-2"}

    condition = ready(child_set_status(seen, tally, {}, NOW).conditions)

    assert (condition.status, condition.reason) == ("False", "RolloutStopped")
    assert condition.message == (
        "1 of 3 children fails with the changed template (maxFailed 10%): x-0 (Exited, exit code 9); 2 run on with the "
        "former one; edit spec.template"
    )
    wanted = wanted_of(seen, HUB, {})
    assert {child_id: child.workload for child_id, child in wanted.items()} == {
        "x-0": known.digest, "x-1": "former", "x-2": "former",
    }  # fmt: skip


# a changed template


def expanded(hub: PlannedHub, replicas: int, command: str) -> KnownSet:
    known = known_set(child_set(replicas=replicas, template={"exec": {"command": [command]}}), None)
    hub.children = dict(known.wanted)
    return known


def test_a_changed_template_restarts_children_in_order_within_the_budget() -> None:
    hub = PlannedHub()
    before = expanded(hub, 10, "first")
    hub.rest()
    places = hub.where()
    after = expanded(hub, 10, "second")

    planned = hub.step(budget=4)

    changed = {child_id for child_id, runs in running(hub).items() if runs.workload == after.digest}
    assert changed == {"x-0", "x-1", "x-2", "x-3"}
    assert (planned.planned_moves, planned.pending_restarts) == (4, 6)
    assert {runs.workload for child_id, runs in running(hub).items() if child_id not in changed} == {before.digest}
    assert hub.where() == places

    hub.rest(budget=4)
    assert {runs.workload for runs in running(hub).values()} == {after.digest}
    assert hub.where() == places


def test_a_child_that_waits_for_its_restart_gets_new_tags_at_once() -> None:
    hub = PlannedHub()
    before = expanded(hub, 2, "first")
    hub.rest()
    epochs = {child_id: runs.epoch for child_id, runs in running(hub).items()}
    template = {"exec": {"command": ["second"]}, "tags": ["new"]}
    hub.children = dict(known_set(child_set(replicas=2, template=template), None).wanted)

    hub.step(budget=0)

    assert {runs.tags for runs in running(hub).values()} == {("new",)}
    assert {runs.workload for runs in running(hub).values()} == {before.digest}
    assert {child_id: runs.epoch for child_id, runs in running(hub).items()} == epochs
    assert hub.step(budget=0).empty


def test_a_lost_child_starts_with_the_new_template_whatever_the_budget() -> None:
    hub = PlannedHub()
    expanded(hub, 9, "first")
    hub.rest()
    lost = hub.on("hub-1")
    after = expanded(hub, 9, "second")
    hub.change("hub-1", phase=Phase.GONE)

    hub.step(budget=0)
    hub.step(budget=0)

    assert {child_id for child_id, runs in running(hub).items() if runs.workload == after.digest} == lost
    assert len(hub.where()) == 9


def test_an_edited_child_does_not_wait_for_the_budget() -> None:
    hub = PlannedHub()
    hub.want([child("a")])
    hub.rest()
    hub.want([child("a", workload="second")])

    hub.step(budget=0)

    assert running(hub)["a"].workload == "second"


def running(hub: PlannedHub) -> dict[str, Assignment]:
    return {child_id: entry for runs in hub.running.values() for child_id, entry in runs.items()}


def test_a_template_that_a_hook_changed_counts_as_current_until_the_template_changes() -> None:
    before = known_set(child_set(replicas=1), None)
    after = known_set(child_set(replicas=1, generation=2, template={"exec": {"command": ["other"]}}), before)
    asked = attributes_digest(before.wanted["x-0"])
    entry = Assignment(uid="uid-x", epoch=1, workload="as-the-hook-has-it", asked=asked)
    member = make_member("hub-0", make_slice({"x-0": entry}))

    assert tallies({"uid-x": SeenSet(before)}, {"hub-0": member})["uid-x"].former == set()
    assert tallies({"uid-x": SeenSet(after)}, {"hub-0": member})["uid-x"].former == {"x-0"}
