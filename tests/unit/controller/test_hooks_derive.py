"""The events that a change in a hub causes, view after view."""

from __future__ import annotations

from typing import Any

import pytest
from planned_hub import child

from processhub.api.hooks import HookEvent
from processhub.api.reasons import Reason, State
from processhub.controller.hooks.derive import Tracker
from processhub.controller.hooks.view import CopySeen, HubView, MemberSeen
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Move
from processhub.core.model.snapshot import DesiredChild
from processhub.registry.grammar import Assignment, Report

LIVE, HELD, GONE = Phase.LIVE, Phase.HELD, Phase.GONE


def copy(
    member: str = "m0",
    *,
    epoch: int = 1,
    uid: str = "u",
    pid: int = 0,
    state: str = "",
    on_record: bool = True,
    wait: bool = False,
    asleep: bool = False,
    phase: Phase = LIVE,
    reason: str = "",
    reported: int | None = None,
    by_view: int = 0,
) -> CopySeen:
    """A copy; with a pid it runs. ``reported`` is the epoch in the member's report, if it is another.

    ``by_view``: the member has started it by itself under that view.
    """
    state = state or (State.RUNNING if pid else "")
    entry = Assignment(
        uid=uid, epoch=epoch, workload="w", wait=wait or asleep, asleep=asleep, tags=("t",), metadata=(("k", "v"),)
    )
    report = Report(uid=uid, epoch=reported or epoch, state=state, pid=pid, reason=reason, view=by_view)
    return CopySeen(
        uid=uid, member=member, entry=entry if on_record else None, report=report if state else None, phase=phase
    )


def wanted(*ids: str, uid: str = "u") -> dict[str, DesiredChild]:
    return {child_id: child(child_id, uid) for child_id in ids}


def view(
    *copies: CopySeen, members: dict[str, MemberSeen] | None = None, want: str | None = "u", **fields: Any
) -> HubView:
    """A view of child ``a`` with these copies; all members are present unless given."""
    members = members if members is not None else {"m0": MemberSeen(phase=LIVE), "m1": MemberSeen(phase=LIVE)}
    return HubView(members=members, copies={"a": copies}, wanted=wanted("a", uid=want) if want else {}, **fields)


def emitted(*views: HubView) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of the last view, as (event, data)."""
    tracker = Tracker()
    for seen in views[:-1]:
        tracker.advance(seen)
    return [(str(event.kind), dict(event.data)) for event in tracker.advance(views[-1])]


def kinds(*views: HubView) -> list[str]:
    """Return the names of the events, with a child's member appended."""
    return [f"{kind} {data.get('member', data.get('to', ''))}".rstrip() for kind, data in emitted(*views)]


