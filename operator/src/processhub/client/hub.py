"""``Hub``: what users connect to a hub with."""

from __future__ import annotations

from processhub.client.asynchub import AsyncHub
from processhub.client.sync import SyncHub


class Hub(AsyncHub):
    """A hub's children: started, stopped, waited for and looked up. Made by ``connect``, used in ``async with``.

    All errors are HubError. Timeouts are in seconds.
    """

    @classmethod
    def connect(
        cls, name: str, namespace: str | None = None, context: str | None = None, kubeconfig: str | None = None
    ) -> Hub:
        """The client of hub ``name``, for ``async with``; entering connects and reads the registry.

        The namespace is the one given, else $HUB_NAMESPACE, else the kubeconfig context's or the pod's. Entering
        raises HubNotFound, Unreachable, Timeout.
        """
        return cls(name, namespace, context, kubeconfig)

    @staticmethod
    def connect_sync(
        name: str, namespace: str | None = None, context: str | None = None, kubeconfig: str | None = None
    ) -> SyncHub:
        """The same client with blocking methods, connected at once; ``close`` it, or use it in ``with``.

        Raises HubNotFound, Unreachable, Timeout.
        """
        return SyncHub(Hub(name, namespace, context, kubeconfig))
