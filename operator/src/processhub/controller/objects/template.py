"""The pod template of members: the operator's template with the user's merged over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from processhub.api.hub import Hub, HubSpec
from processhub.api.naming import LABEL_HUB_UID, member_account
from processhub.controller.objects.owned import TOKEN_FILE, TOKEN_MOUNT, TOKEN_VOLUME, selector_labels
from processhub.controller.settings import OperatorSettings

GRACE_VARIABLE = "TERMINATION_GRACE_SECONDS"
PYTHON_PATH = "/var/lib/processhub/python"
AGENT_HOME = "/opt/processhub"  # processhub.agent.inject fills this folder
_INJECTED = "/injected"
TEMPLATE = "spec.members.template"
_KEPT = ("metadata", "labels", "spec", "image", "command", "serviceAccountName")  # fields that null does not remove
_SHOWN = 60  # characters of a wrong value that a message shows
_GRACE_SECONDS = 12  # for the agent itself, after its last child has ended
_ANSWER_SECONDS = 8  # at least, for the answers to requests that children are handling
_KUBERNETES_GRACE_SECONDS = 30  # if the template removes the operator's
_DEFAULTS = "members.defaults.template"  # of the chart
# The lists of a PodTemplateSpec that go by key, as the API server merges them; all others are replaced as a whole.
_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "env": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort", "protocol"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_KEY_DEFAULTS = {"protocol": "TCP"}
_KEY_KINDS: dict[str, tuple[Any, str]] = {"containerPort": (int, "a number")}
# The cluster autoscaler removes no node with other local volumes.
_SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS = frozenset(("exec", "grpc", "httpGet", "tcpSocket"))  # of a probe, which has one of them
_ACCOUNT_FIELDS = ("serviceAccountName", "serviceAccount")  # the second is the deprecated name of the first
_UNSET = (None, None)
# The agent's variables by which a member knows itself. The others may be set by the template.
_IDENTITY = frozenset(
    (
        "HUB_NAME",
        "HUB_NAMESPACE",
        "HUB_UID",
        "HUB_MEMBER",
        "POD_NAME",
        "POD_UID",
        "POD_IP",
        "NODE_NAME",
        "PROCESSHUB_PORT",
    )
)
_AGENTS_OWN = {
    "image": "name the image that children run in in spec.members.image",
    "command": "it is the agent's; name the programs of children in Child objects",
    "args": "they are the agent's; name the programs of children in Child objects",
}


class TemplateError(Exception):
    """spec.members.template is not a PodTemplateSpec. The message names the field and what it must be."""


def _grace(spec: HubSpec) -> int:
    """The grace period: for handing children over, for their answers, for stopping them, and for the last steps."""
    handover = spec.migration.handover_timeout_seconds if spec.migration.hands_over else 0
    answers = max(_ANSWER_SECONDS, spec.timeouts.request_seconds)
    return handover + answers + spec.timeouts.stop_seconds + _GRACE_SECONDS


def pod_template(hub: Hub, settings: OperatorSettings) -> dict[str, Any]:
    """The PodTemplateSpec of a hub's members. Raises TemplateError."""
    spec = hub.spec
    labels = {**selector_labels(hub), LABEL_HUB_UID: hub.metadata.uid}
    base: dict[str, Any] = {
        "metadata": {"labels": labels, "annotations": {_SAFE_TO_EVICT: "run,agent"}},
        "spec": {
            **_account(hub),
            "terminationGracePeriodSeconds": _grace(spec),
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
            "securityContext": settings.member_defaults.pod_security_context,
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "affinity": _spread(hub),
            "containers": [_agent(hub, settings)],
            "volumes": [{"name": "run", "emptyDir": {}}, TOKEN_VOLUME, *_python_volumes(hub)],
        },
    }
    if image := spec.members.image or settings.member_defaults.image:
        _inject(base["spec"], image)
    merged: dict[str, Any] = base
    passed_on: set[str] = set()
    for template, path in ((settings.member_defaults.template, _DEFAULTS), (spec.members.template, TEMPLATE)):
        merged = merge(merged, template, path)
        _check_agent(template, path, spec.members.port)
        _check_account(template, path)
        passed_on |= _own_variables(template, path, base["spec"]["containers"][0]["env"])
    # The user's template may add labels, but not remove those that the hub's selector and policies need.
    merged["metadata"]["labels"].update(labels)
    _set_grace(merged["spec"])
    if passed_on:
        _variables(merged["spec"]).append({"name": "PROCESSHUB_PASSED_ON", "value": ",".join(sorted(passed_on))})
    return merged


