"""kopf hosts the leader's work: it starts the engine, and stops it at a signal or when the replica is to end.

kopf watches nothing. Its watch does not notice what was deleted before a list, does not say when the first list is
complete, and ends the operator at any error event but 410 Gone. The informers of the store are the only watches.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.controller.engine import Engine
from processhub.controller.errors import DeposedError

# kopf imports the client package kubernetes, where that is installed as for kubectl-hub in the image, only to know its
# objects. None is made here, and the import takes a quarter of the operator's start and 16 MiB.
sys.modules.setdefault("kubernetes", None)  # type: ignore[arg-type]  # None: an import of it fails
try:
    import kopf
finally:
    if sys.modules["kubernetes"] is None:
        del sys.modules["kubernetes"]


class KopfHost:
    """Runs an engine under kopf; ``identity`` is the name by which kopf knows this process."""

    def __init__(self, client: Client, identity: str) -> None:
        self._client, self._identity = client, identity

    async def run(self, engine: Engine, ended: asyncio.Event) -> None:
        """Start the engine, and stop it when ``ended`` is set or a signal comes. Raises DeposedError."""
        try:
            await kopf.operator(
                registry=self._handlers(engine),
                # Else kopf asks for the user's name, and the uid of a container has none.
                identity=self._identity,  # type: ignore[arg-type]  # it does not export the type
                standalone=True,
                clusterwide=True,  # one of its two ways to watch must be named; nothing is watched
                stop_flag=ended,
            )
        except Exception as error:
            if isinstance(error.__cause__, DeposedError):  # kopf wraps what a handler raised
                raise error.__cause__ from error
            raise

    def _handlers(self, engine: Engine) -> kopf.OperatorRegistry:
        """The handlers. All are coroutines: kopf runs plain functions in threads."""
        registry = kopf.OperatorRegistry()

        # By default kopf starts again after a minute, in which this leader would hold the Lease and do nothing.
        @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
        async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
            settings.scanning.disabled = True  # else kopf watches CRDs, though no handler is for any
            await engine.start()

        @kopf.on.cleanup(registry=registry)
        async def stop(**_: Any) -> None:
            await engine.stop()

        # kopf asks the API server at its start which kinds there are, and ends where it has no credentials for that.
        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await connection_info(self._client.config)

        return registry


async def connection_info(config: Config) -> kopf.ConnectionInfo:
    """The credentials for kopf, from the client's configuration."""
    token = await config.token()
    credentials = config.credentials
    scheme, _, secret = (token or "").partition(" ")
    return kopf.ConnectionInfo(
        server=config.host,
        ca_data=credentials.authority or None,
        certificate_data=credentials.certificate or None,
        private_key_data=credentials.key or None,
        insecure=not credentials.verify,
        scheme=scheme or None,
        token=secret or None,
        default_namespace=config.namespace,
    )
