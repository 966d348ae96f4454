"""The chart, rendered by helm: what it grants and rejects, and that derived files are current."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from renderedchart import CHART, ROOT, Manifest, of_kind, one, operator_pod, template

import render_manifests
from processhub.controller.settings import MemberDefaults, TlsSettings, from_environment

VALUES = sorted((CHART / "ci").glob("*.yaml"))
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@pytest.fixture(scope="session")
def helm() -> str:
    return render_manifests.helm()


@pytest.fixture(scope="session")
def default(helm: str) -> list[Manifest]:
    return template(helm)


def grants(role: Manifest) -> Iterator[tuple[str, str, list[str]]]:
    """Return ``(group/resource, verb, resource names)`` for each right of a role."""
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield f"{group}/{resource}", verb, rule.get("resourceNames", [])


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_helm_lint_has_no_complaint(helm: str, values: Path) -> None:
    answer = subprocess.run([helm, "lint", "--strict", str(CHART), "-f", str(values)], capture_output=True, text=True)

    assert answer.returncode == 0, answer.stdout + answer.stderr


def _paths(values: Manifest, path: str = "") -> Iterator[str]:
    for name, value in values.items():
        if not isinstance(value, bool | str):
            yield path + name
        if isinstance(value, dict):
            yield from _paths(value, f"{path}{name}.")


@pytest.mark.parametrize("name", [*_paths(yaml.safe_load((CHART / "values.yaml").read_text())), "image.repository"])
def test_a_value_that_is_left_empty_renders_or_is_named(helm: str, name: str) -> None:
    """A key of a values file whose lines below are all comments is null, which takes the default away.

    So it is with ``helm upgrade --reuse-values`` from a chart that did not have the value yet.
    """
    values = ("-f", str(CHART / "ci" / "everything-values.yaml"), "--set", f"{name}=null")
    command = [helm, "template", "p", str(CHART), "--namespace", "p", *values]

    answer = subprocess.run(command, capture_output=True, text=True)

    if answer.returncode:
        assert f"missing property '{name.rpartition('.')[2]}'" in answer.stderr
        return
    manifests = [document for document in yaml.load_all(answer.stdout, Loader=yaml.CSafeLoader) if document]
    (container,) = operator_pod(manifests)["spec"]["containers"]
    environment = {each["name"]: each.get("value") or "" for each in container["env"]}
    settings = from_environment(environment | {"POD_NAME": "p", "POD_NAMESPACE": "n"})
    assert settings.tls is None or min(settings.tls.certificate_seconds, settings.tls.ca_seconds) > 0


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_object_is_named_once_and_labelled(helm: str, values: Path) -> None:
    manifests = template(helm, "-f", str(values))

    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names))
    for each in manifests:
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "processhub", each["metadata"]["name"]
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "processhub"


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_pods_keep_to_the_restricted_profile(helm: str, values: Path) -> None:
    manifests = template(helm, "-f", str(values))

    pods = [each["spec"] for each in of_kind(manifests, "Pod")]
    pods += [each["spec"]["template"]["spec"] for each in of_kind(manifests, "Deployment")]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]


def test_the_operators_container_has_its_settings(default: list[Manifest]) -> None:
    (container,) = one(default, "Deployment", "processhub-operator")["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") or each.get("valueFrom") for each in container["env"]}

    assert container["command"] == ["processhub-operator"]
    assert env["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert env["POD_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert env["POD_UID"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
    assert env["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert env["PROCESSHUB_IMAGE"] == container["image"] == "processhub:0.1.0"
    assert env["PROCESSHUB_IMAGE_PULL_POLICY"] == container["imagePullPolicy"] == "IfNotPresent"
    assert env["LOG_LEVEL"] == "info"
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]


def test_the_image_can_be_pinned_by_its_digest(helm: str) -> None:
    digest = f"sha256:{'0' * 64}"
    pod = operator_pod(template(helm, "--set", f"image.digest={digest}", "--set", "image.tag=1.2.3"))["spec"]
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}

    assert pod["containers"][0]["image"] == env["PROCESSHUB_IMAGE"] == f"processhub@{digest}"


def test_pods_run_as_the_user_that_the_cluster_chooses(helm: str) -> None:
    """OpenShift's restricted-v2 rejects a pod that names a user or group outside the namespace's range."""
    manifests = template(helm)

    for pod in [operator_pod(manifests)["spec"], *(each["spec"] for each in of_kind(manifests, "Pod"))]:
        for context in (pod["securityContext"], *(container["securityContext"] for container in pod["containers"])):
            assert not {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"} & context.keys()


def test_a_default_of_the_security_contexts_can_be_removed(helm: str) -> None:
    options = ("--set", "podSecurityContext.seccompProfile=null", "--set", "securityContext.runAsUser=1000")
    pod = operator_pod(template(helm, *options))["spec"]

    assert pod["securityContext"] == {"runAsNonRoot": True}
    assert pod["containers"][0]["securityContext"]["runAsUser"] == 1000


def one_value(container: Manifest, name: str) -> str:
    """Return the value of a variable of the container."""
    (value,) = [each["value"] for each in container["env"] if each["name"] == name]
    return str(value)


def test_the_operator_gets_the_members_defaults(helm: str) -> None:
    manifests = template(helm, "-f", str(CHART / "ci" / "everything-values.yaml"))
    (container,) = operator_pod(manifests)["spec"]["containers"]
    # As the kubelet does: $$( is $( and not a reference to a variable of the operator.
    named = {each["name"]: each["value"].replace("$$(", "$(") for each in container["env"] if "value" in each}
    assert "$$(POD_NAME)" in one_value(container, "PROCESSHUB_MEMBER_DEFAULTS")

    settings = from_environment({**named, "POD_NAME": "op", "POD_NAMESPACE": "system"})

    assert settings.image_pull_secrets == ("registry", "mirror")
    assert settings.member_network is not None
    assert [list(peer) for peer in settings.member_network.peers] == [["podSelector"], ["namespaceSelector"]]
    assert settings.member_defaults.image == "registry.example/team/base:1"
    assert settings.member_defaults.resources["requests"] == {"cpu": "250m", "memory": "256Mi"}
    assert settings.member_defaults.template["spec"]["priorityClassName"] == "hubs"
    (agent,) = settings.member_defaults.template["spec"]["containers"]
    assert agent["env"] == [{"name": "ME", "value": "$(POD_NAME)"}]
    context = settings.member_defaults.pod_security_context
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}, "OpenShift chooses the user"


def test_the_charts_defaults_of_members_equal_the_operators(default: list[Manifest]) -> None:
    (container,) = operator_pod(default)["spec"]["containers"]
    named = {each["name"]: each["value"] for each in container["env"] if "value" in each}

    settings = from_environment({**named, "POD_NAME": "op", "POD_NAMESPACE": "s"})
    assert settings.member_defaults == MemberDefaults()
    assert settings.member_network is None, "no NetworkPolicy unless networkPolicy.enabled"


def test_a_standby_reaches_the_leader_and_may_read_its_pod(helm: str, default: list[Manifest]) -> None:
    """By both it sees that the leader has ended."""
    values = ("--set", "networkPolicy.enabled=true", "--set", "networkPolicy.from[0].podSelector.matchLabels.a=b")
    (policy,) = [item for item in template(helm, *values) if item["kind"] == "NetworkPolicy"]
    peers = [peer["podSelector"]["matchLabels"] for peer in policy["spec"]["ingress"][0]["from"]]
    (role,) = [item for item in default if item["metadata"]["name"] == "processhub-operator-leader" and "rules" in item]

    assert peers == [{"a": "b"}, policy["spec"]["podSelector"]["matchLabels"]]
    assert {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]} in role["rules"]


def test_pods_run_on_linux_nodes_only(helm: str, default: list[Manifest]) -> None:
    linux = {"kubernetes.io/os": "linux"}

    assert operator_pod(default)["spec"]["nodeSelector"] == linux
    chosen = operator_pod(template(helm, "--set", "nodeSelector.pool=system"))["spec"]["nodeSelector"]
    assert chosen == {**linux, "pool": "system"}


def test_the_autoscaler_may_remove_the_operators_node(default: list[Manifest]) -> None:
    pod = operator_pod(default)

    local = [volume["name"] for volume in pod["spec"]["volumes"] if "emptyDir" in volume]
    annotation = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
    assert pod["metadata"]["annotations"][annotation] == ",".join(local)


def parent(folder: Path) -> Path:
    """A chart with this one as a conditional dependency, as a user writes it."""
    part = {"name": "processhub", "version": "0.1.0", "alias": "hubs", "condition": "hubs.enabled", "tags": ["workers"]}
    folder.joinpath("charts").mkdir(parents=True)
    folder.joinpath("charts", "processhub").symlink_to(CHART)
    chart = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [part]}
    folder.joinpath("Chart.yaml").write_text(json.dumps(chart))
    values = {"global": {"storageClass": "fast"}, "hubs": {"enabled": True, "replicas": 1, "global": {"team": "hubs"}}}
    folder.joinpath("values.yaml").write_text(json.dumps(values))
    return folder


def test_a_parent_chart_may_have_it_as_a_conditional_dependency(helm: str, tmp_path: Path) -> None:
    chart = parent(tmp_path / "platform")

    manifests = template(helm, chart=chart)

    assert one(manifests, "Deployment", "processhub-operator")["spec"]["replicas"] == 1
    assert len(of_kind(manifests, "CustomResourceDefinition")) == 4
    assert template(helm, "--set", "hubs.enabled=false", chart=chart) == []


def test_it_needs_a_kubernetes_that_selects_custom_resources_by_fields(helm: str) -> None:
    """Clients select by them. Kubernetes 1.30 takes ``selectableFields`` out of CRDs, and answers 400."""
    manifests = template(helm, "--kube-version", "1.31.0")

    crds = [crd["spec"]["versions"][0] for crd in of_kind(manifests, "CustomResourceDefinition")]
    assert sum("selectableFields" in version for version in crds) == 3
    with pytest.raises(subprocess.CalledProcessError) as refused:
        template(helm, "--kube-version", "1.30.14")
    assert "chart requires kubeVersion" in refused.value.stderr


def test_a_private_ca_can_be_mounted(helm: str) -> None:
    pod = operator_pod(template(helm, "-f", str(CHART / "ci" / "everything-values.yaml")))["spec"]

    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", "private-ca"]
    assert pod["containers"][0]["volumeMounts"][1]["mountPath"] == "/etc/private-ca"
    assert {"name": "SSL_CERT_FILE", "value": "/etc/private-ca/ca.crt"} in pod["containers"][0]["env"]


def test_extra_objects_are_objects_or_templates(helm: str) -> None:
    manifests = template(helm, "-f", str(CHART / "ci" / "everything-values.yaml"))

    assert one(manifests, "ConfigMap", "private-ca")["data"] == {"ca.crt": "pem"}
    (rule,) = one(manifests, "PrometheusRule", "own-alerts")["spec"]["groups"][0]["rules"]
    assert rule["annotations"] == {"summary": "{{ $labels.hub }} is slow"}, "what an object says is its own"
    note = one(manifests, "ConfigMap", "note")
    assert (note["metadata"]["namespace"], note["data"]) == ("hubs-system", {"release": "processhub"})


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_the_budget_blocks_no_drain(helm: str, replicas: int) -> None:
    spec = one(template(helm, "--set", f"replicas={replicas}"), "PodDisruptionBudget", "processhub-operator")["spec"]

    assert spec["maxUnavailable"] == 1
    assert "minAvailable" not in spec
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_two_operators_by_default_on_different_nodes_where_possible(default: list[Manifest]) -> None:
    deployment = one(default, "Deployment", "processhub-operator")["spec"]

    assert deployment["replicas"] == 2
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_no_role_reads_secrets_or_has_wildcards(helm: str, values: Path) -> None:
    manifests = template(helm, "-f", str(values))

    for role in of_kind(manifests, "ClusterRole") + of_kind(manifests, "Role"):
        for resource, verb, _ in grants(role):
            assert "*" not in resource + verb, role["metadata"]["name"]
            of_authority = role["metadata"]["name"] == "processhub-operator-authority"  # with tls.enabled
            assert resource not in ("/pods/exec", *(() if of_authority else ("/secrets",))), role["metadata"]["name"]
            assert verb not in ("escalate", "impersonate"), role["metadata"]["name"]


def test_the_operator_binds_only_the_agents_roles(default: list[Manifest]) -> None:
    bound = []
    for name in ("processhub-operator", "processhub-operator-cluster"):
        for resource, verb, names in grants(one(default, "ClusterRole", name)):
            if verb == "bind":
                assert resource == "rbac.authorization.k8s.io/clusterroles"
                assert names
                bound += names

    assert sorted(bound) == ["processhub-agent", "processhub-agents"]


def test_the_operator_reads_no_namespaces(default: list[Manifest]) -> None:
    """It never asks for them, and their labels and annotations are nobody's business."""
    assert not [right for role in of_kind(default, "ClusterRole") for right in grants(role) if "namespaces" in right[0]]


