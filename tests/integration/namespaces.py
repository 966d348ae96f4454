"""Creates and removes namespaces and hubs of tests, so that they cost the next tests little."""

from __future__ import annotations

from processhub.api.naming import LABEL_HUB
from processhub.cluster.client import Client
from processhub.cluster.errors import ConnectionFailedError
from processhub.cluster.kinds import CHILDREN, HUBS, PODS, untyped

NAMESPACES = untyped("v1", "namespaces", namespaced=False)
_STATEFUL_SETS, _DAEMON_SETS = untyped("apps/v1", "statefulsets"), untyped("apps/v1", "daemonsets")
_MAKERS = (CHILDREN, HUBS, _STATEFUL_SETS, _DAEMON_SETS)  # objects that controllers act on, in the order of removal


async def create_namespace(api: Client, name: str) -> None:
    """Create the namespace."""
    await api.create(NAMESPACES, None, {"metadata": {"name": name}})


async def remove_namespace(api: Client, name: str) -> None:
    """Delete the namespace and end its pods; returns before that is done.

    Kubernetes empties a namespace after five seconds. While there are hubs and StatefulSets, the operator works for
    them, and the controller manager keeps trying to create the deleted pods again.
    """
    await api.delete(NAMESPACES, None, name)
    for kind in _MAKERS:
        await _delete_all(api, kind.path(name))
    await api.raw("DELETE", PODS.path(name), body={"gracePeriodSeconds": 1})


async def _delete_all(api: Client, path: str) -> None:
    """Delete all objects. Thousands take the API server longer than a request may: the next one deletes the rest."""
    for _ in range(4):
        try:
            await api.raw("DELETE", path)
        except ConnectionFailedError as error:
            failure = error
        else:
            return
    raise failure


async def remove_hub(api: Client, namespace: str, name: str) -> None:
    """Delete the hub, its children and its pods, if they exist; returns before that is done."""
    ours = {"labelSelector": f"{LABEL_HUB}={name}"}
    await api.raw("DELETE", CHILDREN.path(namespace), query={"fieldSelector": f"spec.hub={name}"})
    await api.raw("DELETE", HUBS.path(namespace), query={"fieldSelector": f"metadata.name={name}"})
    for kind in (_STATEFUL_SETS, _DAEMON_SETS):
        await api.raw("DELETE", kind.path(namespace), query=ours)
    await api.raw("DELETE", PODS.path(namespace), query=ours, body={"gracePeriodSeconds": 1})