def _account(hub: Hub) -> dict[str, Any]:
    """The fields of the members' account. Many accounts of users say that no token is mounted; an agent needs it."""
    if name := hub.spec.members.service_account.name:
        return {"serviceAccountName": name, "automountServiceAccountToken": True}
    return {"serviceAccountName": member_account(hub.metadata.name)}


def _set_grace(pod: dict[str, Any]) -> None:
    """Give the agent the grace period as merged: within it all children must have ended."""
    grace = pod.get("terminationGracePeriodSeconds", _KUBERNETES_GRACE_SECONDS)
    env = _variables(pod)
    others = [variable for variable in env if variable["name"] != GRACE_VARIABLE]
    env[:] = [*others, {"name": GRACE_VARIABLE, "value": str(grace)}]


def _variables(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The environment variables of the container ``agent``."""
    (found,) = (container["env"] for container in pod["containers"] if container["name"] == "agent")
    return found  # type: ignore[no-any-return]


def merge(base: Any, over: Any, path: str = "") -> Any:
    """Merge ``over`` into ``base``: maps by key, and lists as the API server merges them.

    A handler that a probe names replaces the one in ``base``.

    Null removes a field of the operator's, unless a member needs it. For example:

        base   {"resources": {"limits": {"memory": "1Gi"}}, "env": [{"name": "A", "value": "1"}]}
        over   {"resources": {"limits": null}, "env": [{"name": "B", "value": "2"}]}
        result {"resources": {"limits": null}, "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}

    ``path`` names the field in messages. Raises TemplateError if ``over`` has another shape than ``base``, or if an
    item of a list that is merged by name has none.
    """
    field = path.rpartition(".")[2]
    keys = _MERGE_KEYS.get(field)
    if over is None or (not over and field in (*_AGENTS_OWN, *_ACCOUNT_FIELDS)):
        return base if field in _KEPT or keys else None
    if isinstance(base, Mapping):
        return _merged_map(base, _of_kind(over, Mapping, "an object", path), path)
    if keys is None or not isinstance(base, list):
        return over
    by_key = {_key(item, keys, path): item for item in base}
    for index, item in enumerate(_of_kind(over, list, "a list", path)):
        key = _key(_of_kind(item, Mapping, "an object", f"{path}[{index}]"), keys, f"{path}[{index}]")
        by_key[key] = merge(by_key[key], item, f"{path}[{key[0]}]") if key in by_key else item
    return list(by_key.values())


def _merged_map(base: Mapping[str, Any], over: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(base)
    if path.rpartition(".")[2] in _PROBES and _HANDLERS & over.keys():
        merged = {name: value for name, value in base.items() if name not in _HANDLERS}
    for name, value in over.items():
        result = merge(merged[name], value, f"{path}.{name}") if name in merged else value
        if result is None:
            merged.pop(name, None)
        else:
            merged[name] = result
    return merged


def _key(item: Mapping[str, Any], keys: tuple[str, ...], path: str) -> tuple[Any, ...]:
    """The key of a list's item: the values of the fields by which the API server merges that list."""
    return tuple(
        _of_kind(given, *_KEY_KINDS.get(name, (str, "a text")), f"{path}.{name}")
        for name in keys
        for given in (_KEY_DEFAULTS.get(name) if item.get(name) is None else item[name],)
    )


def _check_account(template: Any, path: str) -> None:
    """Raise TemplateError if a template names an account: it would lack the rights of the hub's members."""
    for name in _ACCOUNT_FIELDS:
        if ((template or {}).get("spec") or {}).get(name):
            raise TemplateError(
                f"{path}.spec.{name} can't be set: name the account in spec.members.serviceAccount.name of the Hub,"
                " which gives it the rights that members need"
            )


def _check_agent(template: Any, path: str, agents_port: int) -> None:
    """Raise TemplateError if a template changes the image, command, arguments or port of the container ``agent``."""
    for container in ((template or {}).get("spec") or {}).get("containers") or ():
        if container["name"] != "agent":
            continue
        for name, instead in _AGENTS_OWN.items():
            if container.get(name):
                raise TemplateError(f"{path}.spec.containers[agent].{name} can't be set: {instead}")
        for port in container.get("ports") or ():
            its_own = port["containerPort"] == agents_port and (port.get("protocol") or "TCP") == "TCP"
            if its_own and port.get("name", "http") != "http":
                raise TemplateError(
                    f"{path}.spec.containers[agent].ports[{agents_port}] is the agent's own, with the name http; give"
                    " yours another number, or the agent's in spec.members.port"
                )


def _own_variables(template: Any, path: str, own: list[dict[str, Any]]) -> set[str]:
    """The variables of the agent that a template names too, so that children have them.

    Raises TemplateError if it gives one another value: the member would take itself for another.
    """
    values = {variable["name"]: _value(variable) for variable in own if variable["name"] in _IDENTITY}
    named: set[str] = set()
    for container in ((template or {}).get("spec") or {}).get("containers") or ():
        for variable in (container.get("env") or ()) if container["name"] == "agent" else ():
            name = variable["name"]
            if name in values and _value(variable) not in (values[name], _UNSET):
                raise TemplateError(
                    f"{path}.spec.containers[agent].env[{name}] can't be set: it is the agent's own; give yours another"
                    " name"
                )
            named |= {name} & values.keys()
    return named


def _value(variable: Mapping[str, Any]) -> tuple[Any, Any]:
    """The value of an environment variable, and the field or other source that it is read from."""
    source = variable.get("valueFrom")
    field = source.get("fieldRef") if isinstance(source, Mapping) else None
    return variable.get("value"), field.get("fieldPath") if isinstance(field, Mapping) else source


def _of_kind(value: Any, kind: Any, words: str, path: str) -> Any:
    if not isinstance(value, kind):
        found = "is missing or null" if value is None else f"is {msgspec.json.encode(value).decode()[:_SHOWN]}"
        raise TemplateError(f"{path} {found}; it must be {words}")
    return value


def _agent(hub: Hub, settings: OperatorSettings) -> dict[str, Any]:
    per_node = hub.spec.members.mode == "PerNode"
    return {
        "name": "agent",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["processhub-agent"],
        "env": [
            {"name": "HUB_NAME", "value": hub.metadata.name},
            {"name": "HUB_NAMESPACE", "value": hub.metadata.namespace},
            {"name": "HUB_UID", "value": hub.metadata.uid},
            _field("POD_NAME", "metadata.name"),
            _field("POD_UID", "metadata.uid"),
            _field("POD_IP", "status.podIP"),
            _field("NODE_NAME", "spec.nodeName"),
            _field("HUB_MEMBER", "spec.nodeName" if per_node else "metadata.name"),
            {"name": "HUB_TOKEN_FILE", "value": TOKEN_FILE},
            {"name": "PROCESSHUB_PORT", "value": str(hub.spec.members.port)},
            {"name": "PROCESSHUB_PYTHON_PATH", "value": PYTHON_PATH if hub.spec.members.python.config_map else ""},
        ],
        "ports": [{"name": "http", "containerPort": hub.spec.members.port}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
            "initialDelaySeconds": 10,
        },
        "resources": settings.member_defaults.resources,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "run", "mountPath": "/run/processhub"}, TOKEN_MOUNT, *_python_mounts(hub)],
    }


