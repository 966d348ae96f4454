"""The message for an invalid field: the field's path and what to write, without words of a library."""

from __future__ import annotations

from typing import Any

import pytest

from processhub.client.errors import InvalidChild, InvalidHook
from processhub.client.hooks import parse_hooks
from processhub.client.specs import parse_child

BAD: list[tuple[dict[str, Any], str]] = [
    ({"exec": {"comand": ["x"]}}, "here: exec.command is missing; 'comand' is no field, write command"),
    ({"exec": {}}, "here: exec.command is missing; write it"),
    ({"exec": {"command": "x"}}, "here: exec.command must be a list, not text"),
    ({"exec": {"command": ["x", 3]}}, "here: exec.command[1] must be text, not a whole number"),
    ({"exec": ["x"]}, "here: exec must be a mapping, not a list"),
    ({"tags": "eu"}, "here: tags must be a list, not text"),
    ({"pinned": "yes"}, "here: pinned must be true or false, not text"),
    ({"exec": {"command": ["x"], "workingdir": "/"}}, "here: exec.workingdir is no field; write workingDir"),
    ({"exec": {"command": ["x"], "env": [{"nam": "A"}]}}, "here: exec.env[0].name is missing; 'nam' is no field"),
    ({"exec": {"command": ["x"], "zzz": 1}}, "here: exec.zzz is no field; known are args, command, "),
]


@pytest.mark.parametrize(("spec", "sentence"), BAD, ids=[row[1] for row in BAD])
def test_a_childs_field_that_does_not_fit_is_named(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidChild) as raised:
        parse_child({"id": "a", **spec}, "here")

    assert str(raised.value).startswith(sentence)


def test_all_values_of_an_enum_field_are_named() -> None:
    with pytest.raises(
        InvalidChild, match="here: restartPolicy can't be 'Maybe'; write Permanent, Temporary or Transient"
    ):
        parse_child({"id": "a", "exec": {"command": ["x"]}, "restartPolicy": "Maybe"}, "here")


def test_a_hooks_field_that_does_not_fit_is_named() -> None:
    with pytest.raises(InvalidHook, match=r"hooks\[0\]: event can't be 'started'; write .* or "):
        parse_hooks([{"name": "a", "event": "started", "webhook": {"url": "http://h"}}])
