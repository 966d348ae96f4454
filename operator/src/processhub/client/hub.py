"""``Hub``, the class that users connect to a hub with."""

from __future__ import annotations

from processhub.client.asynchub import AsyncHub
from processhub.client.sync import SyncHub


class Hub(AsyncHub):
    """The client of a hub's children, made by ``connect`` and used in ``async with``.

    All errors are HubError. Timeouts are in seconds.
    """

    @classmethod
    def connect(
        cls,
        name: str | None = None,
        namespace: str | None = None,
        context: str | None = None,
        kubeconfig: str | None = None,
    ) -> Hub:
        """Create the client of hub ``name`` for ``async with``, which connects and reads the registry.

        Without a name it is that of $HUB_NAME, which a child has. Raises HubError if that is not set.
        The cluster is that of ``kubeconfig``, $KUBECONFIG or ~/.kube/config, else that of the pod. In a child, the
        cluster that it runs in comes before those of $KUBECONFIG and ~/.kube/config. The namespace is the given one,
        else $HUB_NAMESPACE, else that of the kubeconfig's context or of the pod. Entering raises HubNotFound,
        Unreachable, Timeout.
        """
        return cls(name, namespace, context, kubeconfig)

    @staticmethod
    def connect_sync(
        name: str | None = None,
        namespace: str | None = None,
        context: str | None = None,
        kubeconfig: str | None = None,
    ) -> SyncHub:
        """Connect a client with blocking methods. Use it in ``with``, or ``close`` it.

        Without a name it is the hub of $HUB_NAME. Raises HubNotFound, Unreachable, Timeout, HubError.
        """
        return SyncHub(Hub(name, namespace, context, kubeconfig))
