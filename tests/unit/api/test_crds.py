"""The CRDs: complete, bounded, and in agreement with the structs of processhub.api."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import inspect

from processhub.api.child import ChildSpec, ChildStatus
from processhub.api.childset import ChildSetSpec, ChildSetStatus
from processhub.api.hub import HubSpec, HubStatus
from processhub.api.slice import (
    EPOCHS_PER_TERM,
    FORMAT,
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_REPORTS,
    Settings,
    SliceSpec,
    SliceStatus,
)
from processhub.registry import grammar

ROOT = Path(__file__).resolve().parents[3]
PLURALS = ["hubs", "children", "childsets", "registryslices"]
Schema = dict[str, Any]


@cache
def load(plural: str) -> Schema:
    return yaml.load((ROOT / "crds" / f"{plural}.yaml").read_text(), Loader=yaml.CSafeLoader)


def version(plural: str) -> Schema:
    (only,) = load(plural)["spec"]["versions"]
    return only


def part(plural: str, name: str) -> Schema:
    return version(plural)["schema"]["openAPIV3Schema"]["properties"][name]


def at(schema: Schema, path: str) -> Schema:
    """Return the schema at a dotted path; ``[]`` is the schema of a list's items."""
    for step in path.replace("[]", ".[]").split("."):
        schema = schema["items"] if step == "[]" else schema["properties"][step]
    return schema


