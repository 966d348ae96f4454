"""The Events that a round emits: about members, placements, moves, rejections and the quorum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from a_round import a_round

from builders import HUB_UID, QUORATE, make_child, make_client, make_hub, make_member, make_observation, make_slice
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_CHILD_ID, ANNOTATION_CHILD_UID
from processhub.api.reasons import Reason
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.report.child import life_of
from processhub.controller.report.eventrules import emit, emit_changed_pods
from processhub.controller.report.memory import ReportMemory
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.store.childsets import SeenSet, known_on_demand, known_set
from processhub.controller.store.hubstate import HubState
from processhub.core.acceptance import Refusal
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Move, Plan, Unplaced
from processhub.core.model.snapshot import OnRecord
from processhub.registry.grammar import Assignment, Kept, Report

LOST = Phase.GONE
ENTRY = Assignment(uid="u", epoch=5, workload="w")
OF_SET = Assignment(uid="s", epoch=5, workload="w")


def plan_of(entries: Mapping[str, Mapping[str, Assignment | None]] | None = None, **fields: Any) -> Plan:
    return Plan(entries=entries or {}, unplaced={}, next_epoch=9, **fields)


class Leader:
    """A leader's view of a hub with the child ``a``, round by round."""

    def __init__(self, hub: Hub | None = None) -> None:
        self.hub = hub or make_hub()
        self.state, self.memory = HubState(self.hub.metadata.key), ReportMemory()
        self.state.put_child(make_child("a", {"exec": {"command": ["sleep"]}}))
        self.events = EventRecorder(make_client(), "operator")
        self.quorum = QuorumWatch(self.hub, self.state)

    def posted(self) -> list[tuple[str, str, str, str]]:
        """Return kind, reason, message and type of each Event that waits to be posted."""
        found = []
        while not self.events._queue.empty():
            _, event = self.events._queue.get_nowait()
            found.append((event["involvedObject"]["kind"], event["reason"], event["message"], event["type"]))
        return found

    def observation(self, *members: Member, **fields: Any) -> Observation:
        chosen = {known.child.id: known for known in self.state.children.values()}
        record, quorum = fields.pop("record", {}), fields.pop("quorum", QUORATE)
        seen = make_observation(
            members={item.name: item for item in members}, record=record, chosen=chosen, quorum=quorum
        )
        return msgspec.structs.replace(seen, **fields)

    def round(
        self, observation: Observation, plan: Plan | None = None, changed: tuple[str, ...] = ()
    ) -> list[tuple[str, str, str, str]]:
        """Return the Events of one round in which these children have changed."""
        round = a_round(self.hub, self.state, events=self.events)
        round.changed.update(changed)
        emit(round, observation, plan or plan_of(), self.memory, self.quorum)
        self.memory.lives = {name: life_of(member) for name, member in observation.members.items()}
        return self.posted()

    def members(self, **phases: Phase) -> list[tuple[str, str, str, str]]:
        """Return the Events of one round with these members."""
        return self.round(self.observation(*(make_member(name, phase=phase) for name, phase in phases.items())))


async def test_a_new_leader_announces_no_existing_member() -> None:
    leader = Leader()

    assert leader.members(one=Phase.LIVE, two=LOST) == []


async def test_a_member_that_joins_and_one_that_is_lost_are_announced_once() -> None:
    leader = Leader()
    leader.members(one=Phase.LIVE, two=Phase.HELD)

    assert leader.members(one=Phase.LIVE, two=Phase.LIVE) == [("Hub", "MemberJoined", "member two is there", "Normal")]
    (lost,) = leader.members(one=Phase.LIVE, two=LOST)
    assert lost == ("Hub", "MemberLost", "member two is lost: ; 0 children placed on others", "Warning")
    assert leader.members(one=Phase.LIVE, two=LOST) == []


async def test_a_member_that_is_not_wanted_any_more_is_not_announced_as_lost() -> None:
    leader = Leader()
    leader.members(one=Phase.LIVE)

    assert leader.round(leader.observation(make_member("one", phase=LOST, wanted=False))) == []