NOTHING = view()
RUNS = view(copy(pid=10))
SELF_STARTED = view(copy(pid=10, on_record=False, by_view=4), want=None)
CASES = [
    ("placed", [NOTHING, view(copy())], ["ChildRegistered m0"]),
    ("placed and running at once", [NOTHING, RUNS], ["ChildRegistered m0", "ChildStarted m0"]),
    ("running", [view(copy()), RUNS], ["ChildStarted m0"]),
    ("starting", [view(copy()), view(copy(state=State.STARTING))], []),
    ("nothing new", [RUNS, RUNS], []),
    ("started by its member", [NOTHING, SELF_STARTED], ["ChildStarted m0"]),
    ("started by its member, then put on record", [NOTHING, SELF_STARTED, RUNS], ["ChildRegistered m0"]),
    ("started by its member, and seen when on record", [NOTHING, RUNS], ["ChildRegistered m0", "ChildStarted m0"]),
    ("started by its member before the first look", [SELF_STARTED, SELF_STARTED], ["ChildStarted m0"]),
    (
        "started by its member before the first look, then put on record",
        [SELF_STARTED, RUNS],
        ["ChildRegistered m0", "ChildStarted m0"],
    ),
    (
        "ended by its member before it was put on record",
        [
            NOTHING,
            SELF_STARTED,
            view(copy(state=State.STOPPING, on_record=False, by_view=4), want=None),
            view(want=None),
        ],
        ["ChildStopped m0"],
    ),
    ("crashed and running again", [RUNS, view(copy(pid=11))], ["ChildPidUpdated m0"]),
    ("crashed", [RUNS, view(copy(state=State.FAILED, reason=Reason.BACK_OFF))], []),
    (
        "crashed, and later running again",
        [RUNS, view(copy(state=State.FAILED, reason=Reason.BACK_OFF)), view(copy(pid=11))],
        ["ChildPidUpdated m0"],
    ),
    ("failed for good", [RUNS, view(copy(state=State.FAILED, reason=Reason.RESTARTS_EXCEEDED))], ["ChildStopped m0"]),
    ("completed", [RUNS, view(copy(state=State.STOPPED, reason=Reason.COMPLETED))], ["ChildStopped m0"]),
    ("edited, the old process still running", [RUNS, view(copy(epoch=2, reported=1, pid=10))], []),
    ("edited, the new process running", [RUNS, view(copy(epoch=2, pid=11))], ["ChildPidUpdated m0"]),
    ("ordered to stop", [RUNS, view(copy(pid=10, on_record=False), want=None)], ["ChildUnregistered m0"]),
    (
        "stopped as ordered",
        [RUNS, view(copy(state=State.STOPPING, on_record=False), want=None), view(want=None)],
        ["ChildStopped m0"],
    ),
    ("gone at once", [RUNS, view(want=None)], ["ChildUnregistered m0", "ChildStopped m0"]),
    ("move begun", [RUNS, view(copy(pid=10), copy("m1", epoch=2, wait=True))], []),
    (
        "source to stop",
        [RUNS, view(copy(pid=10), copy("m1", epoch=2, wait=True)), view(copy("m1", epoch=2, wait=True))],
        ["ChildUnregistered m0", "ChildStopped m0"],
    ),
    (
        "move done",
        [RUNS, view(copy("m1", epoch=2, wait=True)), view(copy("m1", epoch=3))],
        ["ChildRegistered m1", "ChildMoved m1"],
    ),
    ("move given up", [RUNS, view(copy(pid=10), copy("m1", epoch=2, wait=True)), RUNS], []),
    (
        "re-created under its id",
        [RUNS, view(copy(uid="v", epoch=2, pid=11), want="v")],
        ["ChildUnregistered m0", "ChildStopped m0", "ChildRegistered m0", "ChildStarted m0"],
    ),
    (
        "suspended, its process still running",
        [RUNS, view(copy(epoch=2, asleep=True, pid=10, reported=1), want=None)],
        ["ChildUnregistered m0"],
    ),
    (
        "suspended",
        [RUNS, view(copy(epoch=2, asleep=True, state=State.PENDING), want=None)],
        ["ChildUnregistered m0", "ChildStopped m0"],
    ),
    (
        "suspended, and its member restarts",
        [RUNS, view(copy(epoch=2, asleep=True, phase=Phase.HELD), want=None)],
        ["ChildUnregistered m0", "ChildStopped m0"],
    ),
    ("asleep", [view(copy(asleep=True), want=None), view(copy(asleep=True), want=None)], []),
    ("asleep, and deleted", [view(copy(asleep=True), want=None), view(want=None)], []),
    (
        "resumed",
        [RUNS, view(copy(epoch=2, asleep=True), want=None), view(copy(epoch=3, pid=12))],
        ["ChildRegistered m0", "ChildStarted m0"],
    ),
    (
        "resumed elsewhere is no move",
        [RUNS, view(want=None), view(copy("m1", epoch=2, pid=12))],
        ["ChildRegistered m1", "ChildStarted m1"],
    ),
    (
        "a second copy is no move",
        [RUNS, view(copy(pid=10), copy("m1", epoch=2, pid=12))],
        ["ChildRegistered m1", "ChildStarted m1"],
    ),
    (
        "a copy less is no move, nor one more later",
        [
            view(copy(pid=10), copy("m1", epoch=2, pid=12)),
            view(copy(pid=10)),
            view(copy(pid=10), copy("m2", epoch=3, pid=13)),
        ],
        ["ChildRegistered m2", "ChildStarted m2"],
    ),
    (
        "waiting for a member, then placed elsewhere",
        [RUNS, view(), view(copy("m1", epoch=2, pid=12))],
        ["ChildRegistered m1", "ChildMoved m1", "ChildStarted m1"],
    ),
]