def walk(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Yield this schema and every schema inside it, with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


def everything(plural: str) -> dict[str, Schema]:
    """Return every schema of a kind by its path."""
    found = dict(pair for name in ("spec", "status") for pair in walk(part(plural, name), f".{name}"))
    assert len(found) > 10
    return found


@pytest.mark.parametrize("plural", PLURALS)
def test_names_follow_the_contract(plural: str) -> None:
    spec = load(plural)["spec"]
    names = spec["names"]

    assert spec["group"] == "processhub.dev"
    assert spec["scope"] == "Namespaced"
    assert names["plural"] == plural
    assert names["categories"] == ["processhub"]
    short = {"hubs": "hub", "children": "child", "childsets": "childset", "registryslices": "rslice"}[plural]
    assert names["shortNames"] == [short]
    assert version(plural)["name"] == "v1alpha1"
    assert version(plural)["subresources"]["status"] == {}


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        (
            "hubs",
            {
                "specReplicasPath": ".spec.members.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        ),
        (
            "childsets",
            {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.desired",
                "labelSelectorPath": ".status.selector",
            },
        ),
    ],
)
def test_kubectl_scale_finds_its_fields(plural: str, expected: dict[str, str]) -> None:
    assert version(plural)["subresources"]["scale"] == expected


@pytest.mark.parametrize(
    ("plural", "columns"),
    [
        ("hubs", ["Members", "Children", "Ready", "Quorate", "Age"]),
        ("children", ["ID", "Hub", "Member", "Role", "State", "Reason", "Age"]),
        ("childsets", ["Hub", "Desired", "Running", "Pending", "Failed", "Reason", "Age"]),
        ("registryslices", ["Hub", "Member", "Term", "Observed", "Age"]),
    ],
)
def test_kubectl_prints_the_columns(plural: str, columns: list[str]) -> None:
    shown = [column["name"] for column in version(plural)["additionalPrinterColumns"] if not column.get("priority")]

    assert shown == columns


@pytest.mark.parametrize("plural", PLURALS)
def test_every_field_is_described(plural: str) -> None:
    for path, schema in everything(plural).items():
        scalar_item = path.endswith(("[]", "{}")) and schema.get("type") != "object"
        assert scalar_item or re.search(r"\w.*[.:]$", schema.get("description", ""), re.S), f"{path} needs a sentence"


@pytest.mark.parametrize("plural", PLURALS)
def test_everything_is_bounded(plural: str) -> None:
    for path, schema in everything(plural).items():
        kind = schema.get("type")
        if schema.get("x-kubernetes-int-or-string") or (kind == "string" and "enum" not in schema):
            assert "maxLength" in schema, path
        if kind == "array":
            assert "maxItems" in schema, path
        if kind == "object":
            if "additionalProperties" in schema:
                assert "maxProperties" in schema, path
            else:
                assert "properties" in schema or schema.get("x-kubernetes-preserve-unknown-fields"), path
        if kind == "integer":
            assert "minimum" in schema, path
            assert "maximum" in schema or path.startswith(".status"), path
            assert schema["format"] in ("int32", "int64"), path


@pytest.mark.parametrize("plural", PLURALS)
def test_the_message_of_every_rule_says_what_to_write_instead(plural: str) -> None:
    for path, schema in everything(plural).items():
        for rule in schema.get("x-kubernetes-validations", []):
            assert len(rule["message"]) > 20, path
            assert not rule["message"].endswith("."), f"{path}: the API server puts it inside a longer line"


DEFAULTS = {
    "members.mode": "Replicas",
    "members.replicas": 3,
    "members.maxChildren": 10000,
    "members.image": "",
    "members.python.configMap": "",
    "members.template": {},
    "members.serviceAccount.name": "",
    "members.serviceAccount.annotations": {},
    "members.port": 8080,
    "distribution.strategy": "ConsistentHashing",
    "distribution.loadCapPercent": 125,
    "distribution.notLocalFallback": "Pending",
    "distribution.rebalance.onJoin": True,
    "distribution.rebalance.maxMovesPerSecond": 500,
    "redundancy.strategy": "Singularity",
    "redundancy.replicationFactor": 2,
    "redundancy.replicationModel": "ActiveActive",
    "redundancy.redundancySignal": "None",
    "migration.strategy": "ColdSwap",
    "migration.handoverTimeoutSeconds": 15,
    "migration.holdSeconds": 30,
    "partitionTolerance.strategy": "Divergence",
    "partitionTolerance.quorumPercent": 50,
    "partitionTolerance.thresholdSeconds": 30,
    "timeouts.startSeconds": 10,
    "timeouts.stopSeconds": 10,
    "timeouts.leaseSeconds": 15,
    "timeouts.requestSeconds": 5,
    "restarts.max": 0,
    "restarts.windowSeconds": 60,
    "children": [],
    "suspend": False,
}
NO_DEFAULT = ["members.weights", "migration.onRestart", "partitionTolerance.quorumSize", "onDemand", "hooks"]


@pytest.mark.parametrize(("path", "value"), DEFAULTS.items())
def test_the_defaults_of_a_hub_are_those_of_the_contract(path: str, value: object) -> None:
    assert at(part("hubs", "spec"), path)["default"] == value


@pytest.mark.parametrize("path", NO_DEFAULT)
def test_these_fields_of_a_hub_have_no_default(path: str) -> None:
    assert "default" not in at(part("hubs", "spec"), path)


@pytest.mark.parametrize("where", ["children:", "childsets:template"])
@pytest.mark.parametrize(
    ("path", "value"),
    {
        "pinned": False,
        "suspend": False,
        "restartPolicy": "Permanent",
        "exec.args": [],
        "exec.workingDir": "",
        "exec.stopSignal": "SIGTERM",
        "exec.roleSignal": "",
        "python.args": {},
        "pod.port": 8080,
    }.items(),
)
def test_the_defaults_of_a_child_are_those_of_the_contract(where: str, path: str, value: object) -> None:
    plural, _, prefix = where.partition(":")

    assert at(part(plural, "spec"), f"{prefix}.{path}".lstrip("."))["default"] == value


def test_a_childs_spec_is_the_same_wherever_it_is_written() -> None:
    def shared(schema: Schema) -> Schema:
        return {name: field for name, field in schema["properties"].items() if name not in ("hub", "id")}

    child = shared(part("children", "spec"))

    assert shared(at(part("childsets", "spec"), "template")) == child
    assert shared(at(part("hubs", "spec"), "children[]")) == in_a_list(child)
    for workload in ("exec", "python", "pod"):
        assert at(part("hubs", "spec"), f"onDemand.{workload}") == child[workload]


@pytest.mark.parametrize("plural", ["hubs", "children", "childsets"])
def test_the_default_status_says_that_no_operator_has_seen_the_object(plural: str) -> None:
    status = part(plural, "status")

    assert status["default"] == {"observedGeneration": -1}
    assert (at(status, "observedGeneration")["default"], at(status, "observedGeneration")["minimum"]) == (-1, -1)


VARIABLE = "^[A-Za-z_][A-Za-z0-9_]*$"
NAME_OF_A_VARIABLE = [
    {
        "rule": f"self.matches('{VARIABLE}')",
        "message": "must have letters, digits and underscores only, no digit first, such as DB_HOST",
    }
]


NAME_IN_A_LIST = [NAME_OF_A_VARIABLE[0] | {"rule": r"!self.matches(r'\W') && self >= 'A'"}]


@pytest.mark.parametrize("plural", PLURALS)
def test_a_text_of_the_wrong_form_is_rejected_with_a_sentence(plural: str) -> None:
    """The message of a pattern is the pattern."""
    assert [path for path, schema in walk(part(plural, "spec"), "spec") if "pattern" in schema] == []


def in_a_list(schema: Any) -> Any:
    """Return the schema as it is inside a list: defaults that the API server sets elsewhere are in the description."""
    if not isinstance(schema, dict):
        return [in_a_list(each) for each in schema] if isinstance(schema, list) else schema
    inner = {name: in_a_list(value) for name, value in schema.items() if name != "default"}
    if schema.get("default") not in (None, "", [], {}):
        inner["description"] += said_default(schema["default"])
    if inner.get("x-kubernetes-validations") == NAME_OF_A_VARIABLE:
        # It would be evaluated for 500 × 256 names, which the API server refuses as too expensive.
        inner["x-kubernetes-validations"] = NAME_IN_A_LIST
    return inner


def said_default(value: object) -> str:
    return f" Default: {value if isinstance(value, str) else json.dumps(value)}."


@pytest.mark.parametrize("plural", PLURALS)
def test_the_api_server_sets_no_default_inside_a_list(plural: str) -> None:
    """Tools that compare a manifest with the stored object compare lists as a whole, so they would always differ."""
    assert [path for path, schema in walk(part(plural, "spec"), "spec") if "[]" in path and "default" in schema] == []


def test_conditions_are_the_same_everywhere() -> None:
    first = at(part("hubs", "status"), "conditions[]")

    for plural in ("children", "childsets"):
        assert at(part(plural, "status"), "conditions[]") == first
    for plural in ("hubs", "children", "childsets"):
        conditions = at(part(plural, "status"), "conditions")
        assert conditions["x-kubernetes-list-type"] == "map"
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]


