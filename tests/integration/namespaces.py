"""Creates and removes namespaces and hubs of tests, so that they cost the next tests little."""

from __future__ import annotations

import contextlib

from waiting import eventually

from processhub.api.naming import LABEL_HUB
from processhub.cluster.client import Client
from processhub.cluster.errors import AlreadyExistsError, NotFoundError
from processhub.cluster.kinds import CHILDREN, HUBS, PODS, untyped

NAMESPACES = untyped("v1", "namespaces", namespaced=False)
_STATEFUL_SETS, _DAEMON_SETS = untyped("apps/v1", "statefulsets"), untyped("apps/v1", "daemonsets")
_ACCOUNTS = untyped("v1", "serviceaccounts")
_MAKERS = (CHILDREN, HUBS, _STATEFUL_SETS, _DAEMON_SETS)  # objects that controllers act on, in the order of removal
_NOW = {"gracePeriodSeconds": 1}


async def create_namespace(api: Client, name: str) -> None:
    """Create the namespace."""

    async def done() -> bool:
        with contextlib.suppress(AlreadyExistsError):  # by a request that was not answered
            await api.create(NAMESPACES, None, {"metadata": {"name": name}})
        return True

    await eventually(done, f"creation of namespace {name}")


async def pods_may_be_created(api: Client, namespace: str) -> None:
    """Wait until the namespace has its default account: until then the API server refuses Pods without one."""

    async def there() -> bool:
        try:
            await api.get(_ACCOUNTS, namespace, "default")
        except NotFoundError:
            return False
        return True

    await eventually(there, f"the default account of {namespace}")


async def remove_namespace(api: Client, name: str) -> None:
    """Delete the namespace and end its pods; returns before that is done.

    Kubernetes empties a namespace after five seconds. While there are hubs and StatefulSets, the operator works for
    them, and the controller manager keeps trying to create the deleted pods again.
    """
    await _delete(api, NAMESPACES.path(None, name))
    for kind in _MAKERS:
        await _delete(api, kind.path(name))
    await _delete(api, PODS.path(name), body=_NOW)


async def _delete(api: Client, path: str, query: dict[str, str] | None = None, body: object = None) -> None:
    """Delete all objects of this path; what is gone already is no error.

    Thousands take the API server longer than a request may: the next one deletes the rest.
    """

    async def done() -> bool:
        with contextlib.suppress(NotFoundError):
            await api.raw("DELETE", path, query=query, body=body)
        return True

    await eventually(done, f"deletion of {path}", within=120)


async def remove_hub(api: Client, namespace: str, name: str) -> None:
    """Delete the hub, its children and its pods, if they exist; returns before that is done."""
    ours = {"labelSelector": f"{LABEL_HUB}={name}"}
    await _delete(api, CHILDREN.path(namespace), {"fieldSelector": f"spec.hub={name}"})
    await _delete(api, HUBS.path(namespace), {"fieldSelector": f"metadata.name={name}"})
    for kind in (_STATEFUL_SETS, _DAEMON_SETS):
        await _delete(api, kind.path(namespace), ours)
    await _delete(api, PODS.path(namespace), ours, _NOW)
