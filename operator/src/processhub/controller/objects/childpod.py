"""The Pod of a pod child: the user's template on the member's node, with the variables and the token of every child."""

from __future__ import annotations

from typing import Any

import msgspec

from processhub.api.child import Child, PodWorkload
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod
from processhub.api.naming import (
    ANNOTATION_CHILD_ID,
    ANNOTATION_CHILD_UID,
    ANNOTATION_EPOCH,
    ANNOTATION_ROLE,
    ANNOTATION_RUN,
    ANNOTATION_WORKLOAD,
    ENV_CHILD_ID,
    ENV_MEMBER,
    GATE_SOLE,
    LABEL_CHILD,
    LABEL_COMPONENT,
    LABEL_HUB,
    LABEL_HUB_UID,
    LABEL_MEMBER,
    LABEL_NAME,
    authorities_config_map,
    child_pod_name,
    id_hash,
    label_value,
    server_name,
)
from processhub.api.reasons import RestartPolicy, Role
from processhub.controller.objects.authorities import AUTHORITIES_KEY
from processhub.controller.objects.owned import SERVICE_PORT, TOKEN_FILE, TOKEN_MOUNT, TOKEN_VOLUME, owner_reference
from processhub.registry.grammar import Assignment

# The restartPolicy of a Pod whose template has none, by the child's own policy.
_RESTARTS = {
    RestartPolicy.PERMANENT: "Always",
    RestartPolicy.TRANSIENT: "OnFailure",
    RestartPolicy.TEMPORARY: "Never",
}


class PodPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A pod child's entry: the member whose slice holds it and that member's Kubernetes node."""

    child_id: str
    member: str
    node: str
    entry: Assignment


def child_pod(
    hub: Hub, owner: Child | ChildSet | Hub, place: PodPlace, workload: PodWorkload, *, tls: bool = False
) -> dict[str, Any]:
    """The manifest of a pod child's Pod; ``owner`` is the object that describes the child.

    ``tls``: the hub's members accept requests over TLS only.

    In a hub with standby copies the Pod starts as Passive. The entry's role is written once the Pod exists. The Pod
    gets no node before its scheduling gate is removed: if its creation takes effect late, when it is not wanted any
    more, it never starts. The additions need no privilege: a template that passes Pod Security ``restricted`` still
    does.
    """
    template = workload.template
    copy = place.member if hub.spec.keeps_copies else ""
    if hub.spec.keeps_standbys:
        place = msgspec.structs.replace(place, entry=msgspec.structs.replace(place.entry, role=Role.PASSIVE))
    given = template.get("metadata") or {}
    spec = dict(template.get("spec") or {})
    variables = _variables(hub, place, tls=tls)
    for kind in ("initContainers", "containers"):
        if spec.get(kind):
            spec[kind] = [_with_variables(container, variables) for container in spec[kind]]
    volumes = [volume for volume in spec.get("volumes") or () if volume.get("name") != TOKEN_VOLUME["name"]]
    spec["volumes"] = [*volumes, _with_authorities(hub) if tls else TOKEN_VOLUME]
    spec["restartPolicy"] = spec.get("restartPolicy") or _RESTARTS[RestartPolicy(place.entry.restart_policy)]
    gates = [gate for gate in spec.get("schedulingGates") or () if gate.get("name") != GATE_SOLE]
    spec["schedulingGates"] = [*gates, {"name": GATE_SOLE}]
    spec["affinity"] = _on_node(spec.get("affinity") or {}, place.node)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": child_pod_name(hub.metadata.name, hub.metadata.uid, place.child_id, copy),
            "namespace": hub.metadata.namespace,
            "labels": {**(given.get("labels") or {}), **_labels(hub, place)},
            "annotations": {**(given.get("annotations") or {}), **marks(place.child_id, place.entry)},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": spec,
    }


def name_and_node(pod: Pod) -> str:
    """The name of a Pod and its node, for people."""
    return f"{pod.metadata.name} on {pod.spec.node_name or 'no node yet'}"


def marks(child_id: str, entry: Assignment) -> dict[str, str]:
    """The annotations that say which incarnation of which child a Pod is."""
    return {
        ANNOTATION_CHILD_ID: child_id,
        ANNOTATION_CHILD_UID: entry.uid,
        ANNOTATION_EPOCH: str(entry.epoch),
        ANNOTATION_RUN: str(entry.started_with),
        ANNOTATION_ROLE: entry.role,
        ANNOTATION_WORKLOAD: entry.workload,
    }


def _labels(hub: Hub, place: PodPlace) -> dict[str, str]:
    # The component excludes the Pod from the hub's Services and from the selectors of its members.
    return {
        LABEL_NAME: "processhub",
        LABEL_COMPONENT: "child",
        LABEL_HUB: hub.metadata.name,
        LABEL_HUB_UID: hub.metadata.uid,
        LABEL_MEMBER: label_value(place.member),
        LABEL_CHILD: id_hash(place.child_id),
    }


def _with_authorities(hub: Hub) -> dict[str, Any]:
    """The volume of the token, with the certificates by which the hub's members are verified beside it."""
    trusted = {"name": authorities_config_map(hub.metadata.name), "optional": True}
    sources = [*TOKEN_VOLUME["projected"]["sources"], {"configMap": trusted}]
    return {**TOKEN_VOLUME, "projected": {"sources": sources}}


