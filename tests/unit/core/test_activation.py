"""Views: who may start an id by itself, and when a view is opened and closed (docs/protocol.md, rules 26 to 33)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.core.model.activation import (
    Standing,
    View,
    ViewPhase,
    ViewStep,
    chosen_member,
    is_closed,
    shares,
    view_step,
)

_IDS = [f"cart-{number}" for number in range(2000)]


def view(number: int, *names: str, strategy: str = "ConsistentHashing") -> View:
    return View(number, strategy, tuple((name, 1) for name in names))


def standing(of: View | None, phase: ViewPhase = ViewPhase.OPEN, **more: object) -> Standing:
    return msgspec.structs.replace(Standing(view=of, phase=phase, holder="p/1", present="p/1"), **more)


@pytest.mark.parametrize("strategy", ["ConsistentHashing", "Modulo"])
def test_the_choice_depends_on_the_id_and_the_view_alone(strategy: str) -> None:
    one, other = view(1, "h-0", "h-1", "h-2", strategy=strategy), view(9, "h-0", "h-1", "h-2", strategy=strategy)

    chosen = [chosen_member(one, child_id) for child_id in _IDS]

    assert chosen == [chosen_member(other, child_id) for child_id in _IDS]
    assert all(chosen.count(name) > 500 for name in ("h-0", "h-1", "h-2"))


def test_with_modulo_a_number_chooses_its_member() -> None:
    three = view(1, "h-0", "h-1", "h-2", strategy="Modulo")

    assert [chosen_member(three, str(number)) for number in (0, 1, 2, 3)] == ["h-0", "h-1", "h-2", "h-0"]


def test_a_member_less_moves_only_the_ids_that_were_its() -> None:
    three, two = view(1, "h-0", "h-1", "h-2"), view(2, "h-0", "h-2")

    moved = {chosen_member(three, child_id) for child_id in _IDS if chosen_member(two, child_id) !=
             chosen_member(three, child_id)}  # fmt: skip

    assert moved == {"h-1"}


def test_a_member_of_weight_0_activates_nothing() -> None:
    assert chosen_member(View(1, "ConsistentHashing", (("h-0", 0), ("h-1", 1))), "a") == "h-1"
    assert chosen_member(View(1, "ConsistentHashing", (("h-0", 0),)), "a") == ""
    assert chosen_member(View(1, "Modulo", ()), "a") == ""
    three = View(1, "Modulo", (("h-0", 1), ("h-1", 0), ("h-2", 1)))
    assert [chosen_member(three, str(number)) for number in (0, 2, 3, 5)] == ["h-0", "h-2", "h-0", "h-2"]
    assert {chosen_member(three, str(number)) for number in range(1, 99, 3)} == {"h-0", "h-2"}, "by the hash"


def test_the_first_view_is_opened_for_all_its_members() -> None:
    wanted = view(7, "h-0", "h-1")

    step = view_step(wanted, {"h-0": standing(None), "h-1": standing(None)}, ready=True)

    assert step == ViewStep(wanted, wanted, grant=("h-0", "h-1"))


def test_the_next_view_is_opened_when_each_member_has_closed_or_is_gone() -> None:
    old, wanted = view(1, "h-0", "h-1"), view(7, "h-0")
    opened = {"h-0": standing(old), "h-1": standing(old)}
    closing = {name: standing(old, ViewPhase.CLOSING) for name in opened}
    answered = closing | {"h-0": standing(old, ViewPhase.CLOSING, answered=True)}
    gone = answered | {"h-1": standing(old, ViewPhase.CLOSING, gone=True)}

    assert view_step(wanted, opened, ready=True) == ViewStep(old, close=("h-0", "h-1"))
    assert view_step(wanted, closing, ready=True) == ViewStep(old)
    assert view_step(wanted, answered, ready=True) == ViewStep(old)
    assert view_step(wanted, gone, ready=False) == ViewStep()
    assert view_step(wanted, gone, ready=True) == ViewStep(wanted, wanted, grant=("h-0",))


def test_a_member_that_is_gone_closes_only_once_its_slice_says_so() -> None:
    old = view(1, "h-0", "h-1")
    there = {"h-0": standing(old, ViewPhase.CLOSING, answered=True), "h-1": standing(old, gone=True)}

    assert not is_closed(old, there)
    assert view_step(view(7, "h-0"), there, ready=True).close == ("h-1",)


def test_a_view_that_is_opened_in_part_is_closed_for_all_its_members() -> None:
    old = view(1, "h-0", "h-1")

    step = view_step(view(7, "h-0"), {"h-0": standing(old), "h-1": standing(None)}, ready=True)

    assert step.close == ("h-0", "h-1")


def test_a_view_that_is_opened_in_part_is_opened_for_the_rest_where_it_is_still_wanted() -> None:
    old = view(1, "h-0", "h-1")

    step = view_step(view(7, "h-0", "h-1"), {"h-0": standing(old), "h-1": standing(None)}, ready=False)

    assert step == ViewStep(old, old, grant=("h-1",))


def test_a_view_that_is_being_closed_is_not_opened_again() -> None:
    old = view(1, "h-0", "h-1")
    there = {"h-0": standing(old, ViewPhase.CLOSING), "h-1": standing(old)}

    assert view_step(view(7, "h-0", "h-1"), there, ready=True) == ViewStep(old, close=("h-1",))


def test_a_process_that_is_new_gets_a_new_block() -> None:
    old = view(1, "h-0", "h-1")
    there = {"h-0": standing(old, present="p/2"), "h-1": standing(old, present="")}

    assert view_step(view(7, "h-0", "h-1"), there, ready=False) == ViewStep(old, old, grant=("h-0",))


def test_a_leader_change_changes_nothing() -> None:
    old = view(1, "h-0", "h-1")

    assert view_step(view(10**9, "h-0", "h-1"), {"h-0": standing(old), "h-1": standing(old)}, ready=False).grant == ()


def test_a_hub_that_is_to_have_no_view_closes_the_one_that_it_has() -> None:
    old = view(1, "h-0")

    assert view_step(None, {"h-0": standing(old)}, ready=True) == ViewStep(old, close=("h-0",))
    assert view_step(None, {"h-0": standing(old, ViewPhase.CLOSING, answered=True)}, ready=True) == ViewStep()


@given(
    st.integers(0, 50),
    st.dictionaries(st.sampled_from(["h-0", "h-1", "h-2", "h-3"]), st.integers(0, 9)),
    st.lists(st.sampled_from(["h-0", "h-1", "h-2"]), unique=True),
)
def test_shares_never_exceed_the_limit(limit: int, counts: dict[str, int], members: list[str]) -> None:
    """What members outside of the view have counts too; nobody's share is below what it has, if all have a place."""
    given = shares(limit, counts, members)

    outside = sum(count for name, count in counts.items() if name not in given)
    assert sum(given.values()) + outside <= max(limit, outside)
    if members and sum(counts.values()) <= limit:
        assert sum(given.values()) + outside == limit
        assert all(share >= counts.get(name, 0) for name, share in given.items())


@given(
    st.integers(0, 50), st.dictionaries(st.sampled_from(["h-0", "h-1", "h-2"]), st.integers(0, 9)), st.integers(0, 9)
)
def test_a_late_share_is_of_what_the_others_left(limit: int, counts: dict[str, int], ended: int) -> None:
    """A member whose slice 0 was written later: meanwhile children of the others may have ended."""
    members = ["h-0", "h-1", "h-2"]
    first = shares(limit, counts, members)
    late = first.pop("h-2")
    now = {name: max(0, count - ended) for name, count in counts.items()}

    again = shares(limit, now, members, first)

    assert again.keys() == {"h-2"}
    assert sum(first.values()) + again["h-2"] <= limit
    assert again["h-2"] >= late or sum(counts.values()) > limit
