"""The program processhub-operator: wait for the Lease, then lead until it is lost or the pod ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine

import kopf
import uvloop

from processhub.api.meta import OwnerReference
from processhub.cluster.client import Client
from processhub.cluster.config import ConfigError
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import untyped
from processhub.cluster.logs import configure_logging
from processhub.controller import metrics
from processhub.controller.engine import Engine
from processhub.controller.errors import DeposedError
from processhub.controller.handlers import register
from processhub.controller.lead.election import Election
from processhub.controller.lead.health import serve
from processhub.controller.lead.leaderthread import LeaderThread
from processhub.controller.login import connection_info
from processhub.controller.settings import OperatorSettings, SettingsError, from_environment

_DEPLOYMENT = "processhub-operator"  # the chart's names are fixed
_STOP_SECONDS = 20.0  # for writes in the midst
log = logging.getLogger(__name__)


def main() -> int:
    """Run until SIGTERM (exit code 0) or until leadership is lost (1: the pod starts again as a standby)."""
    try:
        settings = from_environment()
    except SettingsError as error:
        print(f"processhub-operator: {error}", file=sys.stderr)  # noqa: T201 before logging is set up
        return 2
    configure_logging(settings.log_level)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    try:
        return uvloop.run(_run(settings))
    except (ConfigError, DeposedError) as error:
        log.error("%s", error)
        return 1


async def _run(settings: OperatorSettings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engines: list[Engine] = []
    async with await Client.connect() as client:
        runner = await serve(
            settings.bind,
            settings.port,
            healthy=lambda: all(engine.healthy for engine in engines),
            ready=lambda: True,
        )
        try:
            owner = await _deployment(client, settings.namespace)

            def candidate(own: Client) -> Election:
                return Election(own, settings.namespace, settings.pod_name, settings.namespaces, owner)

            async with LeaderThread(Client.connect, candidate) as leadership:
                term = await _unless(stop, leadership.acquire())
                if term is None:
                    return 0
                engine = Engine(client, settings, term)
                engines.append(engine)
                return await _lead(client, settings, leadership, engine, stop)
        finally:
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


async def _lead(
    client: Client, settings: OperatorSettings, leadership: LeaderThread, engine: Engine, stop: asyncio.Event
) -> int:
    """Lead until ``stop`` is set (0) or the Lease is lost (1). The Lease is kept until all work has stopped."""
    metrics.LEADER.set(1)
    ended = asyncio.Event()
    work = asyncio.create_task(_kopf(client, settings, engine, ended), name="kopf")
    hold = asyncio.create_task(leadership.hold(engine.answered), name="lease")
    signalled = asyncio.create_task(stop.wait(), name="signal")
    stopped = asyncio.create_task(engine.stopped.wait(), name="stopped")  # kopf has signal handlers of its own
    await asyncio.wait((work, hold, signalled, stopped), return_when=asyncio.FIRST_COMPLETED)
    metrics.LEADER.set(0)
    deposed = hold.done()
    if not deposed:
        ended.set()
        await asyncio.wait((work, stopped), timeout=_STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        # kopf takes seconds more to end its watches; a standby need not wait for that.
        if engine.stopped.is_set():
            await leadership.release()
    failure = next((error for task in (work, hold) if task.done() and (error := task.exception())), None)
    # A deposed leader writes nothing more, whatever is in the midst.
    for task in (work, hold, signalled, stopped):
        task.cancel()
    await asyncio.gather(work, hold, signalled, stopped, return_exceptions=True)
    if failure is not None:
        raise failure
    return 1 if deposed else 0


async def _kopf(client: Client, settings: OperatorSettings, engine: Engine, ended: asyncio.Event) -> None:
    registry = kopf.OperatorRegistry()
    register(registry, engine)

    @kopf.on.login(registry=registry)
    async def login(**_: object) -> kopf.ConnectionInfo:
        return await connection_info(client.config)

    try:
        await kopf.operator(
            registry=registry,
            # Else kopf asks for the user's name, and the uid of a container has none.
            identity=settings.pod_name,  # type: ignore[arg-type]  # it does not export the type
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            stop_flag=ended,
        )
    except Exception as error:
        if isinstance(error.__cause__, DeposedError):  # kopf wraps what a handler raised
            raise error.__cause__ from error
        raise


async def _unless(stop: asyncio.Event, waiting: Coroutine[None, None, int]) -> int | None:
    """The result of ``waiting``, or None where ``stop`` came first."""
    task = asyncio.create_task(waiting)
    signalled = asyncio.create_task(stop.wait())
    await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if task.done():
        return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None


if __name__ == "__main__":
    sys.exit(main())
