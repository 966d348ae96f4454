"""The calls of start_children that are rejected before anything is written, and the specs of the others."""

from __future__ import annotations

from typing import Any

import pytest

from builders import make_hub
from processhub.api.child import ChildSpec, Exec
from processhub.api.hub import Hub
from processhub.client.errors import ChildMappingMismatch, HubError, InvalidChild, MissingChildMapping, NoChildren
from processhub.client.specs import checked_ids, prepare

SLEEP = {"command": ["sleep", "1"]}


def hub(**spec: Any) -> Hub:
    return make_hub("my-hub", spec)


GUIDED = hub(distribution={"strategy": "Guided"})

REFUSED: list[tuple[str, list[Any], dict[str, Any], type[HubError], str]] = [
    ("nothing", [], {}, NoChildren, "no children given"),
    ("no id", [{"exec": SLEEP}], {}, InvalidChild, "children[0].id: an id is needed"),
    ("id that is a number", [{"id": 5, "exec": SLEEP}], {}, InvalidChild, "children[0]: id must be text, not a whole"),
    ("id too long", [{"id": "ä" * 127, "exec": SLEEP}], {}, InvalidChild, "254 bytes of UTF-8 are too many"),
    ("id with NUL", [{"id": "a\0", "exec": SLEEP}], {}, InvalidChild, "contains control characters"),
    ("id with a C1 control", [{"id": "a\x85", "exec": SLEEP}], {}, InvalidChild, "contains control characters"),
    ("id with a lone surrogate", [{"id": "a\ud800", "exec": SLEEP}], {}, InvalidChild, "not valid UTF-8"),
    ("same id twice", [{"id": "a", "exec": SLEEP}] * 2, {}, InvalidChild, "children[1]: id 'a' appears twice"),
    ("unknown field", [{"id": "a", "exce": SLEEP}], {}, InvalidChild, "children[0]: unknown field 'exce'; known are"),
    ("snake case", [{"id": "a", "ttl_seconds": 5, "exec": SLEEP}], {}, InvalidChild, "write ttlSeconds"),
    (
        "no workload",
        [{"id": "a"}],
        {},
        InvalidChild,
        "exactly one of exec, python, pod is needed; it has none",
    ),
    (
        "two workloads",
        [{"id": "a", "exec": SLEEP, "python": {"target": "m:C"}}],
        {},
        InvalidChild,
        "it has exec and python",
    ),
    (
        "wrong type",
        [{"id": "a", "exec": {"command": "sleep"}}],
        {},
        InvalidChild,
        "exec.command must be a list, not text",
    ),
    ("not a mapping", ["a"], {}, InvalidChild, "children[0]: expected a mapping such as"),
    ("another hub", [{"id": "a", "hub": "other", "exec": SLEEP}], {}, InvalidChild, "the call goes to hub 'my-hub'"),
    ("tags as a text", [{"id": "a", "exec": SLEEP}], {"tags": "eu"}, InvalidChild, "write a list, ['eu']"),
    (
        "mapping as a text",
        [{"id": "a", "exec": SLEEP}],
        {"child_mapping": {"a": "my-hub-0"}},
        InvalidChild,
        "child_mapping['a'] is the text 'my-hub-0'; write a list",
    ),
    (
        "mapping for a stranger",
        [{"id": "a", "exec": SLEEP}],
        {"child_mapping": {"b": ["my-hub-0"]}},
        ChildMappingMismatch,
        "child_mapping names ids that are not started: b",
    ),
]