@pytest.mark.parametrize("seen", [True, False], ids=["its objects were there for a round", "all gone at once"])
async def test_a_member_that_is_scaled_away_and_back_joins_again_and_is_not_called_lost(seen: bool) -> None:
    leader = Leader()
    leader.members(one=Phase.LIVE, two=Phase.LIVE)
    if seen:
        leader.round(leader.observation(make_member("one"), make_member("two", phase=LOST, wanted=False)))
    leader.members(one=Phase.LIVE)

    assert leader.members(one=Phase.LIVE, two=LOST) == [], "its pod is not there yet"
    assert leader.members(one=Phase.LIVE, two=Phase.LIVE) == [("Hub", "MemberJoined", "member two is there", "Normal")]


async def test_nothing_is_kept_of_a_lost_member_whose_node_is_removed() -> None:
    leader = Leader()
    leader.members(one=Phase.LIVE, two=Phase.LIVE)
    leader.members(one=Phase.LIVE, two=LOST)
    assert leader.memory.away.keys() == {"two"}

    leader.members(one=Phase.LIVE)

    assert (leader.memory.away, leader.memory.seen_live) == ({}, {"one"})


async def test_a_child_is_announced_when_it_is_placed_and_when_it_moves_but_not_when_its_entry_changes() -> None:
    leader = Leader()
    move = Move("a", "one", "two", "two joined")
    on_record = {"a": (OnRecord("one", ENTRY),)}

    placed = leader.round(leader.observation(), plan_of({"one": {"a": ENTRY}}))
    changed = leader.round(leader.observation(record=on_record), plan_of({"one": {"a": ENTRY}}))
    moved = leader.round(
        leader.observation(record=on_record), plan_of({"one": {"a": None}, "two": {"a": ENTRY}}, moves=(move,))
    )

    assert placed == [("Child", "Placed", "on one", "Normal")]
    assert changed == []
    assert moved == [("Child", "Moved", "from one to two: two joined", "Normal")]


async def test_a_role_that_moves_to_another_copy_is_announced_with_the_write_to_its_source() -> None:
    leader = Leader()
    move = Move("a", "one", "two", "one is drained")

    posted = leader.round(
        leader.observation(record={"a": (OnRecord("one", ENTRY),)}), plan_of({"one": {"a": ENTRY}}, moves=(move,))
    )

    assert posted == [("Child", "Moved", "from one to two: one is drained", "Normal")]


async def test_the_children_of_a_set_are_announced_as_one_number() -> None:
    leader = Leader()
    spec = {"hub": "hub", "replicas": 3, "template": {"exec": {"command": ["sleep"]}}}
    item = msgspec.convert({"metadata": {"name": "x", "namespace": "ns", "uid": "s"}, "spec": spec}, ChildSet)
    sets = {"s": SeenSet(known_set(item, None))}
    move = Move("x-0", "one", "two", "two joined")

    placed = leader.round(leader.observation(sets=sets), plan_of({"one": {"x-0": OF_SET, "x-1": OF_SET}}))
    moved = leader.round(
        leader.observation(sets=sets, record={"x-0": (OnRecord("one", OF_SET),)}),
        plan_of({"one": {"x-0": None}, "two": {"x-0": OF_SET}}, moves=(move,)),
    )

    assert placed == [("ChildSet", "Placed", "2 children: placed", "Normal")]
    assert moved == [("ChildSet", "Moved", "1 child: moved", "Normal")]


async def test_a_rejected_child_is_announced_once_with_its_reason_and_a_suspended_one_is_not() -> None:
    leader = Leader()
    refused = leader.observation(refusals={"a": Refusal(Reason.INVALID, "spec names no workload")})

    assert leader.round(refused) == [("Child", "Rejected", "Invalid: spec names no workload", "Warning")]
    assert leader.round(refused) == []
    assert leader.round(leader.observation(refusals={"a": Refusal(Reason.SUSPENDED, "spec.suspend is true")})) == []


