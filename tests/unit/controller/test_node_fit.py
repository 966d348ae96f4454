"""The nodes on which a DaemonSet has a pod, and what happens to a member whose node does not match any more."""

from __future__ import annotations

from typing import Any

import pytest

from builders import make_hub, make_slice
from processhub.api.hub import HubSpec, Members
from processhub.api.kubernetes import KubernetesNode, NodeSpec, Pod, PodSpec
from processhub.api.meta import ObjectMeta
from processhub.api.naming import LABEL_HUB_UID
from processhub.controller.observe.members import observe_members
from processhub.controller.observe.nodefit import has_pod
from processhub.controller.store.hubstate import HubState

Json = dict[str, Any]
OTHER: Json = {"key": "gpu", "value": "a100"}


def node(*taints: Json, **labels: str) -> KubernetesNode:
    return KubernetesNode(metadata=ObjectMeta(name="node", labels=labels), spec=NodeSpec(taints=taints))


def affinity(*terms: Json) -> Json:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


def term(key: str, operator: str, *values: str) -> Json:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({}, True),
        ({"nodeSelector": None, "affinity": None, "tolerations": None}, True),
        ({"nodeSelector": {"role": "hub"}}, True),
        ({"nodeSelector": {"role": "hub", "zone": "z"}}, False),
        ({"affinity": {"podAntiAffinity": {}}}, True),
        (affinity(term("role", "In", "hub", "web")), True),
        (affinity(term("role", "In", "web")), False),
        (affinity(term("role", "NotIn", "web")), True),
        (affinity(term("zone", "NotIn", "web")), True),
        (affinity(term("role", "NotIn", "hub")), False),
        (affinity(term("role", "Exists")), True),
        (affinity(term("zone", "Exists")), False),
        (affinity(term("zone", "DoesNotExist")), True),
        (affinity(term("cores", "Gt", "7")), True),
        (affinity(term("cores", "Gt", "8")), False),
        (affinity(term("cores", "Lt", "9")), True),
        (affinity(term("role", "Lt", "9")), False),
        (affinity(term("role", "In", "web"), term("role", "In", "hub")), True),
        (affinity({}), False),
        (affinity(), False),
        (
            affinity(
                term("role", "Exists") | {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["x"]}]}
            ),
            False,
        ),
        (affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node"]}]}), True),
    ],
)
def test_labels_and_name_of_a_node_are_selected(spec: Json, fits: bool) -> None:
    found = node(role="hub", cores="8")

    assert has_pod({"spec": spec}, found, there=False) is fits
    assert has_pod({"spec": spec}, found, there=True) is fits


@pytest.mark.parametrize(
    ("toleration", "effect", "made", "kept"),
    [
        (None, "NoSchedule", False, True),
        (None, "NoExecute", False, False),
        (None, "PreferNoSchedule", True, True),
        ({"operator": "Exists"}, "NoExecute", True, True),
        ({"key": "gpu", "operator": "Exists"}, "NoExecute", True, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, "NoExecute", False, False),
        ({"key": "gpu", "value": "a100", "effect": "NoExecute"}, "NoExecute", True, True),
        ({"key": "gpu", "value": "h100"}, "NoExecute", False, False),
        ({"key": "gpu", "operator": "Equal", "value": "a100", "tolerationSeconds": 5}, "NoExecute", True, True),
        ({"key": "cpu", "operator": "Exists"}, "NoExecute", False, False),
    ],
)
def test_taints_are_tolerated(toleration: Json | None, effect: str, made: bool, kept: bool) -> None:
    template = {"spec": {"tolerations": [toleration] if toleration else []}}
    tainted = node(OTHER | {"effect": effect})

    assert has_pod(template, tainted, there=False) is made
    assert has_pod(template, tainted, there=True) is kept


@pytest.mark.parametrize("key", ["not-ready", "unreachable", "unschedulable", "memory-pressure", "network-unavailable"])
def test_the_taints_that_the_daemon_set_controller_tolerates_are_tolerated(key: str) -> None:
    effect = "NoExecute" if key in ("not-ready", "unreachable") else "NoSchedule"
    tainted = node({"key": f"node.kubernetes.io/{key}", "effect": effect})

    assert has_pod({"spec": {"hostNetwork": True}}, tainted, there=False)
    assert has_pod({"spec": {}}, tainted, there=False) is (key != "network-unavailable")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("template", "wanted"), [(None, True), ({"spec": {}}, True), ({"spec": {"nodeSelector": {"role": "hub"}}}, False)]
)
def test_a_member_is_wanted_while_its_node_matches(template: Json | None, wanted: bool, there: bool) -> None:
    hub = make_hub(spec=HubSpec(members=Members(mode="PerNode")))
    state = HubState(hub.metadata.key)
    state.belongs_to(hub.metadata.uid)
    state.put_slice(make_slice(member="node"))
    if there:
        labels = {LABEL_HUB_UID: hub.metadata.uid}
        metadata = ObjectMeta(name="pod", namespace="ns", uid="p", labels=labels)
        state.pods.put(Pod(metadata=metadata, spec=PodSpec(node_name="node")), 0.0)

    (member,) = observe_members(
        hub, state, {("", "node"): node()}, {}, 0.0, leases_observed=True, template=template
    ).values()

    assert member.wanted is wanted
    assert member.judgement.draining is not wanted