@pytest.mark.parametrize(
    ("children", "more", "error", "sentence"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_bad_call_is_rejected_with_its_message(
    children: list[Any], more: dict[str, Any], error: type[HubError], sentence: str
) -> None:
    with pytest.raises(error) as raised:
        prepare(children, hub(), **more)

    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("ids", "error", "sentence"),
    [
        ([], NoChildren, "no children given"),
        ("abc", InvalidChild, "ids is the text 'abc'; write a list, ['abc']"),
        (["a", ""], InvalidChild, "ids[1]: an id is needed"),
        ([5], InvalidChild, "ids[0]: an id is needed"),
    ],
)
def test_invalid_ids_are_rejected(ids: Any, error: type[HubError], sentence: str) -> None:
    with pytest.raises(error) as raised:
        checked_ids(ids)

    assert sentence in str(raised.value)


def test_a_guided_hub_rejects_a_call_with_a_missing_mapping() -> None:
    with pytest.raises(MissingChildMapping) as raised:
        prepare([{"id": "a", "exec": SLEEP}, {"id": "b", "exec": SLEEP, "nodes": ["my-hub-0"]}], GUIDED)

    assert raised.value.ids == ("a",)
    assert "child_mapping or nodes" in str(raised.value)


def test_a_mapping_of_the_wrong_length_is_an_error_of_that_child_only() -> None:
    specs, errors = prepare(
        [{"id": "a", "exec": SLEEP}, {"id": "b", "exec": SLEEP}],
        GUIDED,
        child_mapping={"a": ["my-hub-0"], "b": ["my-hub-0", "my-hub-1"]},
    )

    assert list(specs) == ["a"]
    assert errors["b"].reason == "ChildReplicationMismatch"


def test_nodes_on_a_hub_that_is_not_guided_are_an_error_of_that_child_only() -> None:
    specs, errors = prepare([{"id": "a", "exec": SLEEP, "nodes": ["my-hub-0"]}, {"id": "b", "exec": SLEEP}], hub())

    assert list(specs) == ["b"]
    assert errors["a"].reason == "InvalidChildMapping"


def test_a_mapping_is_as_long_as_the_replication_factor() -> None:
    replicated = hub(
        distribution={"strategy": "Guided"}, redundancy={"strategy": "Replication", "replicationFactor": 2}
    )

    specs, errors = prepare([{"id": "a", "exec": SLEEP}], replicated, child_mapping={"a": ["my-hub-0", "my-hub-1"]})

    assert not errors
    assert specs["a"].nodes == ("my-hub-0", "my-hub-1")


def test_arguments_of_the_call_apply_to_each_child_and_its_own_win() -> None:
    specs, _ = prepare(
        [
            {"id": "a", "exec": SLEEP, "metadata": {"k": "own"}, "tags": ["own", "eu"]},
            ChildSpec(id="b", exec=Exec(command=("x",))),
        ],
        hub(),
        metadata={"k": "call", "l": "call"},
        tags=["eu"],
    )

    assert specs["a"].metadata == {"k": "own", "l": "call"}
    assert specs["a"].tags == ("eu", "own")
    assert specs["b"].metadata == {"k": "call", "l": "call"}
    assert {spec.hub for spec in specs.values()} == {"my-hub"}


def test_null_fields_are_left_out_as_by_the_api_server_but_for_those_of_an_actors_arguments() -> None:
    optional = {"origin": None, "tags": None, "pinned": None, "metadata": {"k": None, "l": "x"}, "pod": None}
    python = {"target": "m:C", "args": {"limit": None}, "env": [{"name": "A", "value": None}]}
    specs, errors = prepare([{"id": "a", "python": python, **optional}], hub())

    spec = specs["a"]
    assert spec.python is not None
    assert (spec.origin, spec.tags, spec.metadata, errors) == ("", (), {"l": "x"}, {})
    assert (spec.python.args, spec.python.env[0].value) == ({"limit": None}, "")
    with pytest.raises(InvalidChild, match=r"python\.target is missing"):
        prepare([{"id": "a", "python": {"target": None}}], hub())


def test_a_child_started_on_a_member_has_it_as_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_MEMBER", "my-hub-1")
    monkeypatch.setenv("HUB_NAME", "my-hub")
    specs, _ = prepare([{"id": "a", "exec": SLEEP}, {"id": "b", "exec": SLEEP, "origin": "my-hub-2"}], hub())
    assert (specs["a"].origin, specs["b"].origin) == ("my-hub-1", "my-hub-2")

    namespace = hub().metadata.namespace
    for name, where, origin in (
        ("my-hub", namespace, "my-hub-1"),
        ("my-hub", "elsewhere", ""),  # a hub of the same name, with members of the same names
        ("other-hub", namespace, ""),
    ):
        monkeypatch.setenv("HUB_NAME", name)
        monkeypatch.setenv("HUB_NAMESPACE", where)
        specs, _ = prepare([{"id": "a", "exec": SLEEP}], hub())
        assert specs["a"].origin == origin
