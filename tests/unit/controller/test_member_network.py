"""The NetworkPolicy and the disruption budget of members: which traffic is allowed, and that no drain is blocked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builders import make_child, make_hub
from processhub.api.child import PodWorkload
from processhub.controller.execute.ownedobjects import supporting_objects
from processhub.controller.objects.childpod import PodPlace, child_pod
from processhub.controller.objects.template import pod_template
from processhub.controller.settings import OperatorSettings, SettingsError, from_environment
from processhub.registry.grammar import Assignment

HUB = make_hub("shop")
POD = {"POD_NAME": "operator", "POD_NAMESPACE": "system"}


def settings(**network: Any) -> OperatorSettings:
    return from_environment({**POD, "PROCESSHUB_MEMBER_NETWORK": json.dumps(network)})


def owned(kind: str, given: OperatorSettings) -> list[dict[str, Any]]:
    return [manifest for manifest in supporting_objects(HUB, given) if manifest["kind"] == kind]


def test_members_get_a_network_policy_if_the_chart_enables_it() -> None:
    assert owned("NetworkPolicy", from_environment(POD)) == []
    (policy,) = owned("NetworkPolicy", settings())

    member = pod_template(HUB, settings())
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= member["metadata"]["labels"].items()
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}], "from anywhere"
    assert member["spec"]["containers"][0]["ports"] == [{"name": "http", "containerPort": 8080}]
    assert policy["spec"]["policyTypes"] == ["Ingress"], "children may connect to anything"


def test_peers_are_admitted_beside_the_hubs_own_pods() -> None:
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    place = PodPlace(child_id="a", member="shop-0", node="n", entry=Assignment(uid="u", epoch=1, workload="w"))
    of_child = child_pod(HUB, make_child("a", hub="shop"), place, PodWorkload(template={"spec": {"containers": []}}))

    (policy,) = owned("NetworkPolicy", settings(**{"from": [monitoring]}))

    (ingress,) = policy["spec"]["ingress"]
    own, *others = ingress["from"]
    assert others == [monitoring]
    for pod in (pod_template(HUB, settings()), of_child):
        assert own["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(SettingsError, match=r"PROCESSHUB_MEMBER_NETWORK \(the chart's networkPolicy.members\)"):
        settings(to=[])


def test_a_budget_blocks_no_drain() -> None:
    (budget,) = owned("PodDisruptionBudget", from_environment(POD))

    assert budget["spec"]["maxUnavailable"] == 1, "a hub of one member, too"
    assert "minAvailable" not in budget["spec"]
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", "members that are never ready"
