"""Namespaces of tests: made, and removed so that what is in them costs the next tests little."""

from __future__ import annotations

from processhub.cluster.client import Client
from processhub.cluster.kinds import CHILDREN, HUBS, PODS, untyped

NAMESPACES = untyped("v1", "namespaces", namespaced=False)
_STATEFUL_SETS, _DAEMON_SETS = untyped("apps/v1", "statefulsets"), untyped("apps/v1", "daemonsets")
_MAKERS = (CHILDREN, HUBS, _STATEFUL_SETS, _DAEMON_SETS)  # objects for which others are made or written, in order


async def create_namespace(api: Client, name: str) -> None:
    """Create the namespace."""
    await api.create(NAMESPACES, None, {"metadata": {"name": name}})


async def remove_namespace(api: Client, name: str) -> None:
    """Delete the namespace and end its pods; returns before that is done.

    Kubernetes empties a namespace after five seconds. As long as there are hubs and StatefulSets, the operator works
    for them, and the controller manager tries again and again to make the pods that are gone.
    """
    await api.delete(NAMESPACES, None, name)
    for kind in _MAKERS:
        await api.raw("DELETE", kind.path(name))
    await api.raw("DELETE", PODS.path(name), body={"gracePeriodSeconds": 1})
