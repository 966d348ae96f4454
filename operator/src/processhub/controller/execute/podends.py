"""Deletion of children's Pods, and reads that confirm that they are gone."""

from __future__ import annotations

import asyncio
import logging

from processhub.api.kubernetes import Pod
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import PODS
from processhub.controller.concurrency import gather_all
from processhub.controller.rounds.round import Requeue
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store
from processhub.controller.store.podmarks import hub_uids, identified

LOOK_AGAIN_SECONDS = 1.0  # Until a Pod that no watch shows is read again.
_AT_ONCE = 16
log = logging.getLogger(__name__)


async def delete_pod(client: Client, pod: Pod, limit: asyncio.Semaphore) -> None:
    """Delete this Pod with its own grace period. It is gone when its node reports that its processes are."""
    metadata = pod.metadata
    if metadata.deletion_timestamp is not None:
        return
    async with limit:
        try:
            await client.delete(PODS, metadata.namespace, metadata.name, uid=metadata.uid)
        except (NotFoundError, ConflictError) as error:
            log.debug("pod %s is gone already: %s", metadata.name, error.message)


async def delete_all(client: Client, store: Store, state: HubState, requeue: Requeue) -> None:
    """Delete all Pods of a hub that is gone, although their Children may stay."""
    limit = asyncio.Semaphore(_AT_ONCE)
    uids = hub_uids("", state) if state.child_pods.unidentified else ()
    for pod in list(state.child_pods.unidentified.values()):
        if (known := identified(pod, state.key[1], uids)) is not None:
            store.child_pod(state.key, pod, known)
    await read_unwatched_pods(client, store, state, limit)
    await gather_all(*(delete_pod(client, pod, limit) for pod in list(state.child_pods.values())))
    if state.child_pods.unwatched:
        requeue.again_in(LOOK_AGAIN_SECONDS)


async def read_unwatched_pods(client: Client, store: Store, state: HubState, limit: asyncio.Semaphore) -> None:
    """Read the Pods that left the watch. Each is gone, or has lost a label by which the watch selects."""

    async def look(name: str) -> None:
        known = state.child_pods.get(name)
        if known is None:
            return  # Another Pod of its name came meanwhile.
        async with limit:
            try:
                pod = await client.get(PODS, known.metadata.namespace, name)
            except NotFoundError:
                pod = None
        if name not in state.child_pods.unwatched or state.child_pods.get(name) is not known:
            return  # The watch has shown it meanwhile.
        if pod is None or pod.metadata.uid != known.metadata.uid:
            store.child_pod_gone(state.key, name)
        else:
            store.child_pod(state.key, pod, known)

    # All of them are awaited: what was read must not be older than what the next round knows.
    await gather_all(*(look(name) for name in list(state.child_pods.unwatched)))