@pytest.mark.parametrize(
    ("text", "message", "kind"),
    [
        ("", "it does not want to be moved now", "Normal"),
        ("busy with a file", "busy with a file", "Warning"),
    ],
)
async def test_a_child_that_stays_to_keep_its_state_is_announced_with_the_reason(
    text: str, message: str, kind: str
) -> None:
    leader = Leader()
    entry = msgspec.structs.replace(ENTRY, to="two:6")
    place = OnRecord("one", entry, kept=Kept(6, "deferred", text).format())

    posted = leader.round(leader.observation(record={"a": (place,)}), plan_of(deferred=("a",)))

    assert posted == [("Child", "MoveDeferred", f"stays on one instead of moving to two: {message}", kind)]


async def test_a_lost_quorum_and_its_return_are_announced_once_each() -> None:
    leader = Leader()
    lost = msgspec.structs.replace(QUORATE, quorate=False, partitioned=True, why="1 of 3 members is live")
    back = msgspec.structs.replace(QUORATE, why="2 of 3 members are live")

    rounds = [leader.round(leader.observation(quorum=verdict)) for verdict in (lost, lost, back, back)]

    assert rounds == [
        [("Hub", "PartitionEntered", "1 of 3 members is live", "Warning")],
        [],
        [("Hub", "PartitionHealed", "2 of 3 members are live; the children start again", "Normal")],
        [],
    ]


@pytest.mark.parametrize(
    ("strategy", "holder", "healed"),
    [("Divergence", "pod/1", True), ("Divergence", "pod/2", False), ("MajorityQuorum", "pod/1", False)],
    ids=["cut off", "restarted", "quorum"],
)
async def test_a_member_that_was_cut_off_is_announced_with_the_copies_that_it_ends(
    strategy: str, holder: str, healed: bool
) -> None:
    """A member that has restarted has no copies any more; with a quorum it has ended them itself."""
    leader = Leader(make_hub(spec={"partitionTolerance": {"strategy": strategy}}))
    leader.round(leader.observation(make_member("one", holder="pod/1")))
    move = Move("a", "one", "two", "one is lost", lost=True)
    gone = make_member("one", phase=LOST, holder="pod/1")
    (lost,) = leader.round(leader.observation(gone), plan_of(moves=(move,)))
    assert lost[2].endswith("; 1 child placed on others")

    waits = make_slice({"a": msgspec.structs.replace(ENTRY, wait=True)}, member="one")
    posted = leader.round(leader.observation(make_member("one", waits, holder=holder)))

    message = "member one is back and ends its copies of 1 child, on record elsewhere: a"
    assert (("Hub", "Healed", message, "Normal") in posted) is healed
    assert ("Hub", "MemberJoined", "member one is there", "Normal") in posted


async def test_changed_labels_of_a_pod_are_announced_on_its_child_or_else_on_the_hub() -> None:
    leader = Leader()
    pods = [
        Pod(metadata=ObjectMeta(annotations={ANNOTATION_CHILD_ID: "a", ANNOTATION_CHILD_UID: uid}))
        for uid in ("u", "of-an-earlier-one")
    ]

    round = a_round(leader.hub, leader.state, events=leader.events)
    emit_changed_pods(round, leader.observation(), [(pod, "somebody changed it") for pod in pods])

    assert leader.posted() == [
        ("Child", "PodChanged", "somebody changed it", "Warning"),
        ("Hub", "PodChanged", "somebody changed it", "Warning"),
    ]


async def test_a_crash_loop_is_a_warning_once_for_each_cause() -> None:
    leader = Leader()

    def ends(restarts: int, last_exit: str, epoch: int = 5) -> list[tuple[str, str, str, str]]:
        report = Report(uid="u", epoch=epoch, state="Failed", reason="Exited", restarts=restarts, last_exit=last_exit)
        member = make_member("one", make_slice({"a": ENTRY}, {"a": report}, holder="x/1"), holder="x/1")
        leader.memory.seen_live.add("one")
        return leader.round(leader.observation(member), changed=("a",))

    assert ends(2, "exit code 1") == [], "it may be a moment's trouble"
    message = "it keeps ending on one and is restarted with back-off: Exited, exit code 1"
    assert ends(3, "exit code 1") == [("Child", "BackOff", message, "Warning")]
    assert ends(4, "exit code 1") == []
    assert ends(5, "killed by SIGKILL") != []
    assert ends(9, "exit code 9", epoch=4) == [], "of an earlier incarnation"


