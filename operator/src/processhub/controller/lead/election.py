"""Leader election by Lease, with the term that fences a deposed leader (docs/protocol.md, rule 1).

Lease 15 s, renewed every 2 s, given up after 10 s without a renewal. The term is an annotation on the Lease,
written in the same conditional update that takes it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

import msgspec

from processhub.api.kubernetes import Lease, LeaseSpec
from processhub.api.meta import ObjectMeta, OwnerReference
from processhub.api.naming import ANNOTATION_TERM
from processhub.api.slice import RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.errors import AlreadyExistsError, ApiError, ConflictError, NotFoundError
from processhub.cluster.kinds import LEASES, SLICES
from processhub.cluster.timestamps import now_micros

LEASE_NAME = "processhub-operator"
LEASE_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10
RETRY_SECONDS = 2.0
STANDBY_SECONDS = 1.0  # a standby looks this often, so that a released Lease is taken within 3 s
log = logging.getLogger(__name__)


class Election:
    """One candidate. ``acquire`` returns the term; ``hold`` returns when leadership is lost.

    The Lease goes with ``owner``: the term is in the slices too, so it need not outlive an installation.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        identity: str,
        watch_namespaces: tuple[str, ...],
        owner: OwnerReference | None = None,
    ) -> None:
        self._client, self._namespace = client, namespace
        self._watch_namespaces = watch_namespaces
        self._owners = (owner,) if owner else ()
        self.identity = f"{identity}_{random.randbytes(4).hex()}"  # noqa: S311 no secret
        self._seen: tuple[str | None, str | None] | None = None
        self._seen_at = 0.0
        self._taken_at = 0.0  # when the write that took the Lease was sent
        self._lease: Lease | None = None
        self._writing = asyncio.Lock()  # a renewal that is under way would make the release conflict, or undo it
        self.term = 0

    async def acquire(self) -> int:
        """Wait until the Lease is ours; the term, higher than any before it."""
        while True:
            try:
                if await self._try():
                    return self.term
            except ApiError as error:
                log.warning("leader election: %s", error.message)
            await asyncio.sleep(STANDBY_SECONDS)

    async def hold(self, on_renewed: Callable[[float], None]) -> None:
        """Renew until it is lost: another holder, or no renewal for 10 s.

        ``on_renewed(sent)`` after each renewal; ``sent`` is the loop's time at which it was sent.
        """
        loop = asyncio.get_running_loop()
        renewed = self._taken_at
        while True:
            # Not beyond the deadline: what is left of the Lease then is the time to stop all work in.
            await asyncio.sleep(min(RETRY_SECONDS, max(0.0, renewed + RENEW_DEADLINE_SECONDS - loop.time())))
            sent = loop.time()
            try:
                # What a conflict means is asked within the same time: another may have the Lease after it.
                async with asyncio.timeout(max(0.1, RENEW_DEADLINE_SECONDS - (sent - renewed))), self._writing:
                    try:
                        await self._renew()
                    except (ConflictError, NotFoundError) as error:
                        if not await self._still_ours():
                            log.error("leadership lost: %s", error.message)
                            return
                    else:
                        renewed = sent
                        on_renewed(sent)
            except (ApiError, TimeoutError) as error:
                log.warning("leader Lease not renewed: %s", error or "no answer in time")
            if loop.time() - renewed >= RENEW_DEADLINE_SECONDS:
                log.error("leadership lost: no renewal for %d s", RENEW_DEADLINE_SECONDS)
                return

    async def release(self) -> None:
        """Give the Lease up, so that a standby takes over at once. Call it once; ``hold`` is to be cancelled then."""
        async with self._writing:
            try:
                try:
                    await self._write_released()
                except ConflictError:
                    if await self._still_ours():  # a renewal whose answer was lost, or an edit by hand
                        await self._write_released()
            except ApiError as error:
                log.warning("leader Lease not released, a standby waits for its end: %s", error.message)
            self._lease = None

    async def _write_released(self) -> None:
        if self._lease is not None:
            spec = msgspec.structs.replace(self._lease.spec, holder_identity="", renew_time=now_micros())
            await self._write(msgspec.structs.replace(self._lease, spec=spec))

    async def _try(self) -> bool:
        try:
            lease = await self._client.get(LEASES, self._namespace, LEASE_NAME)
        except NotFoundError:
            lease = None
        if lease is not None and not self._free(lease):
            return False
        before = int(lease.metadata.annotations.get(ANNOTATION_TERM, "0")) if lease else 0
        self.term = max(before, await self._highest_term()) + 1
        now, self._taken_at = now_micros(), asyncio.get_running_loop().time()
        spec = LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=LEASE_SECONDS,
            acquire_time=now,
            renew_time=now,
            lease_transitions=(lease.spec.lease_transitions or 0) + 1 if lease else 0,
        )
        try:
            if lease is None:
                annotations = {ANNOTATION_TERM: str(self.term)}
                metadata = ObjectMeta(name=LEASE_NAME, annotations=annotations, owner_references=self._owners)
                self._lease = await self._client.create(LEASES, self._namespace, Lease(metadata=metadata, spec=spec))
            else:
                annotations = {**lease.metadata.annotations, ANNOTATION_TERM: str(self.term)}
                metadata = msgspec.structs.replace(
                    lease.metadata, annotations=annotations, owner_references=self._owners
                )
                await self._write(Lease(metadata=metadata, spec=spec))
        except (AlreadyExistsError, ConflictError):
            return False
        log.info("leading with term %d as %s", self.term, self.identity)
        return True

    def _free(self, lease: Lease) -> bool:
        """Whether the Lease may be taken, by this observer's own clock."""
        if not lease.spec.holder_identity:
            return True
        now = asyncio.get_running_loop().time()
        seen = (lease.spec.holder_identity, lease.spec.renew_time)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return now - self._seen_at >= (lease.spec.lease_duration_seconds or LEASE_SECONDS)

    async def _highest_term(self) -> int:
        highest = 0
        for namespace in self._watch_namespaces or (None,):
            slices, _ = await self._client.list(SLICES, namespace)
            terms = [item.spec.term for item in slices if isinstance(item, RegistrySlice)]
            highest = max([highest, *terms])
        return highest

    async def _renew(self) -> None:
        if self._lease is None:
            raise NotFoundError(404, "NotFound", "the leader Lease was never taken")
        spec = msgspec.structs.replace(self._lease.spec, renew_time=now_micros())
        await self._write(msgspec.structs.replace(self._lease, spec=spec))

    async def _still_ours(self) -> bool:
        """After a conflict: an edit of the Lease by someone else is not the loss of it. Raises ApiError."""
        try:
            lease = await self._client.get(LEASES, self._namespace, LEASE_NAME)
        except NotFoundError:
            return False
        if lease.spec.holder_identity != self.identity:
            return False
        self._lease = lease
        return True

    async def _write(self, lease: Lease) -> None:
        self._lease = await self._client.replace(LEASES, self._namespace, LEASE_NAME, lease)
