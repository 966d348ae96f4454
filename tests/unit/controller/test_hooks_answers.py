"""The verdicts of Pre hooks, and the child that results from them."""

from __future__ import annotations

import codecs
import json
from typing import Any

import msgspec
import pytest

from processhub.api.child import Child, Workload
from processhub.api.hub import HubSpec
from processhub.controller.hooks.verdicts import HookVerdict, changed_child, parse_answer
from processhub.controller.hooks.webhook import HookError
from processhub.controller.observe.admission import StartCandidate
from processhub.core.acceptance import refuse_hub
from processhub.core.model.snapshot import attributes_digest, desired_child
from processhub.core.planning.builder import same_attributes
from processhub.registry.grammar import Assignment, format_assignment, parse_assignment
from processhub.registry.workloads import encode_workload

EXEC = {"exec": {"command": ["run"], "env": [{"name": "A", "value": "1"}]}}
PYTHON = {"python": {"target": "m:C", "args": {"a": 1, "b": 2}}}
POD: dict[str, Any] = {"pod": {"template": {"spec": {"containers": [{"name": "c"}]}}}}


def known(**spec: Any) -> StartCandidate:
    child = msgspec.convert(
        {
            "metadata": {"name": "a", "uid": "u"},
            "spec": {"hub": "h", "tags": ["own"], "metadata": {"k": "own"}, **spec},
        },
        Child,
    )
    name, text = encode_workload(child.spec)
    return StartCandidate(desired_child(child.spec, child.id, "u", name), child.spec, text, 1)


@pytest.mark.parametrize("body", [b"", b" \n", b"null", b"{}", b'{"allow": true}', None, {}, {"allow": True}])
def test_an_empty_verdict_allows_and_changes_nothing(body: Any) -> None:
    child = known(**EXEC)

    assert parse_answer(body) == HookVerdict()
    assert changed_child(child, parse_answer(body)) == (child.wanted, child.workload)


def test_a_denial_has_its_reason() -> None:
    denial = b'{"allow": false, "reason": "not today"}'

    assert parse_answer(denial) == HookVerdict(allow=False, reason="not today")
    assert parse_answer(codecs.BOM_UTF8 + denial) == parse_answer(denial), "as .NET may write it"


def test_null_fields_of_an_answer_count_as_left_out() -> None:
    nulls = {"reason": None, "metadata": None, "tags": None, "env": {"A": None}, "args": {"limit": None}}

    assert parse_answer({"allow": False, **nulls}) == HookVerdict(allow=False, args={"limit": None})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"yes", "it is no JSON: see byte 0"),
        (b"[]", "it must be a mapping, not a list"),
        (b'{"allow": "yes"}', "allow must be true or false, not text"),
        (b'{"allow": null}', "allow must be true or false, not null"),
        (b'{"alow": true}', "alow is no field; write allow"),
        (b'{"tags": "gold"}', "tags must be a list, not text"),
        (b'{"metadata": {"k": 1}}', "each value of metadata must be text, not a whole number"),
        ("text", "it must be a mapping, not text"),
    ],
)
def test_an_invalid_verdict_is_rejected_in_a_sentence(body: Any, why: str) -> None:
    with pytest.raises(HookError, match="write a JSON object of allow, reason, metadata, tags, env and args") as raised:
        parse_answer(body)

    assert why in str(raised.value)


def test_metadata_tags_and_environment_are_merged_over_the_childs_own() -> None:
    answer = HookVerdict(metadata={"k": "new", "l": "more"}, tags=("gold", "own"), env={"A": "2", "B": "3"})

    changed, text = changed_child(known(**EXEC), answer)

    assert changed.tags == ("own", "gold")
    assert changed.metadata == (("k", "new"), ("l", "more"))
    assert json.loads(text)["exec"]["env"] == [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]
    assert encode_workload(msgspec.json.decode(text, type=Workload)) == (changed.workload, text)
    assert changed.asked == attributes_digest(known(**EXEC).wanted)


