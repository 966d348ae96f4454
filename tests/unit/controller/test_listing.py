"""The costs and texts about the members of large hubs with many children."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import Any

from planned_hub import PlannedHub, child, hub_spec

from builders import make_member, make_slice
from processhub.api.child import ChildSpec
from processhub.controller.observe.members import Member
from processhub.controller.report.child import copies_by_id, copies_of
from processhub.core.acceptance import unknown_member
from processhub.core.listing import MemberNames
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment, Report

NAMES = [f"node-{number:03}" for number in range(800)]
_CONDITION_MAX = 32_768
ENTRY = Assignment(uid="u", epoch=7, workload="w")
REPORT = Report(uid="u", epoch=7, state="Running")


def test_the_message_about_an_unknown_member_names_some_members_and_counts_the_rest() -> None:
    """A condition's message that is too long is rejected, and the whole status with it."""
    refusal = unknown_member(ChildSpec(hub="h", nodes=("elsewhere",)), MemberNames(NAMES))

    assert refusal is not None
    assert refusal.message == (
        f"spec.nodes: the hub has no member 'elsewhere'; its members are {', '.join(NAMES[:10])} and 790 more"
    )
    assert unknown_member(ChildSpec(hub="h", nodes=("node-700",)), MemberNames(NAMES)) is None


def test_children_that_wait_for_many_members_name_some_of_them() -> None:
    hub = PlannedHub(1000, hub_spec())
    hub.want([child("a"), child("b")])
    for name in list(hub.members):
        hub.change(name, settled=False)

    planned = plan(hub.snapshot())

    assert planned.unplaced.keys() == {"a", "b"}
    for why in planned.unplaced.values():
        assert why.message.endswith("and 990 more confirmed what it runs after a leader change")
        assert len(why.message) < _CONDITION_MAX


class Counted(dict[str, Member]):
    """Members that count how often they are iterated over."""

    looks = 0

    def values(self) -> ValuesView[Member]:
        self.looks += 1
        return super().values()

    def items(self) -> ItemsView[str, Member]:
        self.looks += 1
        return super().items()

    def __iter__(self) -> Iterator[str]:
        self.looks += 1
        return super().__iter__()


def member(name: str, holder: str, **entries: Any) -> Member:
    placed, told = dict.fromkeys(entries["placed"], ENTRY), dict.fromkeys(entries["told"], REPORT)
    return make_member(name, make_slice(placed, told, member=name, holder=holder))


def test_the_copies_of_many_children_are_found_in_one_pass_over_the_members() -> None:
    """One look for each child with a ttl took 1.7 s in a round for 50,000 children on 100 members."""
    members = Counted(
        {
            "hub-0": member("hub-0", "", placed=["a", "b"], told=["b", "c"]),
            "hub-1": member("hub-1", "another", placed=["a"], told=["a", "d"]),
        }
    )
    ids = {"a", "b", "c", "d", "e"}

    found = copies_by_id(ids, members)

    assert members.looks == 1
    assert found == {child_id: copies for child_id in ids if (copies := copies_of(child_id, members))}
    assert {child_id: [copy.member for copy in copies] for child_id, copies in found.items()} == {
        "a": ["hub-0", "hub-1"],
        "b": ["hub-0"],
        "c": ["hub-0"],
    }
    assert found["c"][0].entry is None
    assert found["b"][0].report is not None