def looping(child_id: str, restarts: int, epoch: int = 5, state: str = "Failed") -> Report:
    return Report(uid=HUB_UID, epoch=epoch, state=state, restarts=restarts, reason="Exited", last_exit=child_id)


def running(reports: Mapping[str, Report]) -> Member:
    """A member with children that requests have started."""
    entries = {
        child_id: Assignment(uid=HUB_UID, epoch=report.epoch, workload="w", on_demand=True)
        for child_id, report in reports.items()
    }
    return make_member("one", make_slice(entries, reports, member="one", holder="pod/1"), holder="pod/1")


async def test_children_on_demand_that_keep_ending_are_announced_together_and_once_for_each_run() -> None:
    leader = Leader()
    leader.members(one=Phase.LIVE)

    def posted(reports: Mapping[str, Report]) -> list[tuple[str, str, str, str]]:
        member = running(reports)
        record = {id_: (OnRecord("one", entry),) for id_, entry in member.slices[0].assignments.items()}
        return leader.round(leader.observation(member, record=record), changed=tuple(reports))

    assert posted({"b": looping("b", 2), "c": looping("c", 0, state="Running")}) == []
    (loops,) = posted({"b": looping("b", 3), "d": looping("d", 7)})
    assert loops == (
        "Hub",
        "BackOff",
        "children on demand keep ending and are restarted with back-off: 'b' (Exited, b), 'd' (Exited, d)",
        "Warning",
    )
    assert posted({"b": looping("b", 4), "d": looping("d", 8, state="Running")}) == []
    assert posted({"b": looping("b", 5), "d": looping("d", 9)}) == []
    assert len(posted({"b": looping("b", 3, epoch=6)})) == 1, "another run of it"


async def test_ids_that_requests_ask_for_and_that_get_no_place_are_announced_together_and_once() -> None:
    hub = make_hub(spec={"onDemand": {"exec": {"command": ["x"]}}})
    leader = Leader(hub)
    leader.members(one=Phase.LIVE)
    wanted = known_on_demand(hub, set("bcdefg"), {}, None)

    def posted(unplaced: Mapping[str, Unplaced]) -> list[tuple[str, str, str, str]]:
        record = {"f": (OnRecord("one", Assignment(uid=HUB_UID, epoch=5, workload="w")),)}
        seen = leader.observation(record=record, sets={HUB_UID: SeenSet(wanted)})
        found = leader.round(seen, msgspec.structs.replace(plan_of(), unplaced=unplaced))
        leader.memory.unplaced = dict(unplaced)
        return found

    denied = Unplaced(Reason.HOOK_DENIED, "no eu")
    waits = Unplaced(Reason.WAITING, "waiting for the answer of hook h")
    every = {**dict.fromkeys("abcdef", denied), "g": waits}
    assert posted(every) == [
        (
            "Hub",
            "Rejected",
            "not started although requests ask for it: 'b', 'c', 'd' and 1 more: HookDenied: no eu",
            "Warning",
        ),
        (
            "Hub",
            "Rejected",
            "the edited spec.onDemand is denied, and the former one runs on: 'f': HookDenied: no eu",
            "Warning",
        ),
    ]
    assert posted(every) == []
    assert len(posted({**every, "c": Unplaced(Reason.NO_MEMBERS, "no member")})) == 1

    ((_, _, message, _),) = posted({"f": Unplaced(Reason.INVALID, "its pod is refused: no")})
    assert message == "not started although requests ask for it: 'f': Invalid: its pod is refused: no"