def test_the_operator_changes_only_one_cluster_role_binding(default: list[Manifest]) -> None:
    rights = [
        (verb, names)
        for name in ("processhub-operator", "processhub-operator-cluster")
        for resource, verb, names in grants(one(default, "ClusterRole", name))
        if resource.endswith("/clusterrolebindings")
    ]

    # A create by name is one by server-side apply alone.
    assert {verb for verb, _ in rights} == {"get", "list", "watch", "create", "update", "patch"}
    assert all(names == ["processhub-agents"] for _, names in rights)


def test_the_operator_may_not_write_the_status_of_members(default: list[Manifest]) -> None:
    rights = {(resource, verb) for resource, verb, _ in grants(one(default, "ClusterRole", "processhub-operator"))}

    assert ("processhub.dev/registryslices", "update") in rights
    assert not [right for right in rights if right[0] == "processhub.dev/registryslices/status"]


def test_agents_may_write_only_status_and_leases(default: list[Manifest]) -> None:
    writes = {
        (resource, verb)
        for resource, verb, _ in grants(one(default, "ClusterRole", "processhub-agent"))
        if verb in WRITES
    }

    assert writes == {
        ("processhub.dev/registryslices/status", "update"),
        ("processhub.dev/registryslices/status", "patch"),
        ("coordination.k8s.io/leases", "update"),
        ("coordination.k8s.io/leases", "patch"),
    }


