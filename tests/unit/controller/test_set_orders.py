"""Move requests for children of a ChildSet, as its annotations have them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from processhub.api.childset import ChildSet
from processhub.api.grouporders import GroupOrderError, format_orders, latest, parse_move_orders
from processhub.api.naming import ANNOTATION_MOVE_TO
from processhub.controller.observe.setmoverequests import AppliedMoves, move_requests_of_sets, refusal_of_id
from processhub.controller.store.childsets import SeenSet, known_set


def seen(annotation: str, taken: dict[str, str] | None = None, **spec: Any) -> SeenSet:
    item = msgspec.convert(
        {
            "metadata": {"name": "web", "uid": "u1", "annotations": {ANNOTATION_MOVE_TO: annotation}},
            "spec": {"hub": "hub", "template": {"exec": {"command": ["true"]}}, **(spec or {"replicas": 3})},
        },
        ChildSet,
    )
    return SeenSet(known_set(item, None), taken=taken or {})


def test_ids_of_any_text_are_distinguished() -> None:
    orders = {"a,b=c": "hub-0", 'ten"ant/4 2': "hub-1"}

    text = format_orders(orders)

    assert text is not None
    assert parse_move_orders(text) == orders
    assert (parse_move_orders(""), format_orders({})) == ({}, None)


@pytest.mark.parametrize("text", ["hub-1", "[]", '{"a": 1}', "{"])
def test_an_invalid_request_is_rejected_with_the_expected_form(text: str) -> None:
    with pytest.raises(GroupOrderError, match="JSON object of ids and members, such as"):
        parse_move_orders(text)


def test_only_the_latest_rejections_are_kept() -> None:
    earlier = {f"c{number}": "why" for number in range(50)}

    assert list(latest(earlier, {"new": "why"})) == [f"c{number}" for number in range(31, 50)] + ["new"]


def test_all_requests_rejected_at_once_are_reported() -> None:
    refused = {f"web-{number}": "hub-1: it is full" for number in range(30)}

    assert latest({"earlier": "why"}, refused) == refused


def test_rejections_leave_room_in_the_annotations_of_an_object() -> None:
    refused = {f"web-{number}": "hub-1: " + "x" * 1000 for number in range(5000)}

    shown = latest({}, refused)

    assert shown.keys() == refused.keys()
    assert all(why.startswith("hub-1: x") and why.endswith("…") for why in shown.values())
    assert len(json.dumps(shown, ensure_ascii=False).encode()) < 240_000


def test_the_requests_of_a_set_are_for_its_own_ids() -> None:
    ours = seen('{"web-1": "hub-0", "web-2": "hub-0", "web-3": "hub-0"}', taken={"web-2": "child/other"})

    assert move_requests_of_sets({"u1": ours}, {}) == {"web-1": "hub-0"}
    assert refusal_of_id(ours, "web-2") == "the id belongs to child/other"
    assert refusal_of_id(ours, "web-3") == "childset/web has no such child"


def test_an_unreadable_annotation_requests_nothing_and_blocks_no_other_set() -> None:
    good = seen('{"a": "hub-2"}', ids=["a"])

    assert move_requests_of_sets({"u1": seen("web-1 to hub-0"), "u2": good}, {}) == {"a": "hub-2"}


def test_an_applied_request_that_is_still_there_is_not_applied_again() -> None:
    ours = seen('{"web-0": "hub-1", "web-1": "hub-2"}')
    held = {"u1": AppliedMoves(0.0, {"web-0": "hub-1", "web-1": "hub-0"})}

    assert move_requests_of_sets({"u1": ours}, held) == {"web-1": "hub-2"}, "another member is another order"
