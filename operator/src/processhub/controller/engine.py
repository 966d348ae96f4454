"""The work of the leader: informers, the queue of hubs, writers of statuses and Events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial

import msgspec

from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError
from processhub.cluster.tasks import cancel_all
from processhub.cluster.workqueue import WorkQueue
from processhub.controller import metrics
from processhub.controller.authority import keeper_of
from processhub.controller.errors import DeposedError
from processhub.controller.hooks.hubhooks import Receivers
from processhub.controller.lead.prerequisites import served_namespaces
from processhub.controller.lead.takeover import raise_terms
from processhub.controller.reconcile import Reconciler
from processhub.controller.settings import OperatorSettings
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

_LOOK_SECONDS = 10.0  # Between two looks at the namespaces that can be served.
_PATIENCE_SECONDS = 2.0  # For the first lists, until it is checked which of them are refused.
log = logging.getLogger(__name__)


class Engine:
    """The tasks of the leader. ``start`` returns when the first rounds may run."""

    def __init__(self, client: Client, settings: OperatorSettings, term: int, receivers: Receivers) -> None:
        self._client, self._settings, self._term, self._receivers = client, settings, term, receivers
        self._reconciler: Reconciler | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unserved: frozenset[str] = frozenset()  # The namespaces whose hubs this leader can't lead.
        self.store = Store(
            *(client, settings.namespaces, self._queue_round, self._rewound),
            wake_patiently=partial(self._queue_round, patient=True),
            tls=settings.tls is not None,
        )
        self._keeper = keeper_of(client, settings, self.store.wake_all)
        self._queue: WorkQueue[HubKey] | None = None
        self.stopped = asyncio.Event()  # No write follows.
        self.over = asyncio.Event()  # This leader must stop, and another begin: ``failure`` says why.
        self.failure: DeposedError | None = None

    @property
    def healthy(self) -> bool:
        """Whether all tasks still run that must not end."""
        return self.store.failed() is None and not any(task.done() for task in self._tasks)

    def wake(self, key: HubKey) -> None:
        """Queue a round of a hub, which plans."""
        self.store.plan_anew(key)
        self._queue_round(key)

    def _queue_round(self, key: HubKey, *, patient: bool = False) -> None:
        """Queue a round of a hub. Before the start is complete this does nothing, as all hubs are queued then."""
        if self._queue is not None and key[0] not in self._unserved:
            self._queue.add(key, patient=patient)

    def give_up(self, why: DeposedError) -> None:
        """Ask the replica to stop this leader, so that another begins with nothing in memory."""
        self.failure = self.failure or why
        self.over.set()

    def _rewound(self) -> None:
        """Give up, because nothing that this leader knows of generations, reports and Leases can be relied on."""
        self.give_up(DeposedError("etcd was restored to an earlier time: another leader begins"))

    async def start(self) -> None:
        """Sync the informers, raise the terms, and start the queue."""
        self.store.start()
        served = await self._sync()
        if self._keeper is not None:
            await self._keeper.look()
        reconciler = Reconciler(
            *(self._client, self.store, msgspec.structs.replace(self._settings, namespaces=served)),
            *(self._term, self.wake, self._receivers),
            report_again=self._queue_round,
            keeper=self._keeper,
        )
        raised = await raise_terms(self._client, self.store, served, self._term)
        reconciler.takeover.begin(raised)
        # A restarted member may have read entries before the former leader removed them. Its Lease shows that.
        await self.store.read_leases(*(served or (None,)))
        self._tasks = [
            asyncio.create_task(reconciler.events.run(), name="events"),
            asyncio.create_task(reconciler.reporter.run(), name="child status"),
            asyncio.create_task(reconciler.rights.run(), name="call rights"),
            asyncio.create_task(reconciler.crds.run(), name="installed CRDs"),
        ]
        if self._keeper is not None:
            self._tasks.append(asyncio.create_task(self._keeper.run(), name="authority"))
        if self._unserved:
            self._tasks.append(asyncio.create_task(self._look_for_namespaces(), name="namespaces"))
        self.store.answered(asyncio.get_running_loop().time())
        self._reconciler = reconciler
        self._queue = WorkQueue(self._work)
        metrics.TERM.set(self._term)
        metrics.HUBS.follow(lambda: list(self.store.hubs.values()))
        for key in list(self.store.states):
            self._queue_round(key)
        log.info("started with %d hubs", len(self.store.hubs))

    async def _sync(self) -> tuple[str, ...]:
        """Wait until all informers have listed once, but those of namespaces that can't be served; returns the others.

        Somebody may have deleted a namespace that the chart names. The hubs of all others must be led.
        """
        served = named = self._settings.namespaces
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self.store.synced(self._unserved)
                    break
            with contextlib.suppress(ApiError):
                served = await served_namespaces(self._client, named)
                self._unserved = frozenset(named) - frozenset(served)
        for namespace in sorted(self._unserved):
            log.error(
                "the hubs of namespace %s are not led: this operator has no rights there, or it is gone", namespace
            )
        return served

    async def _look_for_namespaces(self) -> None:
        """Have another leader begin when a namespace can be served that this one has left out."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            with contextlib.suppress(ApiError):
                if back := self._unserved.intersection(
                    await served_namespaces(self._client, self._settings.namespaces)
                ):
                    self.give_up(DeposedError(f"namespace {min(back)} can be served again: another leader begins"))

    async def stop(self) -> None:
        """Stop all work. No write follows."""
        metrics.HUBS.follow(tuple)
        if self._queue is not None:
            await self._queue.close()
        # Hooks get seconds for queued events. The other writes must have ended before: this replica may be deposed.
        await cancel_all(self._tasks)
        if self._reconciler is not None:
            await self._reconciler.close()
        await self.store.close()
        self.stopped.set()

    async def _work(self, key: HubKey) -> float | None:
        assert self._reconciler is not None
        try:
            return await self._reconciler.reconcile(key)
        except DeposedError as error:
            self.give_up(error)
            return None
        except Exception:
            metrics.FAILED_ROUNDS.inc()
            raise
