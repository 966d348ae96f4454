"""The informer against the real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from waiting import eventually

from processhub.cluster.client import Client
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import untyped

CONFIG_MAPS = untyped("v1", "configmaps")
Json = dict[str, Any]


@pytest_asyncio.fixture
async def informer(api: Client, namespace: str) -> AsyncIterator[Informer[Json]]:
    """An informer of the ConfigMaps in the test's namespace."""
    following: Informer[Json] = Informer(api, CONFIG_MAPS, lambda old, new: None, namespace=namespace)
    task = asyncio.create_task(following.run())
    await following.synced.wait()
    yield following
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_response_that_arrives_after_the_deletion_restores_nothing(
    api: Client, namespace: str, informer: Informer[Json]
) -> None:
    """Otherwise a child that is stopped while its status is written would run for ever."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}
    answer = await api.create(CONFIG_MAPS, namespace, body)
    await eventually(lambda: known(informer, namespace), "seen")
    await api.delete(CONFIG_MAPS, namespace, "a")
    await eventually(lambda: unknown(informer, namespace), "deletion seen")

    informer.put(answer)

    assert (namespace, "a") not in informer.items


async def test_a_response_that_arrives_before_the_watch_event_is_used_at_once(
    api: Client, namespace: str, informer: Informer[Json]
) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}
    answer = await api.create(CONFIG_MAPS, namespace, body)

    informer.put(answer)

    assert informer.items[(namespace, "a")]["data"] == {"k": "v"}


async def known(informer: Informer[Json], namespace: str) -> bool:
    return (namespace, "a") in informer.items


async def unknown(informer: Informer[Json], namespace: str) -> bool:
    return (namespace, "a") not in informer.items
