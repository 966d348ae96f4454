"""What a standby sees of the process that holds the leader Lease, so that it need not wait until the Lease expires.

Three things show that the process has ended (docs/protocol.md, rule 1):

- An earlier process of the standby's own pod was the holder. A kubelet starts a container again after its end only.
- The holder's Pod is gone, or its kubelet reports the end of the container that was running when the Lease was taken.
- The holder's address refuses connections, three times within a second, where it accepted them before. The kernel
  accepts them for a process that is busy or paused, and no answer at all comes from a node that is cut off.

None of them needs to be a proof: were the holder alive, the term would fence it, and its next renewal would fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime
from typing import Annotated

import msgspec

from processhub.api.kubernetes import Lease, Pod
from processhub.api.meta import Wire
from processhub.api.naming import ANNOTATION_LEADER
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, NotFoundError
from processhub.cluster.kinds import PODS

REFUSALS = 3
PROBE_SECONDS = 0.3  # between two connections, and the time that each of them has
_CONTAINER = "operator"
log = logging.getLogger(__name__)


class LeaderProcess(Wire, frozen=True, kw_only=True):
    """The process that took the leader Lease, as the Lease's annotation ``processhub.dev/leader`` describes it.

    ``identity`` is the holder's. An annotation with another one is of an earlier holder.
    """

    identity: str = ""
    pod: str = ""
    pod_uid: str = ""
    host: str = ""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0


class HolderWatch:
    """Watches the process that holds the Lease, for the standby in ``own``."""

    def __init__(self, client: Client, namespace: str, own: LeaderProcess) -> None:
        self._client, self._namespace, self._own = client, namespace, own
        self._holder = LeaderProcess()
        self._accepted = False  # the address of this holder has accepted a connection of this standby
        self._refusals = 0

    async def ended(self, lease: Lease) -> str:
        """How the end of the holder shows; "" if it does not."""
        holder = _described(lease)
        if holder != self._holder:
            self._holder, self._accepted, self._refusals = holder, False, 0
        if self._refusals >= REFUSALS:
            return f"{holder.host}:{holder.port} refuses connections"
        if not holder.pod_uid or not holder.pod:
            return ""
        if holder.pod_uid == self._own.pod_uid:
            return "the container of this pod was started again"
        return await self._pod_ended(lease)

    def alive(self) -> None:
        """Note that somebody else has written the Lease, which may be its holder."""
        self._refusals = 0

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until the address of the holder refuses connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await asyncio.sleep(PROBE_SECONDS)
                    await self._probe()
                    if self._refusals >= REFUSALS:
                        return

    async def _probe(self) -> None:
        if not self._holder.host:
            return
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                _, writer = await asyncio.open_connection(self._holder.host, self._holder.port)
            self._accepted, self._refusals = True, 0
            writer.close()
        except ConnectionRefusedError:
            if self._accepted:  # else a network policy may refuse them, to any leader
                self._refusals += 1
        except (OSError, ValueError):  # TimeoutError too; a text that is no address
            self._refusals = 0

    async def _pod_ended(self, lease: Lease) -> str:
        try:
            pod = await self._client.get(PODS, self._namespace, self._holder.pod)
        except NotFoundError:
            return f"pod {self._holder.pod} is gone"
        except ApiError as error:
            log.debug("the leader's pod is not known: %s", error.message)
            return ""
        if pod.metadata.uid != self._holder.pod_uid:
            return f"pod {self._holder.pod} is gone"
        return f"the container of pod {self._holder.pod} has ended" if _container_ended(pod, lease) else ""


def _described(lease: Lease) -> LeaderProcess:
    try:
        found = msgspec.json.decode(lease.metadata.annotations.get(ANNOTATION_LEADER, "{}"), type=LeaderProcess)
    except msgspec.DecodeError:
        return LeaderProcess()
    return found if found.identity == lease.spec.holder_identity else LeaderProcess()


def _container_ended(pod: Pod, lease: Lease) -> bool:
    """Whether the kubelet reports an end of the container that came after the Lease was taken.

    Both times are of the clock of the holder's node. The kubelet's is rounded down to seconds: an end in the second in
    which the Lease was taken is not recognised.
    """
    if not lease.spec.acquire_time:
        return False
    acquired = datetime.fromisoformat(lease.spec.acquire_time)
    for status in pod.status.container_statuses:
        if status.name == _CONTAINER:
            for state in (status.state, status.last_state):
                ended = state.terminated.finished_at if state.terminated else None
                if ended and datetime.fromisoformat(ended) >= acquired:
                    return True
    return False
