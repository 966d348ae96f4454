"""The message that kubectl prints when a manifest or command is wrong, from the real API server.

Each row is a manifest and the message. ``before`` is applied first. New manifests are sent as kubectl sends them, but
without it: a process for each would take most of the time. Some rows show that it prints what it is told. What the
schema can't know (unknown members, other objects) the operator reports in conditions (test_operator_refusals.py).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcluster.cluster import Cluster
from localcluster.layout import ClusterError
from processhub.api.meta import API_VERSION
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import untyped

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = f"bad-input-{secrets.token_hex(3)}"
KINDS = {
    "Child": untyped(API_VERSION, "children"),
    "Hub": untyped(API_VERSION, "hubs"),
    "ChildSet": untyped(API_VERSION, "childsets"),
}
SLEEP = {"command": ["sleep", "infinity"]}
ONE_WORKLOAD = "must have exactly one workload: one of exec, python and pod"
VARIABLE = "must have letters, digits and underscores only, no digit first, such as DB_HOST"
HUB_NAME = (
    "metadata.name must begin with a letter and have at most 40 lower-case letters, digits and hyphens, "
    "for example my-hub"
)


def manifest(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> str:
    return json.dumps(
        {
            "apiVersion": "processhub.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, **metadata},
            "spec": spec,
        }
    )


def child(name: str = "a", *, workload: bool = True, **spec: Any) -> str:
    return manifest("Child", name, {"hub": "my-hub"} | ({"exec": SLEEP} if workload else {}) | spec)


def hub(name: str = "my-hub", **spec: Any) -> str:
    # Paused, so that an operator in this cluster creates no members for a Hub that is accepted here.
    return manifest("Hub", name, spec, annotations={"processhub.dev/paused": "true"})


def childset(name: str = "set", **spec: Any) -> str:
    return manifest("ChildSet", name, {"hub": "my-hub", "template": {"exec": SLEEP}} | spec)


def hook(**fields: Any) -> dict[str, Any]:
    return {"name": "audit", "event": "ChildStarted"} | fields


def registry_slice(**spec: Any) -> str:
    base = {"hub": "my-hub", "hubUid": "u1", "member": "my-hub-0", "mode": "Replicas", "term": 7}
    return manifest("RegistrySlice", "my-hub.my-hub-0.0", base | spec)


@dataclass(frozen=True)
class Bad:
    """A manifest, an object that is applied before it, and the message that rejects it."""

    name: str
    text: str
    sentence: str
    before: str = ""


CHILDREN = [
    Bad("no hub", child(hub=None), "spec.hub: Required value"),
    Bad("empty hub", child(hub=""), "spec.hub in body should be at least 1 chars long"),
    Bad("hub of 41 characters", child(hub="h" * 41), "spec.hub: Too long: may not be more than 40 bytes"),
    Bad("no workload", child(workload=False), f"spec: Invalid value: {ONE_WORKLOAD}"),
    Bad("two workloads", child(python={"target": "m:C"}), f"spec: Invalid value: {ONE_WORKLOAD}"),
    Bad("onDemand of a child", child(onDemand=True), 'unknown field "spec.onDemand"'),
    Bad("exec without command", child(exec={}), "spec.exec.command: Required value"),
    Bad(
        "empty command",
        child(exec={"command": []}),
        'spec.exec.command: Invalid value: must name the program to run, for example command: ["sleep", "infinity"]',
    ),
    Bad(
        "empty word in a command",
        child(exec={"command": ["sleep", ""]}),
        "spec.exec.command: Invalid value: must hold no empty strings; leave them out, or write them in args",
    ),
    Bad(
        "command as one text",
        child(exec={"command": "sleep 1"}),
        "spec.exec.command in body must be of type array",
    ),
    Bad(
        "number in a command",
        child(exec={"command": ["sleep", 1]}),
        "spec.exec.command[1] in body must be of type string",
    ),
    Bad(
        "relative working directory",
        child(exec={**SLEEP, "workingDir": "data"}),
        "spec.exec.workingDir: Invalid value: must be an absolute path such as /data, or be left out",
    ),
    Bad(
        "unknown signal",
        child(exec={**SLEEP, "stopSignal": "TERM"}),
        'spec.exec.stopSignal: Unsupported value: "TERM": supported values: "SIGHUP", "SIGINT"',
    ),
    Bad(
        "environment variable with a hyphen",
        child(exec={**SLEEP, "env": [{"name": "MY-NAME", "value": "x"}]}),
        f"spec.exec.env[0].name: Invalid value: {VARIABLE}",
    ),
    Bad(
        "environment variable of an actor with a digit first",
        child(workload=False, python={"target": "m:C", "env": [{"name": "1A", "value": "x"}]}),
        f"spec.python.env[0].name: Invalid value: {VARIABLE}",
    ),
    Bad(
        "environment variable twice",
        child(exec={**SLEEP, "env": [{"name": "A"}, {"name": "A"}]}),
        'spec.exec.env[1]: Duplicate value: {"name":"A"}',
    ),
    Bad(
        "environment variable with two values",
        child(exec={**SLEEP, "env": [{"name": "A", "value": "x", "valueFrom": {"file": "/x"}}]}),
        "spec.exec.env[0]: Invalid value: must have either value or valueFrom.file, not both",
    ),
    Bad(
        "environment variable from a relative path",
        child(exec={**SLEEP, "env": [{"name": "A", "valueFrom": {"file": "x"}}]}),
        "spec.exec.env[0].valueFrom.file: Invalid value: must be an absolute path such as /etc/secrets/password",
    ),
    Bad(
        "environment variable as a map",
        child(exec={**SLEEP, "env": {"A": "b"}}),
        'unknown field "spec.exec.env.A"',
    ),
    Bad(
        "python target without class",
        child(workload=False, python={"target": "processhub.examples"}),
        'spec.python.target: Invalid value: must be written "module:Class", for example "processhub.examples:Counter"',
    ),
    Bad("python without target", child(workload=False, python={}), "spec.python.target: Required value"),
    Bad("port 0", child(workload=False, pod={"port": 0}), "spec.pod.port in body should be greater than or equal to 1"),
    Bad("id of 300 bytes", child(id="x" * 300), "spec.id: Too long: may not be more than 253 bytes"),
    Bad(
        "id of 127 accented letters",
        child(id="é" * 127),
        "spec.id: Invalid value: must have at most 253 bytes of UTF-8 "
        "(a letter with an accent takes 2, an emoji 4); shorten it",
    ),
    Bad("empty id", child(id=""), "spec.id in body should be at least 1 chars long"),
    Bad("number as id", child(id=42), "spec.id in body must be of type string"),
    *(
        Bad(
            f"id with {name}",
            child(id=f"a{character}b"),
            "spec.id: Invalid value: must not contain control characters (newline, tab, NUL, …); write printable text",
        )
        for name, character in {"NUL": "\0", "a newline": "\n", "a tab": "\t", "DEL": "\x7f", "NEL": "\x85"}.items()
    ),
    Bad(
        "no member named",
        child(nodes=[]),
        "spec.nodes: Invalid value: must name at least one member, for example [my-hub-0], or be left out",
    ),
    Bad("a member named twice", child(nodes=["a", "a"]), 'spec.nodes[1]: Duplicate value: "a"'),
    Bad("empty member name", child(nodes=[""]), "spec.nodes[0] in body should be at least 1 chars long"),
    Bad("nodes as text", child(nodes="my-hub-0"), "spec.nodes in body must be of type array"),
    Bad("negative TTL", child(ttlSeconds=-1), "spec.ttlSeconds in body should be greater than or equal to 1"),
    Bad("TTL of 0", child(ttlSeconds=0), "spec.ttlSeconds in body should be greater than or equal to 1"),
    Bad("TTL as text", child(ttlSeconds="5s"), "spec.ttlSeconds in body must be of type integer"),
    Bad("idle time of 0", child(idleSeconds=0), "spec.idleSeconds in body should be greater than or equal to 1"),
    Bad(
        "unknown restart policy",
        child(restartPolicy="Always"),
        'spec.restartPolicy: Unsupported value: "Always": supported values: "Permanent", "Transient", "Temporary"',
    ),
    Bad("pinned as text", child(pinned="yes"), "spec.pinned in body must be of type boolean"),
    Bad("a tag twice", child(tags=["eu", "eu"]), 'spec.tags[1]: Duplicate value: "eu"'),
    Bad("33 tags", child(tags=[f"t{n}" for n in range(33)]), "spec.tags: Too many: 33: must have at most 32 items"),
    Bad(
        "metadata with an empty key",
        child(metadata={"": "x"}),
        "spec.metadata: Invalid value: must have keys of 1 to 128 characters",
    ),
    Bad("metadata with a number", child(metadata={"n": 1}), "spec.metadata.n in body must be of type string"),
    Bad("misspelt field", child(restartpolicy="Permanent"), 'unknown field "spec.restartpolicy"'),
    Bad("name in capitals", child(name="Tenant"), 'metadata.name: Invalid value: "Tenant"'),
]

# kubectl finds the first itself, and passes on what the API server says of the others.
BY_KUBECTL = [
    Bad("name with a slash", child(name="tenant/42"), "invalid resource name \"tenant/42\": [may not contain '/']"),
    *(bad for bad in CHILDREN if bad.name in ("no hub", "two workloads", "unknown signal", "misspelt field")),
]

HUBS = [
    Bad("hub name with a dot", hub("my.hub"), HUB_NAME),
    Bad("hub name with a digit first", hub("1hub"), HUB_NAME),
    Bad("hub name of 41 characters", hub("h" * 41), HUB_NAME),
    Bad(
        "unknown mode",
        hub(members={"mode": "Deployment"}),
        'spec.members.mode: Unsupported value: "Deployment": supported values: "Replicas", "PerNode"',
    ),
    Bad(
        "negative replicas",
        hub(members={"replicas": -1}),
        "spec.members.replicas in body should be greater than or equal to 0",
    ),
    Bad(
        "replicas as text", hub(members={"replicas": "three"}), "spec.members.replicas in body must be of type integer"
    ),
    Bad("half a replica", hub(members={"replicas": 1.5}), "spec.members.replicas in body must be of type integer"),
    Bad(
        "weight of 1001",
        hub(members={"weights": {"my-hub-0": 1001}}),
        "spec.members.weights.my-hub-0 in body should be less than or equal to 1000",
    ),
    Bad(
        "image with a blank",
        hub(members={"image": "my app:1"}),
        "spec.members.image: Invalid value: must be an image reference without white space",
    ),
    Bad(
        "impossible ConfigMap",
        hub(members={"python": {"configMap": "My_Code"}}),
        "spec.members.python.configMap: Invalid value: must be the name of a ConfigMap in the same namespace",
    ),
    Bad(
        "cap below the mean",
        hub(distribution={"loadCapPercent": 90}),
        "spec.distribution.loadCapPercent in body should be greater than or equal to 100",
    ),
    Bad(
        "no moves per second",
        hub(distribution={"rebalance": {"maxMovesPerSecond": 0}}),
        "spec.distribution.rebalance.maxMovesPerSecond in body should be greater than or equal to 1",
    ),
    *(
        Bad(
            f"replication factor {factor!r}",
            hub(redundancy={"replicationFactor": factor}),
            "spec.redundancy.replicationFactor: Invalid value: must be a number from 1 to 100, or ClusterSize",
        )
        for factor in (0, 101, "all", "3")
    ),
    Bad(
        "HotSwap with Hold",
        hub(migration={"strategy": "HotSwap", "onRestart": "Hold"}),
        "spec.migration: Invalid value: strategy HotSwap cannot be combined "
        "with onRestart: Hold; write onRestart: Move, or strategy: ColdSwap",
    ),
    Bad(
        "StaticQuorum without a size",
        hub(partitionTolerance={"strategy": "StaticQuorum"}),
        "spec.partitionTolerance: Invalid value: strategy StaticQuorum needs quorumSize, for example quorumSize: 2",
    ),
    Bad(
        "quorum of 101 %",
        hub(partitionTolerance={"quorumPercent": 101}),
        "spec.partitionTolerance.quorumPercent in body should be less than or equal to 100",
    ),
    Bad(
        "lease of 5 s",
        hub(timeouts={"leaseSeconds": 5}),
        "spec.timeouts.leaseSeconds in body should be greater than or equal to 6",
    ),
    Bad(
        "stop time of 0",
        hub(timeouts={"stopSeconds": 0}),
        "spec.timeouts.stopSeconds in body should be greater than or equal to 1",
    ),
    Bad(
        "static child without id",
        hub(children=[{"exec": SLEEP}]),
        "spec.children[0].id: Required value",
    ),
    Bad(
        "two static children of one id",
        hub(children=[{"id": "a", "exec": SLEEP}, {"id": "a", "exec": SLEEP}]),
        'spec.children[1]: Duplicate value: {"id":"a"}',
    ),
    Bad(
        "static child without workload",
        hub(children=[{"id": "a"}]),
        f"spec.children[0]: Invalid value: {ONE_WORKLOAD}",
    ),
    Bad(
        "501 static children",
        hub(children=[{"id": f"c{n}", "exec": SLEEP} for n in range(501)]),
        "spec.children: Too many: 501: must have at most 500 items",
    ),
    *(
        Bad(
            f"static child with a variable {name}",
            hub(children=[{"id": "a", "exec": {**SLEEP, "env": [{"name": name}]}}]),
            f"spec.children[0].exec.env[0].name: Invalid value: {VARIABLE}",
        )
        for name in ("MY-NAME", "1A", "A.B", "É", "@")
    ),
    Bad(
        "static child with a hub",
        hub(children=[{"id": "a", "hub": "my-hub", "exec": SLEEP}]),
        'unknown field "spec.children[0].hub"',
    ),
    Bad(
        "on demand without workload",
        hub(onDemand={"max": 10}),
        "spec.onDemand: Invalid value: must have exactly one workload: one of exec, python, pod",
    ),
    Bad(
        "no child on demand may fail",
        hub(onDemand={"exec": SLEEP, "maxFailed": "0%"}),
        "spec.onDemand.maxFailed: Invalid value: must be a number of children from 1 to 100000, or a share from 1% to",
    ),
    Bad(
        "local start with a quorum",
        hub(onDemand={"exec": SLEEP, "onOwnerLost": "Local"}, partitionTolerance={"strategy": "MajorityQuorum"}),
        "spec: Invalid value: onDemand.onOwnerLost: Local needs partitionTolerance.strategy: "
        "Divergence; write Wait, or leave it out",
    ),
    Bad("hook on nothing", hub(hooks=[hook(event="Started")]), 'spec.hooks[0].event: Unsupported value: "Started"'),
    Bad(
        "hook that does nothing",
        hub(hooks=[hook()]),
        "spec.hooks[0]: Invalid value: must have exactly one of webhook and python",
    ),
    Bad(
        "hook without http",
        hub(hooks=[hook(webhook={"url": "audit.example.svc"})]),
        "spec.hooks[0].webhook.url: Invalid value: must be a URL with "
        "http or https, for example https://audit.example.svc/events",
    ),
    Bad(
        "hook handler without name",
        hub(hooks=[hook(python={"handler": ""})]),
        "spec.hooks[0].python.handler in body should be at least 1 chars long",
    ),
    Bad(
        "two hooks of one name",
        hub(hooks=[hook(webhook={"url": "http://a.example"})] * 2),
        'spec.hooks[1]: Duplicate value: {"name":"audit"}',
    ),
    Bad("spec as text", hub().replace('"spec": {}', '"spec": "three members"'), "spec in body must be of type object"),
]

CHILDSETS = [
    Bad(
        "neither replicas nor ids",
        childset(),
        "spec: Invalid value: must have exactly one of replicas (ids <name>-0, <name>-1, …) and ids (a list of ids)",
    ),
    Bad(
        "replicas and ids",
        childset(replicas=2, ids=["a"]),
        "spec: Invalid value: must have exactly one of replicas",
    ),
    Bad("an id twice", childset(ids=["a", "a"]), 'spec.ids[1]: Duplicate value: "a"'),
    Bad("no template", childset(replicas=1, template=None), "spec.template: Required value"),
    Bad(
        "template without workload",
        childset(replicas=1, template={"tags": ["x"]}),
        f"spec.template: Invalid value: {ONE_WORKLOAD}",
    ),
    Bad(
        "template with a hub",
        childset(replicas=1, template={"hub": "h", "exec": SLEEP}),
        'unknown field "spec.template.hub"',
    ),
    Bad(
        "name too long for its ids",
        childset("s" * 241, replicas=1),
        "metadata.name must have at most 240 characters, because the ids are <name>-0, <name>-1, …",
    ),
]

EDITS = [
    Bad(
        "child to another hub",
        child("settled", hub="other"),
        "spec.hub: Invalid value: cannot be changed; delete this Child and create it in the other hub",
        before=child("settled"),
    ),
    *(
        Bad(
            f"id {what}",
            child(f"settled-{what}", **after),
            "spec: Invalid value: id cannot be added, changed or removed "
            "later; delete this Child and create one with the other id",
            before=child(f"settled-{what}", **before),
        )
        for what, before, after in (
            ("changed", {"id": "a"}, {"id": "b"}),
            ("added", {}, {"id": "settled-added"}),
            ("removed", {"id": "a"}, {}),
        )
    ),
    *(
        Bad(
            f"origin {what}",
            child(f"origin-{what}", **after),
            "spec: Invalid value: origin cannot be added, changed "
            "or removed later; delete the child and create it again",
            before=child(f"origin-{what}", **before),
        )
        for what, before, after in (("changed", {"origin": "m0"}, {"origin": "m1"}), ("added", {}, {"origin": "m0"}))
    ),
    Bad(
        "mode changed",
        hub("settled", members={"mode": "PerNode"}),
        "spec.members.mode: Invalid value: cannot be changed; create a Hub of another name with the other mode",
        before=hub("settled", members={"replicas": 0}),
    ),
    Bad(
        "childset to another hub",
        childset("settled", hub="other", replicas=1),
        "spec.hub: Invalid value: cannot be changed; delete this ChildSet and create it in the other hub",
        before=childset("settled", replicas=1),
    ),
    Bad(
        "a deposed operator's late write",
        registry_slice(term=6),
        "spec.term: Invalid value: must not fall; an operator of a newer term has written this slice",
        before=registry_slice(),
    ),
    Bad("slice without a term", registry_slice(term=None), "spec.term: Required value", before=registry_slice()),
    Bad(
        "slice of another member",
        registry_slice(member="my-hub-1"),
        "spec.member: Invalid value: cannot be changed",
        before=registry_slice(),
    ),
    Bad(
        "slice of another hub",
        registry_slice(hubUid="u2"),
        "spec.hubUid: Invalid value: cannot be changed",
        before=registry_slice(),
    ),
]

COMMANDS = {
    "scale below nothing": (
        ["scale", "hub/scaled", "--replicas=-1"],
        "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0",
    ),
    "scale beyond the bound": (
        ["scale", "hub/scaled", "--replicas=1001"],
        "spec.members.replicas in body should be less than or equal to 1000",
    ),
    "scale a set of ids": (
        ["scale", "childset/listed", "--replicas=3"],
        "spec: Invalid value: must have exactly one of replicas",
    ),
    "patch to an unknown mode": (
        ["patch", "hub/scaled", "--type=merge", "-p", '{"spec":{"members":{"mode":"Pods"}}}'],
        'spec.members.mode: Unsupported value: "Pods"',
    ),
    "take the workload away": (
        ["patch", "child/scaled", "--type=merge", "-p", '{"spec":{"exec":null}}'],
        f"spec: Invalid value: {ONE_WORKLOAD}",
    ),
    "misspelt kind": (["get", "hubz"], 'the server doesn\'t have a resource type "hubz"'),
    "an object that is not there": (["get", "hub", "nobody"], 'hubs.processhub.dev "nobody" not found'),
}


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace for all rows: a rejected manifest leaves nothing behind."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield NAMESPACE
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def answer(cluster: Cluster, *arguments: str, stdin: str | None = None) -> str:
    """Return kubectl's error without the type names in the API server's message."""
    with pytest.raises(ClusterError) as caught:
        cluster.kubectl("-n", NAMESPACE, *arguments, stdin=stdin)
    return without_types(str(caught.value))


def without_types(text: str) -> str:
    for kind in ('"object"', '"array"', '"string"', '"integer"', '""'):
        text = text.replace(f"Invalid value: {kind}: ", "Invalid value: ")
    return text


@pytest.mark.parametrize("bad", CHILDREN + HUBS + CHILDSETS, ids=lambda bad: bad.name)
async def test_a_bad_manifest_is_rejected_with_its_message(api: Client, namespace: str, bad: Bad) -> None:
    body = json.loads(bad.text)

    with pytest.raises(ApiError) as caught:
        await api.create(KINDS[body["kind"]], namespace, body, strict=True)

    assert bad.sentence in without_types(str(caught.value))


@pytest.mark.parametrize("bad", BY_KUBECTL, ids=lambda bad: bad.name)
def test_kubectl_prints_the_message(cluster: Cluster, namespace: str, bad: Bad) -> None:
    assert bad.sentence in answer(cluster, "apply", "-f", "-", stdin=bad.text)


@pytest.mark.parametrize("bad", EDITS, ids=lambda bad: bad.name)
def test_a_bad_edit_is_rejected_with_its_message(cluster: Cluster, namespace: str, bad: Bad) -> None:
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=bad.before)

    assert bad.sentence in answer(cluster, "apply", "-f", "-", stdin=bad.text)


@pytest.fixture(scope="module")
def scaled(cluster: Cluster, namespace: str) -> None:
    """Create the objects that the commands name."""
    for good in (hub("scaled", members={"replicas": 0}), child("scaled"), childset("listed", ids=["a"])):
        cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=good)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_command_fails_with_its_message(cluster: Cluster, scaled: None, name: str) -> None:
    command, sentence = COMMANDS[name]

    assert sentence in answer(cluster, *command)


@pytest.mark.parametrize(
    "good",
    [
        hub(),
        hub("h" * 40),
        hub(redundancy={"replicationFactor": "ClusterSize"}),
        hub(migration={"strategy": "HotSwap"}),
        hub(distribution={"strategy": "NobodyKnowsThisOne"}),
        hub(hooks=[hook(webhook={"url": "http://audit.example:8080/x?y=1"})]),
        hub(onDemand={"python": {"target": "processhub.examples:Counter"}, "max": 10}),
        hub(
            children=[
                {"id": "a", "exec": {**SLEEP, "env": [{"name": name} for name in ("A", "z9", "_", "_1", "Z" * 128)]}}
            ]
        ),
        child(id="é" * 126),
        child(id="tenant/42 größer 😀 %2F ../.."),
        child(exec={"command": ["sh"], "args": ["-c", ""]}),
        childset(replicas=0),
        childset(ids=["a b", "😀"]),
        registry_slice(),
    ],
)
def test_unusual_but_valid_manifests_are_accepted(cluster: Cluster, namespace: str, good: str) -> None:
    cluster.kubectl("-n", namespace, "apply", "--dry-run=server", "-f", "-", stdin=good)


@pytest.mark.parametrize("path", sorted((ROOT / "manifests" / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_example_is_accepted(cluster: Cluster, namespace: str, path: Path) -> None:
    cluster.kubectl("-n", namespace, "apply", "--dry-run=server", "-f", str(path))


def test_kubectl_explain_describes_the_values_of_a_field(cluster: Cluster, namespace: str) -> None:
    text = " ".join(cluster.kubectl("explain", "hub.spec.migration.onRestart").split())

    assert "ENUM: Hold Move" in text
    assert "Hold: its children wait for it, and nothing moves." in text
