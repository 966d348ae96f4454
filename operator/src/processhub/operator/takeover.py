"""What a new leader does before it plans anything (PROTOCOL.md 2)."""

from __future__ import annotations

import asyncio
import logging

from processhub.api.slice import RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConflictError, NotFoundError
from processhub.cluster.kinds import SLICES
from processhub.operator.store import Store
from processhub.operator.together import together

_CONCURRENT = 8
_AGAIN_SECONDS = 0.5  # after a request that failed
log = logging.getLogger(__name__)


class DeposedError(Exception):
    """A slice has a higher term than ours: another leader is newer."""


async def raise_terms(client: Client, store: Store, namespaces: tuple[str, ...], term: int) -> dict[str, int]:
    """Rewrite ``term`` alone in every slice until a consistent list shows none lower.

    Returns the generation of each slice, by its uid, in the list that shows this: what a member acknowledges from there
    on it knows of this leader, and of all that was written before it. By the list and not by the answers to the writes,
    because one that was stored may not have been answered. Raises DeposedError.
    """
    gate = asyncio.Semaphore(_CONCURRENT)

    async def raise_one(item: RegistrySlice) -> None:
        async with gate:
            try:
                stored = await client.patch(
                    SLICES,
                    item.metadata.namespace,
                    item.metadata.name,
                    {"metadata": {"uid": item.metadata.uid}, "spec": {"term": term}},
                )
            except (NotFoundError, ConflictError) as error:
                log.info("slice %s changed while its term was raised: %s", item.metadata.name, error.message)
                return
            except ApiError as error:
                log.warning("takeover: slice %s: %s; again", item.metadata.name, error.message)
                await asyncio.sleep(_AGAIN_SECONDS)
                return
            store.put("registryslices", stored)

    while True:
        listed: list[RegistrySlice] = []
        for namespace in namespaces or (None,):
            try:
                items, _ = await client.list(SLICES, namespace)
            except ApiError as error:
                log.warning("takeover: %s; listing again", error.message)
                await asyncio.sleep(_AGAIN_SECONDS)
                break
            known = [item for item in items if isinstance(item, RegistrySlice)]
            if any(item.spec.term > term for item in known):
                raise DeposedError(f"a slice has a higher term than {term}: another operator leads")
            listed += known
        else:
            lower = [item for item in listed if item.spec.term < term]
            if not lower:
                for item in listed:
                    store.put("registryslices", item)
                return {item.metadata.uid: item.metadata.generation for item in listed}
            await together(*(raise_one(item) for item in lower))
