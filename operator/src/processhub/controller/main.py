"""The program processhub-operator: one replica in its pod, with threads, an HTTP port and kopf."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys

import uvloop

from processhub.api.meta import OwnerReference
from processhub.cluster.client import Client
from processhub.cluster.config import ConfigError
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import untyped
from processhub.cluster.logs import configure_logging
from processhub.cluster.tasks import cancel_all
from processhub.controller.errors import DeposedError, UnauthorizedError
from processhub.controller.hooks.receivers import HookReceivers
from processhub.controller.kopfhost import KopfHost
from processhub.controller.lead.election import Election
from processhub.controller.lead.health import serve
from processhub.controller.lead.holder import LeaderProcess
from processhub.controller.lead.leaderthread import LeaderThread
from processhub.controller.lead.prerequisites import Prerequisites
from processhub.controller.replica import Replica, ReplicaSurroundings
from processhub.controller.settings import OperatorSettings, SettingsError, from_environment

_DEPLOYMENT = "processhub-operator"  # the chart's names are fixed
_GC_OBJECTS = 50_000  # new objects, after which garbage is looked for among them
log = logging.getLogger(__name__)


def main() -> int:
    """Run until SIGTERM (exit code 0) or until leadership is lost (1: the pod starts again as a standby)."""
    try:
        settings = from_environment()
    except SettingsError as error:
        print(f"processhub-operator: {error}", file=sys.stderr)  # noqa: T201 before logging is set up
        return 2
    configure_logging(settings.log_level)
    # A round makes some objects for each child that it starts, and they stay. By the default, looking for cycles among
    # them took half of the time of a round that starts 10,000.
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 20, 20)
    try:
        return uvloop.run(_run(settings))
    except (ConfigError, DeposedError, UnauthorizedError) as error:
        log.error("%s", error)
        return 1


async def _run(settings: OperatorSettings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def candidate(client: Client) -> Election:
        owner = await _deployment(client, settings.namespace)
        process = LeaderProcess(
            pod=settings.pod_name, pod_uid=settings.pod_uid, host=settings.address, port=settings.port
        )
        return Election(client, settings.namespace, settings.pod_name, settings.namespaces, owner, process)

    async with await Client.connect_in_pod() as client:
        leadership = LeaderThread(Client.connect_in_pod, candidate)
        replica = Replica(
            ReplicaSurroundings(settings, client, leadership, KopfHost(client, settings.pod_name), HookReceivers)
        )
        needed = Prerequisites(client, settings.namespaces)
        checking = loop.create_task(needed.run(), name="prerequisites")
        runner = await serve(
            settings.bind, settings.port, healthy=lambda: replica.healthy, missing=lambda: needed.missing
        )
        try:
            async with leadership:
                return await replica.run(stop)
        finally:
            await cancel_all([checking])
            await runner.cleanup()


async def _deployment(client: Client, namespace: str) -> OwnerReference | None:
    """The Deployment that this is a pod of; None where it is run by other means."""
    kind = untyped("apps/v1", "deployments")
    try:
        found = await client.get(kind, namespace, _DEPLOYMENT)
    except ApiError as error:  # without one the Lease only stays behind when the operator is uninstalled
        log.info("the leader Lease gets no owner: %s", error.message)
        return None
    return OwnerReference(api_version="apps/v1", kind="Deployment", name=_DEPLOYMENT, uid=found["metadata"]["uid"])


if __name__ == "__main__":
    sys.exit(main())
