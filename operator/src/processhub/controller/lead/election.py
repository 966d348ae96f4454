"""Leader election by Lease, with the term that fences a deposed leader (docs/protocol.md, rule 1).

The times of the Lease are:

    0 s     the leader has renewed the Lease; it does so every 2 s
    10 s    without a renewal, the leader gives up and stops all work
    15 s    a standby takes the Lease

A standby takes it earlier where it sees that the leader's process has ended (``holder``). The term is an annotation of
the Lease. It is written in the same conditional update that takes the Lease.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from http import HTTPStatus

import msgspec

from processhub.api.kubernetes import Lease, LeaseSpec
from processhub.api.meta import ObjectMeta, OwnerReference
from processhub.api.naming import ANNOTATION_LEADER, ANNOTATION_TERM
from processhub.api.slice import TERM_MAX, RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.errors import AlreadyExistsError, ApiError, ConflictError, ForbiddenError, NotFoundError
from processhub.cluster.informer import version_of
from processhub.cluster.kinds import HUBS, LEASES, SLICES, untyped
from processhub.cluster.timestamps import now_micros
from processhub.controller.errors import UnauthorizedError
from processhub.controller.lead.holder import HolderWatch, LeaderProcess

LEASE_NAME = "processhub-operator"
LEASE_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10
RETRY_SECONDS = 2.0
REJECTED_SECONDS = 30.0  # until a candidate ends whose token is not accepted: kubelets replace tokens in time
STANDBY_SECONDS = 1.0  # between two looks of a standby, so that it takes a released Lease within 3 s
_NO_POD = LeaderProcess()
_HUBS = untyped(HUBS.api_version, HUBS.plural)  # A spec that can't be decoded must not hide its Hub's term.
log = logging.getLogger(__name__)


class Election:
    """One candidate. ``acquire`` returns the term; ``hold`` returns when leadership is lost.

    The Lease is deleted with ``owner``. It need not outlive an installation, because slices and Hubs have the term too.
    ``process`` says where this candidate runs, so that its standbys see its end. In no pod, it says nothing.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        identity: str,
        watch_namespaces: tuple[str, ...],
        owner: OwnerReference | None = None,
        process: LeaderProcess = _NO_POD,
    ) -> None:
        self._client, self._namespace = client, namespace
        self._watch_namespaces = watch_namespaces
        self._owners = (owner,) if owner else ()
        self.identity = f"{identity}_{random.randbytes(4).hex()}"  # noqa: S311 no secret
        self._process = msgspec.structs.replace(process, identity=self.identity)
        self._holder = HolderWatch(client, namespace, self._process)
        self._seen: tuple[str | None, str | None] | None = None
        self._seen_at = self._left = 0.0  # when a renewal was seen last; after how much time the Lease has expired
        self._taken_at = 0.0  # the loop's time at which the write that took the Lease was sent
        self._lease: Lease | None = None
        self._writing = asyncio.Lock()  # a renewal under way would make the release conflict, or undo it
        self.term = 0
        self._highest = 0  # the highest term that was seen, which is not lost where etcd is restored to an earlier time

    async def acquire(self) -> int:
        """Wait until this candidate holds the Lease; returns the term, which is higher than any before.

        Raises UnauthorizedError: a replica without valid credentials must not look like a standby.
        """
        loop, rejected_at = asyncio.get_running_loop(), math.inf
        while True:
            try:
                if await self._try():
                    return self.term
                rejected_at = math.inf
            except ApiError as error:
                log.warning("leader election: %s", error.message)
                rejected_at = min(rejected_at, loop.time()) if error.status == HTTPStatus.UNAUTHORIZED else math.inf
            if loop.time() - rejected_at >= REJECTED_SECONDS:
                raise UnauthorizedError(
                    "the API server does not accept this pod's token; if the ServiceAccount was created again, restart"
                    " the pods: kubectl rollout restart deployment processhub-operator"
                )
            await self._holder.wait(min(STANDBY_SECONDS, self._left or STANDBY_SECONDS))

    async def hold(self, on_renewed: Callable[[float], None]) -> None:
        """Renew the Lease until it is lost: by another holder, or because 10 s passed without a renewal.

        ``on_renewed(sent)`` is called after each renewal; ``sent`` is the loop's time at which it was sent.
        """
        loop = asyncio.get_running_loop()
        renewed = self._taken_at
        while True:
            # The sleep ends at the deadline: the rest of the Lease is the time in which all work must stop.
            await asyncio.sleep(min(RETRY_SECONDS, max(0.0, renewed + RENEW_DEADLINE_SECONDS - loop.time())))
            sent = loop.time()
            try:
                # After a conflict the Lease is read within the same time, because another candidate may take it
                # afterwards.
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
        """Release the Lease, so that a standby takes over at once. Call it once; ``hold`` must be cancelled first."""
        async with self._writing:
            try:
                try:
                    await self._write_released()
                except ConflictError:
                    if await self._still_ours():  # a renewal whose answer was lost, or an edit by hand
                        await self._write_released()
            except ApiError as error:
                log.warning("leader Lease not released, a standby waits until it expires: %s", error.message)
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
        if lease is not None:
            self._highest = max(self._highest, _term_of(lease))
            if not await self._free(lease):
                return False
        self._highest = self.term = max(self._highest, await self._highest_term()) + 1
        now, self._taken_at = now_micros(), asyncio.get_running_loop().time()
        spec = LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=LEASE_SECONDS,
            acquire_time=now,
            renew_time=now,
            lease_transitions=(lease.spec.lease_transitions or 0) + 1 if lease else 0,
        )
        try:
            described = msgspec.json.encode(self._process).decode()
            marks = {ANNOTATION_TERM: str(self.term), ANNOTATION_LEADER: described}
            if lease is None:
                metadata = ObjectMeta(name=LEASE_NAME, annotations=marks, owner_references=self._owners)
                self._lease = await self._client.create(LEASES, self._namespace, Lease(metadata=metadata, spec=spec))
            else:
                marks = lease.metadata.annotations | marks
                metadata = msgspec.structs.replace(lease.metadata, annotations=marks, owner_references=self._owners)
                await self._write(Lease(metadata=metadata, spec=spec))
        except (AlreadyExistsError, ConflictError):
            self._holder.alive()
            return False
        log.info("leading with term %d as %s", self.term, self.identity)
        return True

    async def _free(self, lease: Lease) -> bool:
        """Whether the Lease may be taken: it is released, expired by this observer's own clock, or its holder ended."""
        holder, now = lease.spec.holder_identity, asyncio.get_running_loop().time()
        if not holder or holder == self.identity:  # its own: the write that took it was stored and not answered
            return True
        seen = (holder, lease.spec.renew_time)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        self._left = max(0.0, self._seen_at + (lease.spec.lease_duration_seconds or LEASE_SECONDS) - now)
        if not self._left:
            return True
        if ended := await self._holder.ended(lease):
            log.warning("the leader %s has ended: %s", holder, ended)
        return bool(ended)

    async def _highest_term(self) -> int:
        """The highest term on record. Raises ApiError.

        A namespace that the chart names may be gone, or its RoleBinding. That keeps nobody from leading the others.
        """
        namespaces, terms = self._watch_namespaces or (None,), [0]
        refused: list[ForbiddenError] = []
        for namespace in namespaces:
            try:
                slices, _ = await self._client.list(SLICES, namespace)
                hubs, _ = await self._client.list(_HUBS, namespace)
            except ForbiddenError as error:
                refused.append(error)
                continue
            terms += [item.spec.term for item in slices if isinstance(item, RegistrySlice)]
            terms += [item.get("status", {}).get("term", 0) for item in hubs if isinstance(item, dict)]
        if len(refused) == len(namespaces):
            raise refused[0]
        return max(terms)

    async def _renew(self) -> None:
        if self._lease is None:
            raise NotFoundError(404, "NotFound", "the leader Lease was never taken")
        spec = msgspec.structs.replace(self._lease.spec, renew_time=now_micros())
        await self._write(msgspec.structs.replace(self._lease, spec=spec))

    async def _still_ours(self) -> bool:
        """Whether this candidate still holds the Lease after a conflict, which may be an edit by another client.

        Raises ApiError.
        """
        try:
            lease = await self._client.get(LEASES, self._namespace, LEASE_NAME)
        except NotFoundError:
            return False
        version, held = version_of(lease.metadata.resource_version), self._lease
        if held is not None and version < version_of(held.metadata.resource_version):
            log.error("the leader Lease is older than it was written: was etcd restored from a backup?")
            await self._keep_term(lease)
            return False
        if lease.spec.holder_identity != self.identity:
            return False
        self._lease = lease
        return True

    async def _keep_term(self, lease: Lease) -> None:
        """Write this leader's term into the Lease of an earlier time, so that the next one's is above it.

        Raises ApiError.
        """
        if _term_of(lease) < self.term:
            version = lease.metadata.resource_version
            metadata = {"resourceVersion": version, "annotations": {ANNOTATION_TERM: str(self.term)}}
            await self._client.patch(LEASES, self._namespace, LEASE_NAME, {"metadata": metadata})

    async def _write(self, lease: Lease) -> None:
        self._lease = await self._client.replace(LEASES, self._namespace, LEASE_NAME, lease)


def _term_of(lease: Lease) -> int:
    """The term in the Lease, 0 if somebody has made another text of it: slices and Hubs have the term too."""
    text = lease.metadata.annotations.get(ANNOTATION_TERM, "")
    term = int(text) if text.isdecimal() and len(text) <= len(str(TERM_MAX)) else 0
    return term if term <= TERM_MAX else 0
