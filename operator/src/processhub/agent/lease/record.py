"""The Lease object of a member at the API server, as one agent reads and writes it."""

from __future__ import annotations

import contextlib
import logging
import random

import msgspec

from processhub.agent.env import Environment
from processhub.api.kubernetes import Lease
from processhub.api.naming import ANNOTATION_LOAD, ANNOTATION_REFUSED, LABEL_HUB_UID, lease_name
from processhub.api.usage import Usage, format_usage
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.informer import version_of
from processhub.cluster.kinds import LEASES
from processhub.cluster.timestamps import now_micros

log = logging.getLogger(__name__)


class LeaseRecord:
    """The Lease of the member. ``identity`` is this agent's name as its holder, new for each process.

    ``rewound`` is true from when the Lease was found to be older than this agent has written it. A consistent read is
    never older than a write that was answered before it, so etcd was restored to a time before that write.
    """

    def __init__(self, env: Environment) -> None:
        self.name = lease_name(env.hub, env.member)
        self.identity = f"{env.pod_uid}/{random.randbytes(4).hex()}"  # noqa: S311 no secret
        # These are sent with each renewal, so they need no write of their own.
        self.usage: Usage | None = None
        self.refused = ""  # why the member's reports are not stored
        self.held: Lease | None = None  # as this agent last wrote it; None: it must be read again
        self.rewound = False
        self._written = 0  # the resourceVersion of the last write
        self._env = env
        self._mark = env.run_dir / "lease"  # on a volume of the pod, which outlives the container

    @property
    def has_run(self) -> bool:
        """Whether an agent of this pod has taken the Lease before."""
        return self._mark.exists()

    def same_pod(self, holder: str) -> bool:
        """Whether the holder is an earlier container of this pod. Its processes have ended with it."""
        return holder.startswith(self._env.pod_uid + "/")

    async def read(self, client: Client) -> Lease | None:
        """The Lease as it is now; None if there is none, or it belongs to another hub."""
        try:
            lease = await client.get(LEASES, self._env.namespace, self.name, timeout=5)
        except NotFoundError:
            return None
        if lease.metadata.labels.get(LABEL_HUB_UID, self._env.hub_uid) != self._env.hub_uid:
            log.warning("the Lease %s belongs to a hub of another uid; waiting", self.name)
            return None
        self.rewound = self.rewound or version_of(lease.metadata.resource_version) < self._written
        return lease

    async def write(self, client: Client, lease: Lease, seconds: int, *, taking: bool) -> bool:
        """Renew the Lease, or take it over. Returns False on a conflict: another client wrote it in between."""
        now = now_micros()
        spec = msgspec.structs.replace(
            lease.spec, holder_identity=self.identity, lease_duration_seconds=seconds, renew_time=now
        )
        if taking:
            with contextlib.suppress(OSError):  # Without it the next agent waits longer.
                self._mark.touch()
            spec = msgspec.structs.replace(
                spec, acquire_time=now, lease_transitions=(lease.spec.lease_transitions or 0) + 1
            )
        annotations = dict(lease.metadata.annotations)
        annotations.pop(ANNOTATION_REFUSED, None)
        if (usage := self.usage) is not None:
            annotations[ANNOTATION_LOAD] = format_usage(usage)
        if refused := self.refused:
            annotations[ANNOTATION_REFUSED] = refused
        metadata = msgspec.structs.replace(lease.metadata, annotations=annotations)
        body = msgspec.structs.replace(lease, metadata=metadata, spec=spec)
        try:
            self.held = await client.replace(LEASES, self._env.namespace, self.name, body)
        except (ConflictError, NotFoundError):
            self.held = None
            return False
        self._written = version_of(self.held.metadata.resource_version)
        return True

    async def release(self, client: Client) -> None:
        """Clear the holder, if it is still this agent."""
        lease = await client.get(LEASES, self._env.namespace, self.name)
        if lease.spec.holder_identity == self.identity:
            spec = msgspec.structs.replace(lease.spec, holder_identity="")
            await client.replace(LEASES, self._env.namespace, self.name, msgspec.structs.replace(lease, spec=spec))