def test_a_variable_of_a_verdict_replaces_one_from_a_file() -> None:
    env = [{"name": "A", "valueFrom": {"file": "/a"}}, {"name": "B", "valueFrom": {"file": "/b"}}]
    own = {"python": {**PYTHON["python"], "env": env}}

    _, text = changed_child(known(**own), HookVerdict(env={"A": "2"}))

    assert json.loads(text)["python"]["env"] == [{"name": "A", "value": "2"}, env[1]]


def test_arguments_are_merged_over_those_of_a_python_child() -> None:
    _, text = changed_child(known(**PYTHON), HookVerdict(args={"b": 3, "c": [4]}))

    assert json.loads(text)["python"]["args"] == {"a": 1, "b": 3, "c": [4]}


def test_of_several_verdicts_the_later_one_wins() -> None:
    both = HookVerdict(metadata={"k": "1", "l": "1"}, tags=("a",)).then(
        HookVerdict(metadata={"k": "2"}, tags=("b", "a"))
    )

    assert both == HookVerdict(metadata={"k": "2", "l": "1"}, tags=("a", "b"))


@pytest.mark.parametrize(
    ("spec", "answer", "why"),
    [
        (POD, HookVerdict(env={"A": "1"}), "a pod child has its variables in pod.template"),
        (EXEC, HookVerdict(args={"a": 1}), "only python children have them"),
        (EXEC, HookVerdict(env={"1A": "x"}), "env: at most 256 names of letters, digits and underscores"),
        (EXEC, HookVerdict(tags=("",)), "tags: at most 32 of 1 to 128 characters"),
        (EXEC, HookVerdict(tags=tuple(map(str, range(32)))), "tags: at most 32"),
        (EXEC, HookVerdict(metadata={"k": "x" * 1025}), "metadata: at most 32 keys"),
        (EXEC, HookVerdict(env={"A": "x" * 200_000}), "the workload has 2000"),
    ],
)
def test_a_verdict_that_makes_the_child_invalid_is_rejected(
    spec: dict[str, Any], answer: HookVerdict, why: str
) -> None:
    with pytest.raises(HookError, match=why):
        changed_child(known(**spec), answer)


def test_the_changes_of_a_hook_are_recorded_and_read_from_the_record() -> None:
    changed, _ = changed_child(known(**EXEC), HookVerdict(tags=("gold",), env={"B": "2"}))

    entry = parse_assignment(format_assignment(changed.entry(7)))

    assert entry.asked == attributes_digest(known(**EXEC).wanted)
    assert known(**EXEC).wanted.recorded(entry) == changed
    assert same_attributes(entry, changed)
    assert not same_attributes(entry, known(**EXEC).wanted)


def test_an_edited_child_needs_a_new_verdict_and_a_changed_pin_does_not() -> None:
    before = attributes_digest(known(**EXEC).wanted)

    assert attributes_digest(known(**EXEC, pinned=True).wanted) == before
    assert attributes_digest(known(**EXEC, metadata={"k": "other"}).wanted) != before
    assert attributes_digest(known(**EXEC, restartPolicy="Temporary").wanted) != before
    assert attributes_digest(known(exec={"command": ["run"]}).wanted) != before


def test_an_entry_without_a_verdict_is_no_longer_than_before() -> None:
    assert "ask" not in format_assignment(Assignment(uid="u", epoch=1, workload="w"))


# acceptance


def hub(*hooks: dict[str, Any]) -> HubSpec:
    return msgspec.convert({"hooks": list(hooks)}, HubSpec)


WEBHOOK = {"url": "http://audit.example"}


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (
            [{"name": "a", "event": "ChildStarted", "webhook": WEBHOOK}] * 2,
            "spec.hooks names 'a' twice; give each hook a name of its own",
        ),
        ([{"name": "a", "event": "ChildStarted"}], "spec.hooks 'a': give exactly one of webhook and python"),
        (
            [{"name": "a", "event": "ChildStarted", "webhook": {"url": "audit"}}],
            "spec.hooks 'a': webhook.url 'audit' must begin with http:// or https://",
        ),
    ],
)
def test_hooks_that_bypassed_the_api_server_are_rejected(hooks: list[dict[str, Any]], message: str) -> None:
    refusal = refuse_hub(hub(*hooks))

    assert refusal is not None
    assert refusal.message == message
