"""The takeover from an earlier leader: it raises the term of all slices before anything is planned.

The rule is in docs/protocol.md, rule 2. Hubs for which the write was refused are taken over later, one by one.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from processhub.api.slice import FORMAT, RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConflictError, NotFoundError, UnavailableError
from processhub.cluster.kinds import SLICES
from processhub.controller.concurrency import gather_all
from processhub.controller.errors import DeposedError, LaterFormatError, check_not_lost
from processhub.controller.rounds.round import Round
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

_CONCURRENT = 8
_AGAIN_SECONDS = 0.5  # after a request that failed
_PATIENT_PASSES = 6  # passes in which requests without an answer, or during an outage, are retried
log = logging.getLogger(__name__)


class TermsRaised(msgspec.Struct, frozen=True):
    """The outcome of raising the terms.

    ``generations``: a slice's uid → its generation in the list that shows this leader's term. A member that confirms
    this generation or a later one has read everything that was written before this leader. The list is used, not the
    answers to the writes, because a write may be stored without an answer. ``behind``: the hubs with a slice whose term
    the API server refuses to raise, and why. Nothing may be done for them.
    """

    generations: dict[str, int]
    behind: dict[HubKey, ApiError]


async def raise_terms(
    client: Client, store: Store, namespaces: tuple[str, ...], term: int, hub: HubKey | None = None
) -> TermsRaised:
    """Raise the term in every slice (of ``hub``) until a consistent list has no lower one, except for refused ones.

    Only the term is written. Raises DeposedError, also where the account may not list the slices of a namespace.
    """
    limit = asyncio.Semaphore(_CONCURRENT)
    refused: dict[str, ApiError] = {}  # by the slice's uid
    passes = 0

    async def raise_term(item: RegistrySlice) -> None:
        metadata = item.metadata
        patch = {"metadata": {"uid": metadata.uid}, "spec": {"term": term}}
        async with limit:
            try:
                await client.patch(SLICES, metadata.namespace, metadata.name, patch)
            except (NotFoundError, ConflictError) as error:
                log.info("slice %s changed while its term was raised: %s", metadata.name, error.message)
            except ApiError as error:
                # A write without an answer may be stored, now or later. Its hub is then one that is behind.
                if passes > _PATIENT_PASSES or not (error.outcome_unknown or isinstance(error, UnavailableError)):
                    refused[metadata.uid] = error
                else:
                    log.warning("takeover: slice %s: %s; retrying", metadata.name, error.message)

    while True:
        try:
            listed = [item for namespace in namespaces or (None,) for item in await _slices(store, namespace)]
        except ApiError as error:
            log.warning("takeover: %s; listing again", error.message)
            await asyncio.sleep(_AGAIN_SECONDS)
            continue
        if hub is not None:
            listed = [item for item in listed if _hub_of(item) == hub]
        if any(item.spec.term > term for item in listed):
            raise DeposedError(f"a slice has a higher term than {term}: another operator leads")
        lower = [item for item in listed if item.spec.term < term]
        if all(item.metadata.uid in refused for item in lower):
            for item in listed:
                store.put("registryslices", item)
            behind = {_hub_of(item): refused[item.metadata.uid] for item in lower}
            return TermsRaised({item.metadata.uid: item.metadata.generation for item in listed}, behind)
        refused.clear()
        passes += 1
        if passes > 1:
            await asyncio.sleep(_AGAIN_SECONDS)
        await gather_all(*(raise_term(item) for item in lower))


async def _slices(store: Store, namespace: str | None) -> list[RegistrySlice]:
    found: list[RegistrySlice] = []
    for informer in store.informer_of(SLICES.plural, namespace):
        try:
            items, _ = await informer.read(namespace)
        except ApiError as error:
            check_not_lost(informer.source.namespace, error)
            raise
        found += [item for item in items if isinstance(item, RegistrySlice)]
    return found


def _hub_of(item: RegistrySlice) -> HubKey:
    return item.metadata.namespace, item.spec.hub


class Takeover:
    """The outcome of raising the terms, when this leader began and since.

    ``generations``: slice's uid → the generation with this leader's term. ``behind``: the hubs for which nothing may be
    done before their terms are raised, and why they could not be.
    """

    def __init__(self) -> None:
        self.generations: dict[str, int] = {}
        self.behind: dict[HubKey, ApiError] = {}
        self._begun: set[str] = set()  # the uids of the Hubs that this leader has begun to lead

    def begin(self, raised: TermsRaised) -> None:
        """Take the outcome of raising the terms of all slices."""
        self.generations.update(raised.generations)
        self.behind.update(raised.behind)

    async def catch_up(self, round: Round) -> bool:
        """Raise the terms of the hub's slices if this was refused before; returns whether the hub can be led.

        Before the first plan for a Hub, which may have been unreadable so far, the Leases that were deleted are added.
        """
        later = (known.present for known in round.state.slices.values() if known.present.spec.format > FORMAT)
        if (item := next(later, None)) is not None:
            text = f"slice {item.metadata.name} is of format {item.spec.format}, this operator knows {FORMAT}"
            round.steps.note(
                "the hub can't be led", LaterFormatError(f"{text}; everything runs on; upgrade the operator again")
            )
            return False
        if round.hub.metadata.key in self.behind and not await self._raise(round):
            return False
        if (uid := round.hub.metadata.uid) not in self._begun:
            round.state.add_missing_leases(round.hub, round.now())
            self._begun.add(uid)
        return True

    async def _raise(self, round: Round) -> bool:
        key, store = round.hub.metadata.key, round.store

        async def raise_them() -> None:
            raised = await raise_terms(round.client, store, (key[0],), round.term, key)
            if key in raised.behind:
                raise raised.behind[key]
            # A restarted member may have read entries before the former leader removed them.
            await store.read_leases(key[0])
            self.generations.update(raised.generations)
            del self.behind[key]

        return await round.steps.take("what an earlier leader has left of the hub can't be taken over", raise_them)