# The structs against the schema: the same fields, and in spec the same defaults and enums.

MODELS = [
    pytest.param(HubSpec, part("hubs", "spec"), "spec", id="HubSpec"),
    pytest.param(HubStatus, part("hubs", "status"), "status", id="HubStatus"),
    pytest.param(ChildSpec, part("children", "spec"), "spec", id="ChildSpec"),
    pytest.param(ChildStatus, part("children", "status"), "status", id="ChildStatus"),
    pytest.param(ChildSetSpec, part("childsets", "spec"), "spec", id="ChildSetSpec"),
    pytest.param(ChildSetStatus, part("childsets", "status"), "status", id="ChildSetStatus"),
    pytest.param(SliceSpec, part("registryslices", "spec"), "spec", id="SliceSpec"),
    pytest.param(SliceStatus, part("registryslices", "status"), "status", id="SliceStatus"),
]


def plain(kind: inspect.Type) -> inspect.Type:
    """Return the type without ``| None``."""
    if isinstance(kind, inspect.UnionType):
        others = tuple(each for each in kind.types if not isinstance(each, inspect.NoneType))
        return others[0] if len(others) == 1 else inspect.UnionType(others)
    return kind


def differences(kind: inspect.Type, schema: Schema, path: str) -> Iterator[str]:
    kind = plain(kind)
    if isinstance(kind, inspect.VarTupleType | inspect.ListType):
        yield from differences(kind.item_type, schema["items"], f"{path}[]")
    if isinstance(kind, inspect.LiteralType) and set(kind.values) != set(schema.get("enum", [])):
        yield f"{path}: the struct knows {sorted(kind.values, key=str)}, the schema {schema.get('enum')}"
    if not isinstance(kind, inspect.StructType):
        return
    fields = {field.encode_name: field for field in kind.fields}
    properties = schema["properties"]
    # A static child is a ChildSpec without hub, which is the object around it; so is a template, also without ids.
    for name in {"spec.children[]": ("hub",), "spec.template": ("hub", "id")}.get(path, ()):
        fields.pop(name)
    if fields.keys() != properties.keys():
        yield f"{path}: in one of them only: {sorted(fields.keys() ^ properties.keys())}"
    for name in fields.keys() & properties.keys():
        field, inner, where = fields[name], properties[name], f"{path}.{name}"
        if path.startswith("spec"):
            yield from default_differences(field, inner, name in schema.get("required", []), where)
        yield from differences(field.type, inner, where)