def _inject(pod: dict[str, Any], image: str) -> None:
    """Run the agent in the user's image: an init container copies it into a volume of its own."""
    (agent,) = pod["containers"]
    pod["initContainers"] = [
        {
            "name": "inject-agent",
            "image": agent["image"],
            "imagePullPolicy": agent["imagePullPolicy"],
            "command": ["processhub-inject", _INJECTED],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
            "securityContext": agent["securityContext"],
            "volumeMounts": [{"name": "agent", "mountPath": _INJECTED}],
        }
    ]
    pod["volumes"].append({"name": "agent", "emptyDir": {}})
    agent["volumeMounts"].append({"name": "agent", "mountPath": AGENT_HOME, "readOnly": True})
    agent["image"] = image
    del agent["imagePullPolicy"]  # the policy for the operator's image does not apply to the user's
    agent["command"] = [f"{AGENT_HOME}/bin/processhub-agent"]
    agent["env"].append({"name": "PROCESSHUB_RUNNER_PYTHON", "value": "python3"})  # this Python has the user's packages


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _spread(hub: Hub) -> dict[str, Any]:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector_labels(hub)}}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _python_volumes(hub: Hub) -> list[dict[str, Any]]:
    name = hub.spec.members.python.config_map
    return [{"name": "python", "configMap": {"name": name}}] if name else []


def _python_mounts(hub: Hub) -> list[dict[str, Any]]:
    name = hub.spec.members.python.config_map
    return [{"name": "python", "mountPath": PYTHON_PATH, "readOnly": True}] if name else []
