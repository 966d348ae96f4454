"""Why a Hub and a Child are rejected, and what the message says to write instead."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from processhub.api.child import ChildSpec, PodWorkload
from processhub.api.hub import HubSpec
from processhub.api.reasons import Reason
from processhub.core.acceptance import MAX_WORKLOAD_BYTES, Refusal, refuse_child, refuse_hub, refuse_size

EXEC = {"exec": {"command": ["sleep"]}}
HOOK = {"name": "a", "event": "ChildStarted", "webhook": {"url": "http://audit.example"}}
GUIDED = {"distribution": {"strategy": "Guided"}}
TWO_COPIES = {**GUIDED, "redundancy": {"strategy": "Replication", "replicationFactor": 2}}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({**GUIDED, "redundancy": {"strategy": "Own"}}, "spec.redundancy.strategy Own can't be combined with"),
        (
            {**GUIDED, "redundancy": {"strategy": "Replication", "replicationFactor": "ClusterSize"}},
            "replicationFactor ClusterSize can't be combined with the distribution strategy Guided",
        ),
        ({**GUIDED, "onDemand": EXEC}, "a Guided hub places a child where its spec.nodes say"),
        (
            {
                "onDemand": {**EXEC, "onOwnerLost": "Local"},
                "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 2},
            },
            "onOwnerLost Local needs partitionTolerance.strategy Divergence",
        ),
        ({"onDemand": {}}, "spec.onDemand names no workload"),
        ({"onDemand": {"pod": {"template": {}}}}, "spec.onDemand.pod.template has no spec.containers"),
        ({"hooks": [HOOK, HOOK]}, "spec.hooks names 'a' twice"),
        ({"hooks": [{**HOOK, "python": {"handler": "m:f"}}]}, "'a': give exactly one of webhook and python"),
        ({"hooks": [{"name": "a", "event": "ChildStarted"}]}, "'a': give exactly one of webhook and python"),
        ({"hooks": [{**HOOK, "webhook": {"url": "audit.example"}}]}, "must begin with http:// or https://"),
        ({"children": [{"id": "a", "ttlSeconds": 5, **EXEC}]}, "'a': ttlSeconds: the hub would start it again"),
        ({"children": [{"id": "a", "idleSeconds": 5, **EXEC}]}, "'a': idleSeconds: the hub would start it again"),
        ({"children": [EXEC]}, "an entry of spec.children has no id"),
        ({"children": [{"id": "a", "hub": "other", **EXEC}]}, "'a': leave hub out"),
    ],
)
def test_a_hub_with_contradictory_fields_is_rejected(spec: dict[str, Any], words: str) -> None:
    refusal = refuse_hub(msgspec.convert(spec, HubSpec), redundancies=("Own",))

    assert refusal is not None
    assert refusal.reason is Reason.INVALID
    assert words in refusal.message


@pytest.mark.parametrize("field", ["distribution", "redundancy", "migration", "partitionTolerance"])
def test_an_unknown_strategy_is_rejected_with_the_known_ones(field: str) -> None:
    hub = msgspec.convert({field: {"strategy": "Nearest"}}, HubSpec)

    refusal = refuse_hub(hub, ("B", "A"), ("B", "A"), ("B", "A"), ("B", "A"))

    assert refusal is not None
    assert refusal.reason is Reason.UNKNOWN_STRATEGY
    assert f"spec.{field}.strategy 'Nearest' is not known; there are " in refusal.message
    assert refusal.message.endswith(", A, B"), "the users' own come last, in order"


@pytest.mark.parametrize(
    "spec",
    [
        {},
        TWO_COPIES,
        {"onDemand": {**EXEC, "onOwnerLost": "Local"}},
        {"hooks": [HOOK, {"name": "b", "event": "ChildStarted", "python": {"handler": "m:f"}}]},
        {"children": [{"id": "a", **EXEC}]},
    ],
)
def test_a_hub_that_can_be_served_is_accepted(spec: dict[str, Any]) -> None:
    assert refuse_hub(msgspec.convert(spec, HubSpec)) is None


@pytest.mark.parametrize(
    ("hub", "spec", "reason", "words"),
    [
        ({}, {}, Reason.INVALID, "spec names no workload; give one of exec, python or pod"),
        ({}, {**EXEC, "nodes": ["hub-0"]}, Reason.INVALID_CHILD_MAPPING, "this hub's is ConsistentHashing"),
        (GUIDED, EXEC, Reason.MISSING_CHILD_MAPPING, "give spec.nodes with the name of a member"),
        (
            GUIDED,
            {**EXEC, "nodes": ["hub-0", "hub-1"]},
            Reason.CHILD_REPLICATION_MISMATCH,
            "names 2 members, but the hub keeps 1 copy of a child; name exactly 1",
        ),
        (
            TWO_COPIES,
            {**EXEC, "nodes": ["hub-0"]},
            Reason.CHILD_REPLICATION_MISMATCH,
            "names 1 member, but the hub keeps 2 copies of a child; name exactly 2",
        ),
        (TWO_COPIES, {**EXEC, "nodes": ["hub-0"] * 2}, Reason.INVALID_CHILD_MAPPING, "names a member twice"),
    ],
)
def test_a_child_that_its_hub_cannot_serve_is_rejected(
    hub: dict[str, Any], spec: dict[str, Any], reason: Reason, words: str
) -> None:
    refusal = refuse_child(msgspec.convert({"hub": "hub", **spec}, ChildSpec), msgspec.convert(hub, HubSpec))

    assert refusal is not None
    assert refusal.reason is reason
    assert words in refusal.message


@pytest.mark.parametrize(
    ("hub", "spec"),
    [
        ({}, EXEC),
        (GUIDED, {**EXEC, "nodes": ["hub-0"]}),
        (TWO_COPIES, {**EXEC, "nodes": ["hub-0", "hub-1"]}),
    ],
)
def test_a_child_that_its_hub_can_serve_is_accepted(hub: dict[str, Any], spec: dict[str, Any]) -> None:
    assert refuse_child(msgspec.convert({"hub": "hub", **spec}, ChildSpec), msgspec.convert(hub, HubSpec)) is None


def test_a_workload_is_rejected_by_its_size_in_bytes() -> None:
    refusal = refuse_size("é" * (MAX_WORKLOAD_BYTES // 2 + 1))

    assert refuse_size("é" * (MAX_WORKLOAD_BYTES // 2)) is None
    assert refusal is not None
    assert (
        f"the workload has {MAX_WORKLOAD_BYTES + 2} bytes of JSON, the limit is {MAX_WORKLOAD_BYTES}" in refusal.message
    )


@pytest.mark.parametrize(
    ("pod", "metadata", "why"),
    [
        ({"containers": [{"env": {"A": "b"}}]}, {}, '.spec.containers[0].env is {"A":"b"}; it must be a list'),
        ({"containers": [{"env": ["A=b"]}]}, {}, '.spec.containers[0].env[0] is "A=b"; it must be an object'),
        ({"containers": ["web"]}, {}, '.spec.containers[0] is "web"; it must be an object'),
        ({"containers": [{}], "initContainers": {}}, {}, ".spec.initContainers is {}; it must be a list"),
        ({"containers": [{}], "volumes": [None]}, {}, ".spec.volumes[0] is null; it must be an object"),
        ({"containers": [{}], "affinity": "none"}, {}, '.spec.affinity is "none"; it must be an object'),
        ({"containers": [{}]}, {"labels": ["a"]}, '.metadata.labels is ["a"]; it must be an object'),
        ({"containers": [{}]}, ["a"], '.metadata is ["a"]; it must be an object'),
    ],
)
def test_a_pod_template_of_another_shape_is_rejected_with_the_field(
    pod: dict[str, Any], metadata: Any, why: str
) -> None:
    """It is rejected before the Pod that runs is deleted."""
    spec = ChildSpec(pod=PodWorkload(template={"metadata": metadata, "spec": pod}))

    refusal = refuse_child(spec, HubSpec())

    assert refusal == Refusal(Reason.INVALID, f"spec.pod.template{why}")


def test_a_field_of_a_pod_template_that_is_null_counts_as_left_out() -> None:
    pod = {"containers": [{"env": None, "volumeMounts": None}], "affinity": {"nodeAffinity": None}, "volumes": None}

    assert refuse_child(ChildSpec(pod=PodWorkload(template={"metadata": None, "spec": pod})), HubSpec()) is None
