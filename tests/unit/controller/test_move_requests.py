"""Removing move requests from their objects and writing the results: every request comes to an end."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from a_round import a_round

from builders import make_hub
from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.naming import ANNOTATION_MOVE_REFUSED, ANNOTATION_MOVE_TO
from processhub.cluster.errors import InvalidError
from processhub.controller.execute.moverequests import MoveRequests
from processhub.controller.observe.setmoverequests import AppliedMoves
from processhub.controller.store.childsets import SeenSet, known_set

_ANNOTATIONS_BYTES = 256 * 1024  # the API server's limit for all of an object's


class OneObject:
    """An API server with one object, and its client: only annotations are patched."""

    def __init__(self, kind: type[Child | ChildSet], spec: dict[str, Any], **annotations: str) -> None:
        named = {"name": "web", "namespace": "ns", "uid": "u1"}
        named_annotations = {f"processhub.dev/{name.replace('_', '-')}": text for name, text in annotations.items()}
        self.item = msgspec.convert({"metadata": {**named, "annotations": named_annotations}, "spec": spec}, kind)
        self.patches = 0

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.item.metadata.annotations)

    def order(self, text: str) -> None:
        self._store({**self.annotations, ANNOTATION_MOVE_TO: text})

    async def patch(self, _kind: Any, _namespace: str, _name: str, patch: Any, *, content_type: str) -> Any:
        assert content_type == "application/json-patch+json"
        self.patches += 1
        after = self.annotations
        for each in patch:
            key = each["path"].removeprefix("/metadata/annotations/").replace("~1", "/").replace("~0", "~")
            if each["op"] == "add":
                after[key] = each["value"]
            elif each["op"] == "remove":
                del after[key]
            elif key != "/metadata/uid" and after.get(key) != each["value"]:
                raise InvalidError(422, "Invalid", "the server rejected our request due to an error in our request")
        if sum(len(name) + len(text.encode()) for name, text in after.items()) > _ANNOTATIONS_BYTES:
            raise InvalidError(422, "Invalid", "metadata.annotations: Too long: must have at most 262144 bytes")
        self._store(after)
        return self.item

    def _store(self, annotations: dict[str, str]) -> None:
        metadata = msgspec.structs.replace(self.item.metadata, annotations=annotations)
        self.item = msgspec.structs.replace(self.item, metadata=metadata)


class Rounds:
    """The rounds of one hub."""

    def __init__(self, api: OneObject) -> None:
        self.api = api
        self.held: dict[str, AppliedMoves] = {}

    async def record_results(self, results: dict[str, str], now: float = 0.0, seen: Any = None) -> float | None:
        """Run one round that sees the object as it is, or as it was at ``seen``."""
        item = seen or self.api.item
        chosen, sets, orders = {}, {}, {}
        if isinstance(item, Child):
            chosen = {item.id: SimpleNamespace(child=item, metadata=item.metadata)}
            orders = {item.id: item.metadata.annotations.get(ANNOTATION_MOVE_TO, "hub-1")}
        else:
            sets = {"u1": SeenSet(known_set(item, None))}
        observation = SimpleNamespace(chosen=chosen, sets=sets, snapshot=SimpleNamespace(move_requests=orders))
        store = SimpleNamespace(put=lambda *_: None)
        events = SimpleNamespace(about_child=lambda *_, **__: None)
        round = a_round(make_hub(), client=self.api, store=store, events=events, now=lambda: now)
        await MoveRequests(round, self.held).record_results(cast(Any, observation), results)
        return round.requeue.after


def a_set(orders: dict[str, str], **annotations: str) -> OneObject:
    spec = {"hub": "hub", "replicas": len(orders), "template": {"exec": {"command": ["true"]}}}
    return OneObject(ChildSet, spec, move_to=json.dumps(orders), **annotations)


def a_child(**annotations: str) -> OneObject:
    return OneObject(Child, {"hub": "hub", "exec": {"command": ["true"]}}, **annotations)


def web(count: int, member: str = "hub-1") -> dict[str, str]:
    return {f"web-{number}": member for number in range(count)}


async def test_all_requests_rejected_in_one_round_get_their_result() -> None:
    api = a_set(web(30))

    await Rounds(api).record_results(dict.fromkeys(web(30), "hub-1 is full"))

    assert ANNOTATION_MOVE_TO not in api.annotations
    assert json.loads(api.annotations[ANNOTATION_MOVE_REFUSED]) == dict.fromkeys(web(30), "hub-1: hub-1 is full")


@pytest.mark.parametrize("count", [20, 5000])
async def test_long_rejections_of_a_set_are_cut_so_that_its_requests_end(count: int) -> None:
    api = a_set(web(count))

    await Rounds(api).record_results(dict.fromkeys(web(count), "no such member; there are " + "a-long-name, " * 2000))

    assert ANNOTATION_MOVE_TO not in api.annotations
    assert json.loads(api.annotations[ANNOTATION_MOVE_REFUSED]).keys() == web(count).keys()


async def test_a_long_rejection_of_a_child_is_cut_so_that_its_request_ends() -> None:
    api = a_child(move_to="hub-9")

    await Rounds(api).record_results({"web": "there are " + "a-long-name, " * 30_000})

    assert ANNOTATION_MOVE_TO not in api.annotations
    assert len(api.annotations[ANNOTATION_MOVE_REFUSED]) == 200
    assert api.annotations[ANNOTATION_MOVE_REFUSED].startswith("hub-9: there are a-long-name, ")


@pytest.mark.parametrize("make", [lambda more: a_child(move_to="h", more=more), lambda more: a_set(web(1), more=more)])
async def test_a_result_for_which_there_is_no_room_is_left_out(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    api = make("x" * (_ANNOTATIONS_BYTES - 100))

    await Rounds(api).record_results(dict.fromkeys(("web", "web-0"), "it is full of " + "children " * 20))

    assert api.annotations.keys() == {"processhub.dev/more"}
    assert [(record.levelno, record.message) for record in caplog.records if record.name != "asyncio"] == [
        (
            logging.WARNING,
            f"the order on {api.item.kind} web is off without an answer: "
            "metadata.annotations: Too long: must have at most 262144 bytes",
        )
    ]


async def test_a_request_that_was_replaced_meanwhile_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    api = a_set(web(1), move_refused='{"other": "why"}')
    seen = api.item
    api.order('{"web-0": "hub-2"}')

    await Rounds(api).record_results({"web-0": "hub-1 is full"}, seen=seen)

    assert api.annotations[ANNOTATION_MOVE_TO] == '{"web-0": "hub-2"}'
    assert api.annotations[ANNOTATION_MOVE_REFUSED] == '{"other": "why"}'
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("refusal", ["", "member hub-1 is drained"])
async def test_a_child_without_a_request_gets_no_result(refusal: str) -> None:
    """The Hub had the request, and the Child was declared for the id since."""
    api = a_child()

    await Rounds(api).record_results({"web": refusal})

    assert (api.patches, api.annotations) == (0, {})


async def test_applied_requests_are_removed_once_a_second() -> None:
    api = a_set(web(5))
    rounds = Rounds(api)

    assert await rounds.record_results({"web-0": ""}, now=10.0) is None
    assert await rounds.record_results({"web-1": ""}, now=10.25) == 0.75
    assert await rounds.record_results({"web-2": ""}, now=10.5) == 0.5
    assert (api.patches, rounds.held["u1"].applied) == (1, {"web-1": "hub-1", "web-2": "hub-1"})

    assert await rounds.record_results({}, now=11.0) is None
    assert json.loads(api.annotations[ANNOTATION_MOVE_TO]).keys() == {"web-3", "web-4"}
    assert (api.patches, rounds.held["u1"].applied) == (2, {})


async def test_the_last_request_and_rejections_are_written_at_once() -> None:
    api = a_set(web(4))
    rounds = Rounds(api)
    await rounds.record_results({"web-0": ""}, now=10.0)
    await rounds.record_results({"web-1": ""}, now=10.1)

    assert await rounds.record_results({"web-2": "hub-1 is full"}, now=10.2) is None
    assert json.loads(api.annotations[ANNOTATION_MOVE_TO]).keys() == {"web-3"}

    assert await rounds.record_results({"web-3": ""}, now=10.3) is None
    assert ANNOTATION_MOVE_TO not in api.annotations


async def test_the_applied_moves_of_a_set_are_forgotten_with_it() -> None:
    rounds = Rounds(a_child(move_to="hub-1"))
    rounds.held["u1"] = AppliedMoves(10.0, web(1))

    await rounds.record_results({}, now=10.5)

    assert not rounds.held
