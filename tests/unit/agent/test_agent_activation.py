"""What a member starts by itself, and what it ends of that (docs/protocol.md, rules 26 to 33)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from builders import make_client, make_slice
from processhub.agent.env import Environment
from processhub.agent.problems import Problem
from processhub.agent.registry.maderuns import room_by_view
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.agent.requests.activation import BY_VIEW, Activations
from processhub.api.child import Exec, Workload
from processhub.api.slice import Activation, Settings, ViewMember
from processhub.registry.grammar import Assignment, Report, format_assignment
from processhub.registry.workloads import encode_workload

ENV = Environment("h", "default", "uid", "h-0", "h-0", "pod", "127.0.0.1", "node")
ME = "pod/me"
DIGEST, TEXT = encode_workload(Workload(exec=Exec(command=("x",))))
ENTRY = format_assignment(Assignment(uid="uid", epoch=0, workload=DIGEST, on_demand=True))
OPEN = Activation(
    view=7,
    phase="Open",
    members=(ViewMember(name="h-0", weight=1),),
    holder=ME,
    first_epoch=100,
    last_epoch=102,
    entry=ENTRY,
    workload=TEXT,
)
BOTH = (ViewMember(name="h-0", weight=1), ViewMember(name="h-1", weight=1))


def order(**changes: Any) -> Activation:
    """A view that is open to this member, with these changes."""
    return msgspec.structs.replace(OPEN, **changes)


class Started:
    """A member's activations, fed with slices as its informer would."""

    def __init__(self) -> None:
        self.desired: dict[str, DesiredRun] = {}
        self.version, self.held = 0, True
        self.slices = SliceWatcher(make_client(), ENV, ME)
        self.slices.desired_changed.listen(self._set)
        self.activations = Activations(ENV, ME, self.slices, {}, lambda: self.held)
        self.slices.registry_changed.listen(self.activations.registry_changed)

    def _set(self, changes: dict[str, DesiredRun | None]) -> None:
        for child, desired in changes.items():
            self.desired.pop(child, None)
            if desired is not None:
                self.desired[child] = desired

    def put(
        self, activation: Activation | None = None, *, entries: dict[str, Assignment] | None = None, **more: Any
    ) -> None:
        """The watch delivers a slice."""
        self.version += 1
        settings = more.pop("settings", Settings(on_demand=True, partitioned=more.pop("partitioned", False)))
        version = {"generation": self.version, "resource_version": str(self.version)}
        given = {"member": "h-0", "hub": "h", "hub_uid": "uid", "workloads": {DIGEST: TEXT}, "settings": settings}
        item = make_slice(entries, activation=activation, **{**given, **version, "namespace": "default", **more})
        self.slices.informer.put(item)
        self.slices.informer.seen = self.version

    def start(self, child: str) -> int | None:
        """The epoch under which a request has the child started here; None where it is not."""
        owner = self.activations.find_or_start(child)
        return owner.epoch if owner is not None and owner.member == "h-0" else None

    def runs(self) -> dict[str, int]:
        """The epochs of what is to run here."""
        return {child: desired.assignment.epoch for child, desired in self.desired.items()}


@pytest.fixture
def started() -> Started:
    started = Started()
    started.put(OPEN)
    return started


def test_a_child_on_no_record_is_started_once_with_an_epoch_of_the_block(started: Started) -> None:
    assert [started.start("a"), started.start("b"), started.start("a")] == [100, 101, 100]
    assert started.runs() == {"a": 100, "b": 101}
    assert (started.desired["a"].view, started.desired["a"].assignment.uid) == (7, "uid")


def test_a_block_that_is_used_up_starts_nothing_more_until_the_next(started: Started) -> None:
    assert [started.start(child) for child in "abcd"] == [100, 101, 102, None]

    started.put(order(first_epoch=500, last_epoch=600))

    assert started.start("d") == 500
    assert started.runs()["a"] == 100


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "Closing"},
        {"holder": "pod/earlier"},
        {"members": (ViewMember(name="h-9", weight=1),)},
        {"members": ()},
        {"entry": "not an entry"},
        {"workload": "{}"},
    ],
)
def test_nothing_is_started_where_the_slice_does_not_allow_it(change: dict[str, Any]) -> None:
    started = Started()
    started.put(order(**change))

    assert started.start("a") is None
    assert started.runs() == {}


def test_nothing_is_started_without_a_view_without_the_lease_or_without_a_quorum(started: Started) -> None:
    started.held = False
    assert started.start("a") is None

    started.held = True
    started.put(OPEN, partitioned=True)
    assert started.start("a") is None

    started.put(None)
    assert started.start("a") is None


def test_an_id_that_any_slice_names_is_not_started_by_the_router(started: Started) -> None:
    """The router asks only where no slice names the id; after a move its owner is the other member."""
    started.start("a")
    started.put(OPEN, entries={"a": Assignment(uid="uid", epoch=200, workload=DIGEST)})

    assert started.runs() == {"a": 200}
    assert started.slices.made == {}


def test_an_id_that_a_slice_of_another_member_names_is_not_started(started: Started) -> None:
    started.put(member="h-1", entries={"a": Assignment(uid="uid", epoch=50, workload=DIGEST)})

    assert started.start("a") is None


def test_nothing_is_started_while_the_own_slice_is_ahead_of_what_was_read_of_others(started: Started) -> None:
    started.slices.informer.seen -= 1
    assert started.start("a") is None

    started.slices.informer.seen += 1
    assert started.start("a") == 100