def test_the_agents_binding_keeps_its_subjects_over_an_upgrade(default: list[Manifest]) -> None:
    assert "subjects" not in one(default, "ClusterRoleBinding", "processhub-agents")


def test_users_roles_are_aggregated_to_the_clusters_own(default: list[Manifest]) -> None:
    edit, view = one(default, "ClusterRole", "processhub-edit"), one(default, "ClusterRole", "processhub-view")

    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert ("processhub.dev/hubs/call", "create", []) in list(grants(edit))
    assert ("processhub.dev/hubs/scale", "patch", []) in list(grants(edit))
    assert {verb for _, verb, _ in grants(view)} == {"get", "list", "watch"}
    assert not [right for right in grants(edit) if "registryslices" in right[0]]


def test_named_namespaces_limit_the_operators_rights(helm: str) -> None:
    manifests = template(helm, "--set", "watchNamespaces={team-a,team-b}")

    bindings = {
        each["metadata"]["namespace"]
        for each in of_kind(manifests, "RoleBinding")
        if each["roleRef"]["name"] == "processhub-operator"
    }
    cluster_wide = {each["roleRef"]["name"] for each in of_kind(manifests, "ClusterRoleBinding")}
    (container,) = one(manifests, "Deployment", "processhub-operator")["spec"]["template"]["spec"]["containers"]
    assert bindings == {"team-a", "team-b"}
    assert "processhub-operator" not in cluster_wide
    assert {"name": "WATCH_NAMESPACES", "value": "team-a,team-b"} in container["env"]


