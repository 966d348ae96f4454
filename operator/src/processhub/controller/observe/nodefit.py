"""Whether a DaemonSet has a pod on a node: by the node selector, node affinity and tolerations of its pod template.

The rules are those of Kubernetes' DaemonSet controller. The operator needs them for single nodes, and the status of a
DaemonSet has only counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from processhub.api.kubernetes import KubernetesNode

Json = Mapping[str, Any]
# The controller adds tolerations of these taints to each pod.
_TOLERATED = {
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
}
_OF_HOST_NETWORK = ("node.kubernetes.io/network-unavailable", "NoSchedule")


def has_pod(template: Json, node: KubernetesNode, *, there: bool) -> bool:
    """Whether a DaemonSet with this pod template keeps its pod on the node (``there``), or makes one.

    The API server has accepted the template, so that its fields have the right shape.
    """
    spec: Json = template.get("spec") or {}
    if not _selects(spec, node):
        return False
    effects = ("NoExecute",) if there else ("NoExecute", "NoSchedule")
    return all(_tolerates(spec, taint) for taint in node.spec.taints if taint.get("effect") in effects)


def _selects(spec: Json, node: KubernetesNode) -> bool:
    labels = node.metadata.labels
    if any(labels.get(name) != value for name, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(_matches_term(term, node) for term in required.get("nodeSelectorTerms") or ())


def _matches_term(term: Json, node: KubernetesNode) -> bool:
    """Whether the node matches all of a term. An empty term matches no node."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    by_field = {"metadata.name": node.metadata.name}
    return bool(expressions or fields) and (
        all(_matches(item, node.metadata.labels) for item in expressions)
        and all(_matches(item, by_field) for item in fields)
    )


_OPERATORS: Mapping[str, Callable[[str | None, Collection[str]], bool]] = {
    "In": lambda found, values: found in values,
    "NotIn": lambda found, values: found not in values,
    "Exists": lambda found, _: found is not None,
    "DoesNotExist": lambda found, _: found is None,
    "Gt": lambda found, values: _number(found) is not None and all(_less(value, found) for value in values),
    "Lt": lambda found, values: _number(found) is not None and all(_less(found, value) for value in values),
}


def _matches(expression: Json, values: Mapping[str, str]) -> bool:
    matches = _OPERATORS.get(str(expression.get("operator")))
    return matches is not None and matches(values.get(str(expression.get("key"))), expression.get("values") or ())


def _less(text: str | None, other: str | None) -> bool:
    one, two = _number(text), _number(other)
    return one is not None and two is not None and one < two


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _tolerates(spec: Json, taint: Json) -> bool:
    found = (taint.get("key"), taint.get("effect"))
    if found in _TOLERATED or (found == _OF_HOST_NETWORK and spec.get("hostNetwork")):
        return True
    return any(_is_tolerated(toleration, taint) for toleration in spec.get("tolerations") or ())


def _is_tolerated(toleration: Json, taint: Json) -> bool:
    key, exists = toleration.get("key") or "", toleration.get("operator") == "Exists"
    return (
        (key == taint.get("key") or (not key and exists))
        and (toleration.get("effect") or taint.get("effect")) == taint.get("effect")
        and (exists or (toleration.get("value") or "") == (taint.get("value") or ""))
    )