def test_the_answer_to_a_status_of_its_own_holds_up_nothing(started: Started) -> None:
    """It shows the same spec, though at a version that the watch has not come to."""
    started.put(OPEN, generation=1)
    started.slices.informer.seen -= 1

    assert started.start("a") == 100


def test_nothing_is_started_from_a_slice_of_an_earlier_term(started: Started) -> None:
    started.put(member="h-1", term=2)
    assert started.start("a") is None

    started.put(OPEN, term=2)
    assert started.start("a") == 100


def test_a_child_of_another_member_of_the_view_is_asked_for_there() -> None:
    started = Started()
    started.put(order(members=BOTH))
    started.put(member="h-1", address="10.0.0.2", port=9000)

    owners = [started.activations.find_or_start(f"cart-{number}") for number in range(20)]

    assert {(owner.member, owner.address) for owner in owners if owner and owner.epoch == BY_VIEW} == {
        ("h-1", "10.0.0.2:9000")
    }
    assert 0 < len(started.runs()) <= 3


def test_what_is_put_on_record_runs_on_and_is_ended_by_its_entry_from_then_on(started: Started) -> None:
    started.start("a")
    before = started.desired["a"]

    started.put(None, index=1, name="h.h-0.1", entries={"a": msgspec.structs.replace(before.assignment)})
    assert started.desired["a"].same_run(before)
    assert started.desired["a"].view == 0

    started.put(None, index=1, name="h.h-0.1", entries={})
    assert started.runs() == {}


def test_a_child_that_is_declared_meanwhile_is_adopted_by_the_epoch_of_its_run(started: Started) -> None:
    started.start("a")
    before = started.desired["a"]

    started.put(OPEN, entries={"a": Assignment(uid="child", epoch=300, run=100, workload=DIGEST)})

    assert started.desired["a"].same_run(before)


def test_an_entry_with_a_lower_epoch_does_not_end_what_was_started_since(started: Started) -> None:
    started.start("a")

    started.put(OPEN, entries={"a": Assignment(uid="uid", epoch=50, workload=DIGEST)})

    assert started.runs() == {"a": 100}


def test_what_was_started_stays_while_its_view_closes_and_ends_with_the_next(started: Started) -> None:
    started.start("a")

    started.put(order(phase="Closing"))
    assert started.runs() == {"a": 100}

    started.put(order(view=8, first_epoch=900, last_epoch=999))
    assert started.runs() == {}


@pytest.mark.parametrize(
    ("now", "stays"), [(OPEN, True), (order(phase="Closing"), False), (order(holder="pod/other"), False)]
)
def test_with_its_lease_back_a_member_keeps_only_what_nobody_else_can_have_been_given(
    started: Started, now: Activation, stays: bool
) -> None:
    started.start("a")
    started.put(now)

    started.activations.retake()

    assert started.runs() == ({"a": 100} if stays else {})


def test_with_its_lease_back_a_member_ends_what_is_on_record_elsewhere(started: Started) -> None:
    started.start("a")
    started.put(member="h-1", entries={"a": Assignment(uid="uid", epoch=200, workload=DIGEST)})

    started.activations.retake()

    assert started.runs() == {}


def test_a_deleted_slice_0_ends_what_was_started(started: Started) -> None:
    started.start("a")

    started.slices._drop(started.slices.first_slice)

    assert started.runs() == {}


def test_an_id_that_another_member_still_ends_is_not_started_beside_it(started: Started) -> None:
    started.put(member="h-1", reports={"a": Report(uid="uid", epoch=9, state="Stopping")})
    assert started.start("a") is None

    started.put(member="h-1")
    assert started.start("a") == 100


def test_no_more_is_started_than_the_members_share(started: Started) -> None:
    started.put(order(share=2, most=9), entries={"x": Assignment(uid="u", epoch=1, workload=DIGEST, on_demand=True)})

    assert [started.start("a"), started.start("b")] == [100, None]


def test_no_more_is_started_than_a_member_of_the_hub_may_have(started: Started) -> None:
    """Declared children count too, whatever slice they are in."""
    full, declared = Settings(on_demand=True, max_children=3), Assignment(uid="u", epoch=1, workload=DIGEST)
    started.put(OPEN, settings=full)
    started.put(None, index=1, name="h.h-0.1", entries={"x": declared}, settings=full)

    assert [started.start(child) for child in "abc"] == [100, 101, None]
    with pytest.raises(Problem) as busy:
        started.activations.check_room("c")
    started.activations.check_room("a")

    assert (busy.value.status, busy.value.kind) == (429, "busy")
    assert busy.value.detail.endswith("and member h-0 has its 3 children (spec.members.maxChildren)")
    started.put(None, index=1, name="h.h-0.1", entries={}, settings=full)
    assert started.start("c") == 102


def test_no_more_is_started_than_the_status_of_slice_0_has_room_for(started: Started) -> None:
    """What can't be reported can't be put on record. With room again, the next is started."""
    started.put(order(last_epoch=100_000))
    count = 0
    while started.start(f"{'x' * 200}-{count}") is not None:
        count += 1

    assert 1000 < count < 5000
    item = started.slices.own_slice(started.slices.first_slice)
    assert item is not None
    assert started.slices.made.bytes > 0.99 * room_by_view(item.spec)
