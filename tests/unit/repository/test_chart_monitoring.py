"""The chart's objects for Prometheus and Grafana. They use only metrics and labels that are exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import promql_parser as promql
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from renderedchart import CHART, ROOT, Manifest, of_kind, one, operator_pod, template

import render_manifests
from builders import make_hub
from processhub.agent.metrics import COUNTERS, GAUGES, Metrics
from processhub.controller import metrics as of_operator
from processhub.controller.objects.template import pod_template
from processhub.controller.settings import OperatorSettings

EVERYTHING = ("-f", str(CHART / "ci" / "everything-values.yaml"))
OF_SCRAPE = {"namespace", "hub", "member", "pod", "instance", "job"}  # added by Prometheus and by the PodMonitor
CONDITION = {"type": "Ready", "status": "False", "reason": "MembersNotReady", "lastTransitionTime": ""}
STATUS = {"conditions": [CONDITION], "replicas": 3, "readyReplicas": 2, "children": {"pending": 4, "failed": 1}}


@pytest.fixture(scope="module")
def everything() -> list[Manifest]:
    return template(render_manifests.helm(), *EVERYTHING)


@pytest.fixture
def exported() -> Iterator[dict[str, set[str]]]:
    """The labels of each metric of operator and members, by name."""
    member = Metrics()
    member.observe(lambda: {"Running": 1}, dict.fromkeys((*COUNTERS, *GAUGES), lambda: 1))
    member.count_request("call", 200)
    member.count_write("written")
    of_operator.HOOK_EVENTS.labels("delivered").inc(0)
    of_operator.CHILDREN.labels("ns", "h").set(1)
    of_operator.MEMBERS.labels("ns", "h").set(1)
    of_operator.HUBS.follow(lambda: [make_hub("h", status=STATUS)])
    yield {
        sample.name: set(sample.labels)
        for families in (REGISTRY.collect(), text_string_to_metric_families(member.text().decode()))
        for family in families
        for sample in family.samples
        if sample.name.startswith("processhub_")
    }
    of_operator.HUBS.follow(tuple)
    of_operator.forget(("ns", "h"))


def asked_for(expression: str) -> dict[str, set[str]]:
    """Return the labels that an expression selects or groups by, for each metric; the expression must be valid."""
    found: dict[str, set[str]] = {}

    def walk(node: promql.Expr, grouped: frozenset[str]) -> None:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            grouped |= set(node.modifier.labels)
        if isinstance(node, promql.VectorSelector):
            matchers = node.matchers.matchers
            found.setdefault(node.name or "", set()).update({each.name for each in matchers} | grouped)
        for name in ("lhs", "rhs", "expr", "vector_selector", "vs"):
            if isinstance(inner := getattr(node, name, None), promql.Expr):
                walk(inner, grouped)
        for inner in getattr(node, "args", ()):
            walk(inner, grouped)

    walk(promql.parse(expression), frozenset())
    assert found, expression
    return found


def check(expression: str, exported: Mapping[str, set[str]]) -> None:
    for name, labels in asked_for(expression).items():
        assert name in exported, f"{name} in {expression}"
        assert labels <= exported[name] | OF_SCRAPE, f"{name} in {expression}"


def rules(manifests: list[Manifest]) -> list[Manifest]:
    (group,) = one(manifests, "PrometheusRule", "processhub")["spec"]["groups"]
    return list(group["rules"])


def test_alerts_use_exported_metrics(everything: list[Manifest], exported: dict[str, set[str]]) -> None:
    for rule in rules(everything):
        check(rule["expr"], exported)
        for label in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            assert any(label in labels for labels in asked_for(rule["expr"]).values()), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["for"]


def test_alerts_can_be_left_out(everything: list[Manifest]) -> None:
    chosen = ("--set", "metrics.prometheusRule.enabled=true")
    names = {rule["alert"] for rule in rules(template(render_manifests.helm(), *chosen))}

    assert {"ProcessHubNoLeader", "ProcessHubHubNotReady", "ProcessHubMembersNotReporting"} <= names
    assert {"ProcessHubChildrenFailed", "ProcessHubChildrenPending"} <= names
    assert names == set(re.findall(r"^\| `(ProcessHub\w+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.M))
    assert names - {rule["alert"] for rule in rules(everything)} == {"ProcessHubHookEventsLost"}


def test_the_dashboard_uses_exported_metrics(everything: list[Manifest], exported: dict[str, set[str]]) -> None:
    config_map = one(everything, "ConfigMap", "processhub-dashboard")
    dashboard = json.loads(config_map["data"]["processhub.json"])

    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        for target in panel["targets"]:
            check(target["expr"], exported)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) <= variables.keys()
    for name in ("namespace", "hub"):
        (selector,) = re.findall(r"label_values\((.+), \w+\)", variables[name]["definition"])
        check(selector, exported)


def test_an_expression_with_an_unknown_metric_or_label_is_found(exported: dict[str, set[str]]) -> None:
    for wrong in ("sum(processhub_leaders)", "sum by (state) (processhub_hub_children)", 'processhub_leader{hub_="a"}'):
        with pytest.raises(AssertionError):
            check(wrong, exported)


def test_the_operators_metrics_equal_the_statuses(exported: dict[str, set[str]]) -> None:
    key = {"namespace": "ns", "hub": "h"}

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"processhub_hub_{name}", {**key, **labels})

    assert value("condition", condition="Ready", reason="MembersNotReady") == 0
    assert (value("members"), value("members_ready")) == (3, 2)
    assert [value("children_in_state", state=state) for state in ("running", "pending", "failed")] == [0, 4, 1]

    of_operator.HUBS.follow(tuple)

    assert value("members") is None, "another replica leads"


@pytest.mark.parametrize(
    ("kind", "endpoints"), [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")]
)
def test_metrics_of_hubs_keep_their_own_namespace(kind: str, endpoints: str) -> None:
    (switch,) = {"serviceMonitor", "podMonitor"} & {kind[0].lower() + kind[1:]}
    monitor = one(
        template(render_manifests.helm(), "--set", f"metrics.{switch}.enabled=true"), kind, "processhub-operator"
    )

    (endpoint,) = monitor["spec"][endpoints]
    assert endpoint["honorLabels"] is True
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    pod = operator_pod(template(render_manifests.helm()))
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_each_pod_is_scraped_once(everything: list[Manifest]) -> None:
    monitored = [one(everything, "ServiceMonitor", "processhub-operator"), *of_kind(everything, "PodMonitor")]

    components = [each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] for each in monitored]
    assert components == ["operator", "agent"]
    assert all(each["metadata"]["labels"]["release"] == "prometheus" for each in monitored)
    assert monitored[0]["spec"]["endpoints"][0]["interval"] == "15s"


def test_the_members_of_all_hubs_are_scraped(everything: list[Manifest]) -> None:
    settings = OperatorSettings(pod_name="operator", pod_uid="u", namespace="hubs-system")
    member = pod_template(make_hub("h"), settings)
    limited = ("--set", "metrics.podMonitor.enabled=true", "--set", "watchNamespaces={team-a,team-b}")

    spec = one(everything, "PodMonitor", "processhub-members")["spec"]

    assert spec["selector"]["matchLabels"].items() <= member["metadata"]["labels"].items()
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in member["spec"]["containers"][0]["ports"]}
    assert [each["targetLabel"] for each in endpoint["relabelings"]] == ["hub", "member"]
    assert spec["namespaceSelector"] == {"any": True}
    chosen = one(template(render_manifests.helm(), *limited), "PodMonitor", "processhub-members")["spec"]
    assert chosen["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}