def default_differences(field: inspect.Field, schema: Schema, required: bool, path: str) -> Iterator[str]:
    if field.required or required:
        # The struct may be more lenient: hub and id are optional there because static children have no hub.
        if not required and field.required:
            yield f"{path}: required in the struct only"
        return
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return  # it may be left out, and nothing stands for it then
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if "default" not in schema:
        written = "[]" in path and schema["description"].endswith(said_default(default))
        if default not in (None, "", (), {}) and not written:
            yield f"{path}: the struct's default is {default!r}, the schema has none"
    elif isinstance(default, msgspec.Struct):
        if schema["default"] != {} or default != type(default)():
            yield f"{path}: an object's default is that of its fields"
    elif json.loads(msgspec.json.encode(default)) != schema["default"]:
        yield f"{path}: {default!r} in the struct, {schema['default']!r} in the schema"


@pytest.mark.parametrize(("model", "schema", "path"), MODELS)
def test_structs_and_schema_agree(model: type[msgspec.Struct], schema: Schema, path: str) -> None:
    assert list(differences(inspect.type_info(model), schema, path)) == []


def test_an_empty_hub_decodes_to_the_schemas_defaults() -> None:
    def defaulted(schema: Schema) -> dict[str, Any]:
        values = {}
        for name, field in schema["properties"].items():
            if "default" in field:
                values[name] = defaulted(field) if "properties" in field else field["default"]
        return values

    stored = defaulted(part("hubs", "spec"))

    assert msgspec.convert(stored, HubSpec) == HubSpec()
    assert msgspec.convert(defaulted(at(part("registryslices", "spec"), "settings")), Settings) == Settings()


# The promises of the slices' schema to the code that reads them.


def test_a_slice_has_room_for_the_entries_that_the_code_writes() -> None:
    for name, most in (("spec", MAX_ENTRIES), ("status", MAX_REPORTS)):
        entries = at(part("registryslices", name), "entries")
        assert entries["maxProperties"] == most
        assert entries["x-kubernetes-map-type"] == "atomic"
    assert at(part("registryslices", "spec"), "entries")["additionalProperties"]["maxLength"] == MAX_BYTES
    assert at(part("registryslices", "spec"), "format")["default"] == FORMAT


def test_one_childs_tags_and_metadata_fit_into_a_slice() -> None:
    spec = part("children", "spec")
    tags, metadata = spec["properties"]["tags"], spec["properties"]["metadata"]
    percent_encoded = 12  # bytes of one 4-byte character
    (keys,) = (re.search(r"size\(key\) <= (\d+)", rule["rule"]) for rule in metadata["x-kubernetes-validations"])
    assert keys is not None

    most = tags["maxItems"] * (tags["items"]["maxLength"] * percent_encoded + 1)
    most += metadata["maxProperties"] * (
        (metadata["additionalProperties"]["maxLength"] + int(keys[1])) * percent_encoded + 2
    )

    assert most + 1024 < MAX_BYTES


def test_no_term_makes_an_epoch_that_json_readers_would_round() -> None:
    highest = at(part("registryslices", "spec"), "term")["maximum"]

    assert (highest + 1) * EPOCHS_PER_TERM <= 2**53


def test_the_term_may_not_fall() -> None:
    of_slice, of_hub = at(part("registryslices", "spec"), "term"), at(part("hubs", "status"), "term")

    assert [rule["rule"] for rule in of_slice["x-kubernetes-validations"]] == ["self >= oldSelf"]
    assert [rule["rule"] for rule in of_hub["x-kubernetes-validations"]] == ["self >= oldSelf"]
    assert of_hub["maximum"] == of_slice["maximum"]
    assert "term" in part("registryslices", "spec")["required"]


def test_the_documented_grammar_of_entries_is_the_one_that_is_parsed() -> None:
    written = [line.strip() for line in (grammar.__doc__ or "").splitlines() if line.startswith("    <uid>")]
    assert len(written) == 2

    for entry, name in zip(written, ("spec", "status"), strict=True):
        text = at(part("registryslices", name), "entries")["description"]
        positional, *options = entry.replace("[", "\n").replace("]", "").split("\n")
        assert f'"{positional.strip()}"' in text
        for option in options:
            assert option.partition("=")[0].strip() in text
