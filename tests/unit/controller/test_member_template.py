"""The members' pod template: the operator's, overridden by the chart's defaults and these by the Hub's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builders import make_hub
from processhub.api.hub import MemberAccount, Members, PythonModules
from processhub.controller.objects.template import TemplateError, pod_template
from processhub.controller.settings import MemberDefaults, OperatorSettings, SettingsError, from_environment

Json = dict[str, Any]
SETTINGS = OperatorSettings(pod_name="op-0", pod_uid="o", namespace="system", image="processhub:1")


def rendered(
    template: Json | None = None,
    *,
    image: str = "",
    modules: str = "",
    account: str = "",
    port: int = 8080,
    timeouts: Json | None = None,
    settings: OperatorSettings = SETTINGS,
) -> Json:
    """Return the pod template of a hub."""
    members = Members(
        replicas=1,
        image=image,
        template=template or {},
        python=PythonModules(config_map=modules),
        service_account=MemberAccount(name=account),
        port=port,
    )
    return pod_template(make_hub("shop", {"members": members, "timeouts": timeouts or {}}), settings)


def agent(template: Json) -> Json:
    """Return its container ``agent``."""
    (container,) = [each for each in template["spec"]["containers"] if each["name"] == "agent"]
    return container


def env_of(container: Json) -> Json:
    """Return the values of its environment variables."""
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def of_agent(**fields: Any) -> Json:
    """Return a template with these fields of the container ``agent``."""
    return {"spec": {"containers": [{"name": "agent", **fields}]}}


def test_a_port_is_added_to_the_agents_own() -> None:
    ports = agent(rendered(of_agent(ports=[{"name": "metrics", "containerPort": 9090}])))["ports"]

    assert ports == [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]


def test_the_same_port_with_another_protocol_is_another_port() -> None:
    ports = agent(rendered(of_agent(ports=[{"name": "dns", "containerPort": 8080, "protocol": "UDP"}])))["ports"]

    assert [port["name"] for port in ports] == ["http", "dns"]


def test_a_port_without_a_protocol_is_one_of_tcp() -> None:
    found = rendered(of_agent(ports=[{"containerPort": 8080, "protocol": None, "hostPort": 80}]))

    assert [(port["name"], port["hostPort"]) for port in agent(found)["ports"]] == [("http", 80)]


@pytest.mark.parametrize("probe", ["livenessProbe", "readinessProbe"])
def test_a_given_handler_replaces_that_of_the_probe(probe: str) -> None:
    given = {"exec": {"command": ["true"]}, "periodSeconds": 3}

    found = agent(rendered(of_agent(**{probe: given})))[probe]

    assert found.keys() & {"exec", "httpGet"} == {"exec"}
    assert found["periodSeconds"] == 3
    assert found["timeoutSeconds"] == agent(rendered())[probe]["timeoutSeconds"], "what is not given stays"


def test_a_probe_without_a_handler_keeps_the_operators() -> None:
    found = agent(rendered(of_agent(livenessProbe={"periodSeconds": 3})))["livenessProbe"]

    assert (found["httpGet"]["path"], found["periodSeconds"]) == ("/healthz", 3)


@pytest.mark.parametrize("name", ["image", "command", "args"])
def test_fields_that_the_operator_owns_are_rejected_with_what_to_write_instead(name: str) -> None:
    with pytest.raises(
        TemplateError, match=rf"spec\.members\.template\.spec\.containers\[agent\]\.{name} can't be set: "
    ):
        rendered(of_agent(**{name: "x" if name == "image" else ["x"]}))


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "HUB_NAME", "value": "other"},
        {"name": "HUB_MEMBER", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "POD_IP", "value": "10.0.0.1"},
        {"name": "POD_UID", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        {"name": "PROCESSHUB_PORT", "value": "9090"},
    ],
    ids=lambda variable: variable["name"],
)
def test_another_value_for_a_variable_of_the_agent_is_rejected(variable: Json) -> None:
    path = r"^spec\.members\.template\.spec\.containers\[agent\]\.env"
    with pytest.raises(TemplateError, match=rf"{path}\[{variable['name']}\] can't be set: it is the agent's own"):
        rendered(of_agent(env=[variable]))


def test_variables_of_the_agent_that_the_template_names_too_are_passed_on_to_children() -> None:
    def field(name: str, path: str) -> Json:
        return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}

    made = rendered(
        of_agent(env=[field("POD_IP", "status.podIP"), field("NODE_NAME", "spec.nodeName"), {"name": "A", "value": ""}])
    )

    assert env_of(agent(made))["PROCESSHUB_PASSED_ON"] == "NODE_NAME,POD_IP"
    assert "PROCESSHUB_PASSED_ON" not in env_of(agent(rendered(of_agent(env=[{"name": "A", "value": "1"}]))))


@pytest.mark.parametrize("port", [8080, 9090])
def test_the_agents_port_keeps_its_name(port: int) -> None:
    with pytest.raises(TemplateError, match=rf"ports\[{port}\] is the agent's own"):
        rendered(of_agent(ports=[{"name": "web", "containerPort": port}]), port=port)


def test_the_agent_takes_another_port_and_leaves_8080_to_children() -> None:
    found = agent(rendered(of_agent(ports=[{"name": "web", "containerPort": 8080}]), port=9090))

    assert found["ports"] == [{"name": "http", "containerPort": 9090}, {"name": "web", "containerPort": 8080}]
    assert env_of(found)["PROCESSHUB_PORT"] == "9090"
    assert {found[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} == {"http"}


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "30"), ({"terminationGracePeriodSeconds": 5}, "5"), ({"terminationGracePeriodSeconds": None}, "30")],
    ids=["default", "the template's", "removed"],
)
def test_the_agent_gets_the_pods_grace_period(given: Json, told: str) -> None:
    template = rendered({"spec": given})

    assert env_of(agent(template))["TERMINATION_GRACE_SECONDS"] == told
    assert str(template["spec"].get("terminationGracePeriodSeconds", 30)) == told


def test_the_grace_period_covers_a_request_and_the_stop() -> None:
    def grace(**timeouts: int) -> int:
        return int(rendered(timeouts=timeouts)["spec"]["terminationGracePeriodSeconds"])

    assert grace(stopSeconds=60) == grace() + 50
    assert grace(requestSeconds=60) == grace() + 52, "children answer first; 8 s are there by default"


@pytest.mark.parametrize("field", ["serviceAccountName", "serviceAccount"])
def test_an_account_in_the_template_is_rejected_with_the_field_to_use(field: str) -> None:
    expected = rf"^spec\.members\.template\.spec\.{field} can't be set: .*spec\.members\.serviceAccount\.name"
    with pytest.raises(TemplateError, match=expected):
        rendered({"spec": {field: "s3"}})
    with pytest.raises(TemplateError, match=rf"^members\.defaults\.template\.spec\.{field} can't be set"):
        rendered(settings=defaults(template={"spec": {field: "s3"}}))


@pytest.mark.parametrize("empty", [None, ""])
def test_no_template_removes_the_account(empty: str | None) -> None:
    assert rendered({"spec": {"serviceAccountName": empty}})["spec"]["serviceAccountName"] == "processhub-shop"


def test_a_users_account_is_used_by_members_with_its_token_mounted() -> None:
    spec = rendered(account="s3")["spec"]

    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("s3", True)


@pytest.mark.parametrize(
    "template",
    [
        {"metadata": None},
        {"spec": None},
        {"spec": {"containers": None, "volumes": None, "imagePullSecrets": None, "topologySpreadConstraints": None}},
        of_agent(env=None, ports=[], volumeMounts=None, args=None, command=[], image=""),
        {"spec": {"containers": []}},
    ],
)
def test_empty_and_null_fields_have_no_effect(template: Json) -> None:
    assert agent(rendered(template)) == agent(rendered())


@pytest.mark.parametrize("empty", [[], "", 0, False])
def test_an_empty_value_of_another_type_is_rejected(empty: Any) -> None:
    with pytest.raises(TemplateError, match=r"spec\.members\.template\.metadata is .*; it must be an object"):
        rendered({"metadata": empty})


def test_pull_secrets_of_the_chart_and_of_the_hub_are_both_used() -> None:
    settings = OperatorSettings(pod_name="op", pod_uid="o", namespace="s", image_pull_secrets=("registry",))

    spec = rendered({"spec": {"imagePullSecrets": [{"name": "mine"}]}}, settings=settings)["spec"]

    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "mine"}]


def test_members_run_on_linux_nodes() -> None:
    spec = rendered({"spec": {"nodeSelector": {"pool": "hubs"}}})["spec"]

    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "hubs"}
    assert rendered({"spec": {"nodeSelector": {"kubernetes.io/os": None}}})["spec"]["nodeSelector"] == {}


@pytest.mark.parametrize("image", ["", "team/app:2"])
def test_the_autoscaler_may_remove_the_node_of_a_member(image: str) -> None:
    template = rendered(image=image)

    named = template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"]
    local = [volume["name"] for volume in template["spec"]["volumes"] if "emptyDir" in volume]
    assert set(local) <= set(named.split(","))


def defaults(**fields: Any) -> OperatorSettings:
    """The settings as the chart passes them in the environment."""
    names = {"POD_NAME": "op", "POD_NAMESPACE": "system", "PROCESSHUB_IMAGE": "processhub:1"}
    return from_environment({**names, "PROCESSHUB_MEMBER_DEFAULTS": json.dumps(fields)})


def test_the_hub_overrides_the_charts_defaults_and_these_the_operators() -> None:
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}}
    template = {
        "metadata": {"annotations": {"team": "hubs"}},
        "spec": {
            "priorityClassName": "low",
            "tolerations": [{"key": "a"}],
            "containers": [{"name": "agent", "env": [{"name": "A", "value": "1"}]}],
        },
    }
    settings = defaults(image="team/base:1", resources=resources, template=template)

    found = rendered({"spec": {"priorityClassName": "high"}}, settings=settings)

    assert agent(found)["image"] == "team/base:1"
    assert agent(found)["resources"] == resources
    assert {"name": "A", "value": "1"} in agent(found)["env"]
    assert found["metadata"]["annotations"]["team"] == "hubs"
    assert (found["spec"]["priorityClassName"], found["spec"]["tolerations"]) == ("high", [{"key": "a"}])
    assert agent(rendered(image="team/own:1", settings=settings))["image"] == "team/own:1"


def test_the_user_of_members_can_be_left_to_the_cluster() -> None:
    settings = defaults(podSecurityContext={"runAsNonRoot": True})

    assert rendered(settings=settings)["spec"]["securityContext"] == {"runAsNonRoot": True}
    assert rendered()["spec"]["securityContext"]["runAsUser"] == 65532


def test_a_wrong_default_is_named() -> None:
    with pytest.raises(SettingsError, match=r"members\.defaults\): imge is no field; write image"):
        defaults(imge="x")
    with pytest.raises(TemplateError, match=r"^members\.defaults\.template\.spec\.containers\[agent\]\.image"):
        rendered(settings=defaults(template=of_agent(image="x")))


def test_without_defaults_of_the_chart_those_of_the_program_apply() -> None:
    names = {"POD_NAME": "op", "POD_NAMESPACE": "system"}

    assert from_environment(names).member_defaults == MemberDefaults()
    assert from_environment({**names, "PROCESSHUB_IMAGE_PULL_SECRETS": "a, b"}).image_pull_secrets == ("a", "b")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"metadata": []}, "spec.members.template.metadata is []; it must be an object"),
        ({"spec": ["x"]}, 'spec is ["x"]; it must be an object'),
        ({"spec": {"containers": {}}}, "spec.containers is {}; it must be a list"),
        ({"spec": {"containers": ["agent"]}}, 'spec.containers[0] is "agent"; it must be an object'),
        ({"spec": {"containers": [{"image": "i"}]}}, "spec.containers[0].name is missing or null; it must be a text"),
        (of_agent(resources=1), "spec.containers[agent].resources is 1; it must be an object"),
    ],
)
def test_a_template_of_the_wrong_type_is_rejected_with_the_field(template: Json, words: str) -> None:
    with pytest.raises(TemplateError) as refused:
        rendered(template)

    assert words in str(refused.value)


def test_a_users_image_runs_the_agent_that_an_init_container_copies() -> None:
    made = rendered(image="users:1")

    (brings,) = made["spec"]["initContainers"]
    assert (brings["image"], agent(made)["image"]) == ("processhub:1", "users:1")
    assert "imagePullPolicy" not in agent(made)
    assert brings["securityContext"] == agent(made)["securityContext"]
    (home,) = (mount["mountPath"] for mount in agent(made)["volumeMounts"] if mount["name"] == "agent")
    assert agent(made)["command"] == [f"{home}/bin/processhub-agent"]
    assert {"name": "PROCESSHUB_RUNNER_PYTHON", "value": "python3"} in agent(made)["env"]


def test_a_config_map_of_modules_is_mounted_where_python_children_find_it() -> None:
    made, plain = rendered(modules="actors"), rendered()

    (volume,) = (item for item in made["spec"]["volumes"] if item not in plain["spec"]["volumes"])
    assert volume["configMap"]["name"] == "actors"
    (mount,) = (item for item in agent(made)["volumeMounts"] if item["name"] == volume["name"])
    assert {"name": "PROCESSHUB_PYTHON_PATH", "value": mount["mountPath"]} in agent(made)["env"]