def _variables(hub: Hub, place: PodPlace, *, tls: bool) -> list[dict[str, Any]]:
    base = server_name(hub.metadata.name, hub.metadata.namespace)
    values = {
        "HUB_NAME": hub.metadata.name,
        "HUB_NAMESPACE": hub.metadata.namespace,
        ENV_MEMBER: place.member,
        ENV_CHILD_ID: place.child_id,
        "HUB_EPOCH": str(place.entry.epoch),
        "HUB_ROLE": place.entry.role,
        # The Service is used, because the Pod outlives its member's pod, whose address changes.
        "HUB_URL": f"{'https' if tls else 'http'}://{base}:{SERVICE_PORT}",
        "HUB_TOKEN_FILE": TOKEN_FILE,
        **({"HUB_CA_FILE": f"{TOKEN_MOUNT['mountPath']}/{AUTHORITIES_KEY}"} if tls else {}),
    }
    # "$(" in an id must not be taken for a reference to another variable.
    return [{"name": name, "value": value.replace("$(", "$$(")} for name, value in values.items()]


def place_in_env(pod: Pod) -> tuple[str, str] | None:
    """The child's id and its member as ``child_pod`` wrote them into the Pod's containers; None if it did not.

    They can't be changed: the environment of a Pod's containers is fixed at its creation.
    """
    for container in pod.spec.containers:  # another controller may have added a container before the others
        values = {variable.name: variable.value.replace("$$(", "$(") for variable in container.env}
        if ENV_CHILD_ID in values and ENV_MEMBER in values:
            return values[ENV_CHILD_ID], values[ENV_MEMBER]
    return None


def _with_variables(container: dict[str, Any], variables: list[dict[str, Any]]) -> dict[str, Any]:
    """The container with the token and the hub's variables, which come first so that the user's can refer to them."""
    reserved = {variable["name"] for variable in variables}
    own = [variable for variable in container.get("env") or () if variable.get("name") not in reserved]
    mounts = [
        mount for mount in container.get("volumeMounts") or () if mount.get("mountPath") != TOKEN_MOUNT["mountPath"]
    ]
    return {**container, "env": [*variables, *own], "volumeMounts": [*mounts, TOKEN_MOUNT]}


def _on_node(affinity: dict[str, Any], node: str) -> dict[str, Any]:
    """Add the node to the user's affinity. Its terms are alternatives, so each of them gets the node."""
    here = {"key": "metadata.name", "operator": "In", "values": [node]}
    by_node = affinity.get("nodeAffinity") or {}
    required = by_node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    alternatives: list[dict[str, Any]] = required.get("nodeSelectorTerms") or [{}]
    terms = [{**term, "matchFields": [*(term.get("matchFields") or ()), here]} for term in alternatives]
    required = {**required, "nodeSelectorTerms": terms}
    return {**affinity, "nodeAffinity": {**by_node, "requiredDuringSchedulingIgnoredDuringExecution": required}}
