"""Every pod that the chart and the operator create, against the rules of OpenShift's constraint restricted-v2."""

from __future__ import annotations

from typing import Any

import pytest
from renderedchart import CHART, of_kind, template

import render_manifests
from builders import make_hub
from processhub.controller.objects.template import pod_template
from processhub.controller.settings import from_environment

Pod = dict[str, Any]
# The values for such a cluster, from the chart's README.
VALUES = ("--set", "members.defaults.podSecurityContext.runAsUser=null")
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
CHOSEN_BY_THE_CLUSTER = ("runAsUser", "fsGroup", "supplementalGroups", "seLinuxOptions")
HUBS = {
    "plain": {},
    "image": {"members": {"image": "registry.example/mine:1"}},
    "configMap": {"members": {"python": {"configMap": "code"}}},
    "perNode": {"members": {"mode": "PerNode"}},
}


def complaints(pod: Pod) -> list[str]:
    """Return what restricted-v2 rejects in a pod's spec. The cluster sets its own user, groups and SELinux options."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    found += [f"volume {kind}" for each in pod.get("volumes", ()) for kind in each.keys() - {"name"} - VOLUMES]
    context = pod.get("securityContext", {})
    found += [name for name in CHOSEN_BY_THE_CLUSTER if name in context]
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        own = container.get("securityContext", {})
        found += [name for name in CHOSEN_BY_THE_CLUSTER if name in own]
        found += [f"hostPort {port['hostPort']}" for port in container.get("ports", ()) if port.get("hostPort")]
        if own.get("privileged"):
            found.append("privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
            found.append("capabilities")
        profile = own.get("seccompProfile") or context.get("seccompProfile") or {}
        if profile.get("type") != "RuntimeDefault":
            found.append("seccompProfile")
        if not (own.get("runAsNonRoot") or context.get("runAsNonRoot")):
            found.append("runAsNonRoot")
    return found


def member(*options: str, hub: dict[str, Any]) -> Pod:
    """Return a member's pod as created by an operator that the chart has installed with these values."""
    (deployment,) = of_kind(template(render_manifests.helm(), *options), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environ = {each["name"]: each["value"].replace("$$(", "$(") for each in container["env"] if "value" in each}
    settings = from_environment({**environ, "POD_NAME": "operator", "POD_NAMESPACE": "hubs-system"})
    pod: Pod = pod_template(make_hub("shop", hub), settings)["spec"]
    return pod


def test_the_charts_own_pods_are_admitted() -> None:
    manifests = template(render_manifests.helm(), *VALUES)

    pods = [each["spec"] for each in of_kind(manifests, "Pod")]
    pods += [each["spec"]["template"]["spec"] for each in of_kind(manifests, "Deployment")]
    assert [complaints(pod) for pod in pods] == [[], []]


@pytest.mark.parametrize("hub", HUBS)
def test_members_are_admitted(hub: str) -> None:
    assert complaints(member(*VALUES, hub=HUBS[hub])) == []


def test_members_of_the_default_values_name_a_user() -> None:
    assert complaints(member(hub={})) == ["runAsUser"], "for clusters that do not choose one"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"spec": {"hostNetwork": True}}, "hostNetwork"),
        ({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/x"}}]}}, "volume hostPath"),
        ({"spec": {"securityContext": {"fsGroup": 1}}}, "fsGroup"),
        ({"spec": {"securityContext": {"seccompProfile": None}}}, "seccompProfile"),
        (
            {"spec": {"containers": [{"name": "agent", "securityContext": {"capabilities": {"add": ["KILL"]}}}]}},
            "capabilities",
        ),
    ],
)
def test_rejected_fields_are_found(change: dict[str, Any], complaint: str) -> None:
    assert complaint in complaints(member(*VALUES, hub={"members": {"template": change}}))


def test_the_readme_has_the_values() -> None:
    assert f"`{' '.join(VALUES)}`" in (CHART / "README.md").read_text()