@pytest.mark.parametrize("keep", [True, False])
def test_crds_are_those_of_the_source(helm: str, keep: bool) -> None:
    manifests = template(helm, "--set", f"crds.keep={json.dumps(keep)}")

    crds = {each["metadata"]["name"]: each for each in of_kind(manifests, "CustomResourceDefinition")}
    sources = [yaml.load(path.read_text(), Loader=yaml.CSafeLoader) for path in (ROOT / "crds").glob("*.yaml")]
    assert len(crds) == len(sources) == 4
    for source in sources:
        rendered = crds[source["metadata"]["name"]]
        assert rendered["spec"] == source["spec"]
        policy = rendered["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
        assert policy == ("keep" if keep else None)


def test_every_namespaced_object_is_in_the_releases_namespace(default: list[Manifest]) -> None:
    """A managed cluster may reject objects in kube-system, also a Lease for leader election."""
    namespaces = {manifest["metadata"].get("namespace") for manifest in default} - {None}

    assert namespaces == {"hubs-system"}


def test_crds_can_be_left_out(helm: str) -> None:
    assert of_kind(template(helm, "--set", "crds.enabled=false"), "CustomResourceDefinition") == []


MEMBERS_NEED = {
    ("ClusterRole", "processhub-agent"),  # without it no member renews its Lease
    ("ClusterRole", "processhub-agents"),
    ("ClusterRoleBinding", "processhub-agents"),  # without it members answer no request
    ("FlowSchema", "processhub-member-leases"),
    *((kind, name) for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
      for name in ("processhub-slice-status", "processhub-member-lease")),
}  # fmt: skip


@pytest.mark.parametrize(("enabled", "keep", "stays"), [(True, True, True), (False, False, True), (True, False, False)])
def test_an_uninstall_that_keeps_the_hubs_keeps_what_their_members_need(
    helm: str, enabled: bool, keep: bool, stays: bool
) -> None:
    options = ("--set", f"crds.enabled={json.dumps(enabled)}", "--set", f"crds.keep={json.dumps(keep)}")
    manifests = template(helm, "-f", str(CHART / "ci" / "everything-values.yaml"), *options)

    kept = {
        (each["kind"], each["metadata"]["name"])
        for each in manifests
        if each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    others = {one for one in kept if one[0] != "CustomResourceDefinition"}
    assert others == (MEMBERS_NEED if stays else set())


def test_every_policy_is_bound_and_denies(default: list[Manifest]) -> None:
    policies = {each["metadata"]["name"] for each in of_kind(default, "ValidatingAdmissionPolicy")}

    assert policies == {"processhub-slice-status", "processhub-member-lease"}
    for binding in of_kind(default, "ValidatingAdmissionPolicyBinding"):
        assert binding["spec"]["validationActions"] == ["Deny"]
        policies.remove(binding["spec"]["policyName"])
    assert policies == set()


def test_the_lease_policy_names_the_operators_account(helm: str) -> None:
    manifests = template(helm, "--set", "serviceAccount.name=processhub-boss")

    (condition,) = one(manifests, "ValidatingAdmissionPolicy", "processhub-member-lease")["spec"]["matchConditions"]
    assert "!= 'system:serviceaccount:hubs-system:processhub-boss'" in condition["expression"]


def test_the_operator_gets_its_token_whatever_its_account_says(default: list[Manifest]) -> None:
    """An account of one's own often says that no token is mounted."""
    assert operator_pod(default)["spec"]["automountServiceAccountToken"] is True


def test_names_that_look_like_numbers_are_texts(helm: str) -> None:
    """A platform may name a namespace, an account or a Secret by the number of a project."""
    named = "watchNamespaces={4711},serviceAccount.name=815,priorityClassName=7,imagePullSecrets[0].name=12"
    values = ("-f", str(CHART / "ci" / "everything-values.yaml"), "--set-string", named)
    own = ("--set-json", "extraObjects=[]")
    command = [helm, "template", "42", str(CHART), "-n", "1000", *values, *own]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    manifests = [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]

    assert [name for name in _names(manifests) if not isinstance(name, str)] == []
    assert {"1000", "4711", "42", "815", "7", "12"} <= set(_names(manifests))
    (container,) = operator_pod(manifests)["spec"]["containers"]
    assert one_value(container, "PROCESSHUB_IMAGE_PULL_SECRETS") == "12,mirror"


NAMES = ("name", "namespace", "serviceAccountName", "priorityClassName", "app.kubernetes.io/instance")


def _names(found: object) -> Iterator[object]:
    """Yield each name of an object, wherever it is."""
    if isinstance(found, list):
        for each in found:
            yield from _names(each)
    elif isinstance(found, dict):
        for name, value in found.items():
            yield from [value] if name in NAMES and not isinstance(value, dict) else _names(value)


def test_lease_renewals_have_priority_over_other_writes(default: list[Manifest]) -> None:
    spec = one(default, "FlowSchema", "processhub-member-leases")["spec"]

    assert spec["priorityLevelConfiguration"]["name"] == "leader-election"
    assert 200 < spec["matchingPrecedence"] < 9000


def test_metrics_and_network_policy_can_be_switched(helm: str, default: list[Manifest]) -> None:
    assert of_kind(default, "NetworkPolicy") == []
    assert len(of_kind(default, "Service")) == 1

    everything = template(helm, "-f", str(CHART / "ci" / "everything-values.yaml"))

    (policy,) = of_kind(everything, "NetworkPolicy")
    assert policy["spec"]["ingress"][0]["from"]
    assert of_kind(template(helm, "--set", "metrics.enabled=false"), "Service") == []


def test_tls_gives_the_operator_one_secret_of_its_own_namespace(helm: str, default: list[Manifest]) -> None:
    assert "PROCESSHUB_TLS" not in json.dumps(default)
    assert not any("configmaps" in right[0] for role in of_kind(default, "ClusterRole") for right in grants(role))

    encrypted = template(helm, "--set", "tls.enabled=true")

    environment = operator_pod(encrypted)["spec"]["containers"][0]["env"]
    variables = {each["name"]: each.get("value", "") for each in environment} | {"POD_NAME": "p", "POD_NAMESPACE": "n"}
    assert from_environment(variables).tls == TlsSettings(certificate_seconds=7 * 86400, ca_seconds=365 * 86400)
    rights = list(grants(one(encrypted, "Role", "processhub-operator-authority")))
    assert rights == [
        ("/secrets", "create", []),  # which can't be limited to a name
        ("/secrets", "get", ["processhub-ca"]),
        ("/secrets", "update", ["processhub-ca"]),
    ]
    assert of_kind(encrypted, "Certificate") == []


def test_an_issuer_of_cert_manager_signs_the_authority(helm: str) -> None:
    chosen = {"name": "company", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    manifests = template(helm, "--set-json", f'tls={{"enabled": true, "issuerRef": {json.dumps(chosen)}}}')

    (certificate,) = of_kind(manifests, "Certificate")
    assert certificate["spec"]["isCA"] is True
    assert certificate["spec"]["issuerRef"] == chosen
    listed = operator_pod(manifests)["spec"]["containers"][0]["env"]
    environment = {each["name"]: each.get("value", "") for each in listed}
    secret = certificate["spec"]["secretName"]
    assert json.loads(environment["PROCESSHUB_TLS"])["secret"] == secret
    rights = list(grants(one(manifests, "Role", "processhub-operator-authority")))
    assert ("/secrets", "get", [secret]) in rights
    assert ("/secrets", "update", [secret]) not in rights


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("replica=3", "replica"),
        ("replicas=two", "replicas"),
        ("replicas=-1", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("logLevel=loud", "logLevel"),
        ("watchNamespaces={Team_A}", "watchNamespaces"),
        ("watchNamespaces=team-a", "watchNamespaces"),
        ("crds.install=true", "install"),
        ("metrics.serviceMonitor.interval=fast", "interval"),
        ("podDisruptionBudget.maxUnavailable=half", "maxUnavailable"),
        ("podDisruptionBudget.maxUnavailable=0", "maxUnavailable"),
        ("podDisruptionBudget.maxUnavailable=0%", "maxUnavailable"),
        ("image.digest=latest", "digest"),
        ("tls.certificateHours=0", "certificateHours"),
        ("tls.issuer=company", "issuer"),
    ],
)
def test_the_schema_rejects_unknown_values(helm: str, option: str, complaint: str) -> None:
    command = [helm, "template", "processhub", str(CHART), "--set", option]
    answer = subprocess.run(command, capture_output=True, text=True)

    assert answer.returncode != 0
    assert complaint in answer.stderr


def test_every_value_is_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values: dict[str, Any], known: dict[str, Any], path: str) -> None:
        known = schema["definitions"][known["$ref"].rpartition("/")[2]] if "$ref" in known else known
        properties = known.get("properties")
        if properties is None:
            return
        of_helm = () if path else ("global", "enabled")  # a parent chart's
        assert values.keys() == properties.keys() - {*of_helm}, path
        assert known["additionalProperties"] is False, path
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, properties[name], f"{path}.{name}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


def test_every_value_is_in_the_charts_readme() -> None:
    text = (CHART / "README.md").read_text()

    for name, value in yaml.safe_load((CHART / "values.yaml").read_text()).items():
        whole = ("resources", "podSecurityContext", "securityContext")  # objects of Kubernetes, not of the chart
        inner = [f"{name}.{key}" for key in value] if isinstance(value, dict) and value and name not in whole else []
        for path in inner or [name]:
            short = "." + path.partition(".")[2]
            assert f"`{path}`" in text or f"`{short}`" in text or f"`{path}." in text, path


def test_every_value_is_used_by_a_template() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))

    for name in yaml.safe_load((CHART / "values.yaml").read_text()):
        assert re.search(rf"\.Values\.{name}\b", templates), name


