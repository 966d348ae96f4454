"""What the API server does with Pods: the defaults of new ones, and what may change of others."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
_DEFAULTS = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30}
_MAY_CHANGE = ("schedulingGates", "nodeName")


def complete_pod(pod: Json) -> None:
    """Set the defaults and the status of a new Pod. One with scheduling gates waits for their removal."""
    for name, value in _DEFAULTS.items():
        pod["spec"].setdefault(name, value)
    pod["status"] = {"phase": "Pending"}
    if pod["spec"].get("schedulingGates"):
        gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
        pod["status"]["conditions"] = [gated | {"message": "Scheduling is blocked due to non-empty scheduling gates"}]


def pod_errors(before: Json, after: Json) -> str:
    """Return why a Pod may not change so, or "": it keeps its spec, of which only gates are removed.

    The binding to a node, which is a subresource, changes the spec too.
    """
    fixed = [
        {name: value for name, value in pod.get("spec", {}).items() if name not in _MAY_CHANGE}
        for pod in (before, after)
    ]
    if fixed[0] != fixed[1]:
        return "spec: Forbidden: pod updates may not change fields other than the images, the deadline and the gates"
    old, new = ({gate["name"] for gate in pod.get("spec", {}).get("schedulingGates") or ()} for pod in (before, after))
    return "" if new <= old else "spec.schedulingGates: Forbidden: only deletion is allowed"