@pytest.mark.parametrize(("views", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_changes_of_a_child_are_events(views: list[HubView], expected: list[str]) -> None:
    assert kinds(*views) == expected


def test_the_first_view_causes_no_event() -> None:
    assert emitted(view(copy(pid=10))) == []


def test_each_event_has_its_data() -> None:
    moved = Move("a", "m0", "m1", "m1 joined")
    begun = view(copy(pid=10), copy("m1", epoch=2, wait=True), moves=(moved,), moving=1)

    assert emitted(NOTHING, RUNS) == [
        (
            "ChildRegistered",
            {
                "child": "a",
                "uid": "u",
                "member": "m0",
                "epoch": 1,
                "role": "Active",
                "tags": ["t"],
                "metadata": {"k": "v"},
            },
        ),
        ("ChildStarted", {"child": "a", "uid": "u", "member": "m0", "epoch": 1, "pid": 10, "role": "Active"}),
    ]
    assert emitted(RUNS, view(copy(pid=11))) == [
        (
            "ChildPidUpdated",
            {"child": "a", "uid": "u", "member": "m0", "epoch": 1, "pid": 11, "previousPid": 10, "role": "Active"},
        )
    ]
    assert emitted(RUNS, view(want=None))[1] == (
        "ChildStopped",
        {"child": "a", "uid": "u", "member": "m0", "epoch": 1, "pid": 10, "reason": "Ordered"},
    )
    assert emitted(RUNS, begun, view(copy("m1", epoch=3)))[3:] == [
        ("ChildMoved", {"child": "a", "uid": "u", "from": "m0", "to": "m1", "epoch": 3, "why": "m1 joined"}),
        ("RedistributionDone", {"moves": 1}),
    ]


# members


def members(**states: MemberSeen) -> HubView:
    return HubView(members=states)


THERE = MemberSeen(phase=LIVE)
NOT_YET = MemberSeen(phase=HELD, restarting=True)
MEMBER_CASES = [
    ("before its first start", [members(), members(m0=NOT_YET)], []),
    ("first start", [members(m0=NOT_YET), members(m0=THERE)], ["MemberJoining m0", "MemberJoined m0"]),
    ("a joiner", [members(), members(m0=MemberSeen(phase=LIVE, joining=True))], ["MemberJoining m0"]),
    (
        "a joiner with its share",
        [members(), members(m0=MemberSeen(phase=LIVE, joining=True)), members(m0=THERE)],
        ["MemberJoined m0"],
    ),
    ("restarts", [members(m0=THERE), members(m0=NOT_YET)], []),
    ("came back", [members(m0=THERE), members(m0=NOT_YET), members(m0=THERE)], []),
    ("found restarting", [members(m0=MemberSeen(phase=HELD, restarting=True, occupied=True)), members(m0=THERE)], []),
    ("lost", [members(m0=THERE), members(m0=MemberSeen(phase=GONE))], ["MemberLeft m0"]),
    ("lost and back", [members(m0=MemberSeen(phase=GONE)), members(m0=THERE)], ["MemberJoining m0", "MemberJoined m0"]),
    ("still lost", [members(m0=MemberSeen(phase=GONE)), members(m0=MemberSeen(phase=GONE))], []),
    ("forgotten", [members(m0=THERE), members()], ["MemberLeft m0"]),
    (
        "drained",
        [members(m0=THERE), members(m0=MemberSeen(phase=LIVE, leaving=True, occupied=True))],
        ["MemberLeaving m0"],
    ),
    (
        "drained to the end",
        [
            members(m0=THERE),
            members(m0=MemberSeen(phase=LIVE, leaving=True, occupied=True)),
            members(m0=MemberSeen(phase=LIVE, leaving=True)),
        ],
        ["DrainCompleted m0"],
    ),
    (
        "drained once",
        [
            members(m0=THERE),
            members(m0=MemberSeen(phase=LIVE, leaving=True)),
            members(m0=MemberSeen(phase=LIVE, leaving=True)),
        ],
        [],
    ),
    (
        "drained and gone at once",
        [
            members(m0=THERE),
            members(m0=MemberSeen(phase=LIVE, leaving=True, occupied=True)),
            members(m0=MemberSeen(phase=GONE)),
        ],
        ["DrainCompleted m0", "MemberLeft m0"],
    ),
    (
        "bound children keep it",
        [members(m0=THERE), HubView(members={"m0": THERE}, stranded={"m0": ("a",)})],
        ["MigrationDeferred m0"],
    ),
    (
        "a child would not go",
        [members(m0=THERE), HubView(members={"m0": THERE}, deferred=("a",))],
        ["MigrationDeferred"],
    ),
    ("quorum lost", [members(), HubView(members={}, partitioned=True)], ["PartitionEntered"]),
    ("quorum back", [members(), HubView(members={}, partitioned=True), members()], ["PartitionHealed"]),
]


@pytest.mark.parametrize(
    ("views", "expected"), [case[1:] for case in MEMBER_CASES], ids=[case[0] for case in MEMBER_CASES]
)
def test_changes_of_a_member_are_events(views: list[HubView], expected: list[str]) -> None:
    assert kinds(*views) == expected


def test_the_loss_of_a_member_causes_events_for_all_of_its_children_and_their_recovery() -> None:
    lost = {"m0": MemberSeen(phase=GONE, why="its Lease was not renewed for 16 s"), "m1": THERE}
    move = Move("a", "m0", "m1", "m0 was lost", lost=True)

    begun_events = emitted(RUNS, view(copy("m1", epoch=2), members=lost, moves=(move,)))
    done = emitted(
        RUNS, view(copy("m1", epoch=2), members=lost, moves=(move,)), view(copy("m1", epoch=2, pid=20), members=lost)
    )

    assert [(kind, data.get("reason") or data.get("why")) for kind, data in begun_events] == [
        ("MemberLeft", "its Lease was not renewed for 16 s"),
        ("ChildUnregistered", "MemberLost"),
        ("ChildStopped", "MemberLost"),
        ("ChildRegistered", None),
        ("ChildMoved", "m0 was lost"),
    ]
    assert [kind for kind, _ in done] == ["ChildStarted", "RedistributionDone", "RecoveryDone"]
    assert done[2][1] == {"member": "m0", "children": 1}


def test_a_bound_child_of_a_lost_member_stays_registered_and_starts_when_the_member_returns() -> None:
    lost = view(copy(phase=GONE), members={"m0": MemberSeen(phase=GONE), "m1": THERE})

    assert kinds(RUNS, lost) == ["MemberLeft m0", "ChildStopped m0"]
    assert kinds(RUNS, lost, view(copy(pid=11))) == [
        "MemberJoining m0",
        "MemberJoined m0",
        "ChildStarted m0",
        "RecoveryDone m0",
    ]


def test_a_child_that_has_finished_is_not_waited_for_after_a_loss() -> None:
    done = copy(state=State.STOPPED, reason=Reason.COMPLETED)
    first, following = ({"m0": MemberSeen(phase=LIVE, holder=holder)} for holder in ("first", "next"))
    lost = {"m0": MemberSeen(phase=GONE), "m1": THERE}

    assert kinds(RUNS, view(done), view(copy("m1", epoch=2, wait=True), members=lost)) == [
        "MemberLeft m0",
        "ChildUnregistered m0",
        "RecoveryDone m0",
    ]
    assert kinds(RUNS, view(done, members=first), view(done, members=following)) == ["RecoveryDone m0"]


def test_a_member_that_restarts_recovers_when_its_children_run_again() -> None:
    restarting = MemberSeen(phase=HELD, restarting=True, occupied=True)
    away = view(copy(phase=HELD), members={"m0": restarting, "m1": THERE})

    assert kinds(RUNS, away) == []
    assert kinds(RUNS, away, view(copy())) == []
    assert kinds(RUNS, away, view(copy()), view(copy(pid=11))) == ["ChildPidUpdated m0", "RecoveryDone m0"]


def test_a_member_that_restarts_between_two_views_recovers_too() -> None:
    first = {"m0": MemberSeen(phase=LIVE, holder="first"), "m1": THERE}
    second = {"m0": MemberSeen(phase=LIVE, holder="second"), "m1": THERE}
    ran, starts, runs = (
        view(copy(pid=10), members=first),
        view(copy(), members=second),
        view(copy(pid=11), members=second),
    )

    assert kinds(ran, starts) == []
    assert kinds(ran, starts, runs) == ["ChildPidUpdated m0", "RecoveryDone m0"]
    assert kinds(ran, runs) == ["ChildPidUpdated m0", "RecoveryDone m0"]
    assert kinds(ran, runs, runs) == []


def test_the_children_of_a_member_whose_state_changed_are_compared() -> None:
    tracker = Tracker()
    tracker.advance(RUNS)

    assert tracker.changed_members({"m0": THERE, "m1": THERE}) == set()
    assert tracker.changed_members({"m0": NOT_YET, "m1": THERE}) == {"m0"}
    assert tracker.changed_members({"m0": MemberSeen(phase=LIVE, holder="another"), "m1": THERE}) == {"m0"}


def test_every_event_with_a_view_as_its_source_is_derived() -> None:
    """The others have other sources: the verdicts, a new leader, and handovers."""
    every = {
        kind
        for _, views, _ in CASES + MEMBER_CASES
        for seen in range(1, len(views))
        for kind, _ in emitted(*views[: seen + 1])
    }
    every |= {"RedistributionDone", "RecoveryDone"}  # tested separately above

    assert set(HookEvent) - every == {
        HookEvent.PRE_CHILD_START,
        HookEvent.PRE_CHILD_STOP,
        HookEvent.PRE_REDISTRIBUTION,
        HookEvent.LEADERSHIP_CHANGED,
        HookEvent.HANDOVER_DELIVERED,
    }


def test_a_handover_is_a_move_that_ends_with_a_delivered_state() -> None:
    source = Assignment(uid="u", epoch=1, workload="w", to="m1:2")
    quiet = Report(uid="u", epoch=1, state=State.STOPPING, gave="2:5eed")
    gave = CopySeen(uid="u", member="m0", entry=source, report=quiet)
    target = Assignment(uid="u", epoch=3, workload="w", state="5eed")
    committed = CopySeen(uid="u", member="m1", entry=target)
    there = CopySeen(uid="u", member="m1", entry=target, report=Report(uid="u", epoch=3, state=State.RUNNING, pid=7))
    waits = copy("m1", epoch=2, wait=True)

    assert kinds(RUNS, view(gave, waits)) == ["ChildUnregistered m0"]
    assert kinds(RUNS, view(gave, waits), view(gave, committed)) == ["ChildRegistered m1", "ChildMoved m1"]
    told_last = kinds(RUNS, view(gave, waits), view(gave, committed), view(gave, there))
    assert told_last == ["ChildStarted m1", "HandoverDelivered m1"]