def test_install_manifest_and_the_charts_crds_are_current(helm: str) -> None:
    for source in (ROOT / "crds").glob("*.yaml"):
        copy = CHART / "files" / "crds" / source.name
        assert copy.read_text() == source.read_text(), "run make manifests"

    assert (ROOT / "manifests" / "install.yaml").read_text() == render_manifests.install_manifest(), (
        "run make manifests"
    )


def test_the_install_manifest_does_not_mention_a_release() -> None:
    text = (ROOT / "manifests" / "install.yaml").read_text()

    assert "Helm" not in text
    assert "helm.sh" not in text
    kinds = [document["kind"] for document in yaml.load_all(text, Loader=yaml.CSafeLoader)]
    assert kinds[0] == "Namespace"
    assert "Pod" not in kinds


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (ROOT / "operator" / "pyproject.toml").read_text()

    (version,) = re.findall(r'^version = "(.+)"$', project, re.M)
    assert chart["version"] == chart["appVersion"] == version


@pytest.mark.parametrize("path", sorted((ROOT / "manifests" / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_explain_what_they_show(path: Path) -> None:
    assert re.match(r"# .+", path.read_text())
    for document in yaml.safe_load_all(path.read_text()):
        assert document["apiVersion"] == "processhub.dev/v1alpha1"
        assert "namespace" not in document["metadata"]
