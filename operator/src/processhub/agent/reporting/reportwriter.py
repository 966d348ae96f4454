"""The write of one slice's status, by this agent alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from processhub.agent.metrics import Metrics
from processhub.api.slice import RegistrySlice, SliceStatus, TlsReport
from processhub.cluster.client import JSON_PATCH, Client
from processhub.cluster.errors import ApiError, ConflictError, InvalidError, NotFoundError
from processhub.cluster.kinds import SLICES

_RENEWALS_TO_SETTLE = 2  # the first renewal may have been under way already


@dataclass(frozen=True)
class WriterIdentity:
    """The identity of a writer: the holder of the member's Lease, and the member's address.

    ``held()``: whether that Lease is valid, and slices were read since it was taken. ``renewals()`` is how often it was
    renewed. ``written(slice)`` receives each slice as it was stored. ``busy()`` is true while many children are about
    to change, whose changes should go into one write. ``members()`` is the number of the hub's members that have
    slices. ``tls()`` and ``asks()`` are reported in slice 0. ``has_read(name)``: whether all slices were read up to the
    present spec of this one. ``refused(why)`` receives why no status is stored now; "" when one is again.
    """

    client: Client
    holder: str
    address: str
    port: int
    held: Callable[[], bool]
    renewals: Callable[[], int]
    metrics: Metrics
    written: Callable[[RegistrySlice], None]
    busy: Callable[[], bool]
    members: Callable[[], int]
    tls: Callable[[], TlsReport] = TlsReport
    asks: Callable[[], tuple[str, ...]] = tuple
    has_read: Callable[[str], bool] = bool
    refused: Callable[[str], None] = lambda _: None


class ReportWriter:
    """Writes the status of one slice, unless another holder has written it since. ``current()`` is the slice as seen.

    Only the agent that holds the member's Lease may report what runs there (docs/protocol.md, rule 5).
    """

    def __init__(self, identity: WriterIdentity, current: Callable[[], RegistrySlice]) -> None:
        self._identity, self._current = identity, current
        self._wrote = False  # whether this agent has written the status before
        # Number of renewals of the Lease when another holder's status was seen after that.
        self._disputed: int | None = None

    async def write(self, status: SliceStatus) -> SliceStatus:
        """Replace the status at the version last seen; after a conflict, send a JSON Patch that tests the holder.

        Returns the status as it was stored.
        """
        for _ in range(5):
            item = self._current()
            self._check_holder(item)
            namespace, name = item.metadata.key
            try:
                body = {
                    "apiVersion": item.api_version,
                    "kind": item.kind,
                    "metadata": {
                        "name": name,
                        "namespace": namespace,
                        "uid": item.metadata.uid,
                        "resourceVersion": item.metadata.resource_version,
                    },
                    # Without the spec: the API server would read it, and then take its own.
                    "status": status,
                }
                stored = await self._identity.client.replace(SLICES, namespace, name, body, subresource="status")
                break
            except ConflictError:
                current = await self._identity.client.get(SLICES, namespace, name)
                if current.metadata.uid != item.metadata.uid:
                    raise NotFoundError(404, "NotFound", f"slice {name} was re-created") from None
                self._check_holder(current)
                self._identity.written(current)
                if not current.status.holder:
                    continue  # without a status there is nothing to test: replace it at the version just read
                patch = [
                    {"op": "test", "path": "/metadata/uid", "value": item.metadata.uid},
                    # The holder is this agent, or an earlier agent whose status is still in place.
                    {"op": "test", "path": "/status/holder", "value": current.status.holder},
                    {"op": "replace", "path": "/status", "value": status},
                ]
                try:
                    stored = await self._identity.client.patch(
                        SLICES, namespace, name, patch, content_type=JSON_PATCH, subresource="status"
                    )
                    break
                except InvalidError:
                    continue
        else:
            raise ConflictError(409, "Conflict", f"slice {name} changes too quickly")
        self._wrote = True
        self._identity.written(stored)
        return stored.status

    async def tell(self, why: str) -> None:
        """Write why the member's Lease is refused. What the Lease's holder reports stays as it is."""
        item = self._current()
        patch = {"metadata": {"uid": item.metadata.uid}, "status": {"leaseRefused": why}}
        await self._identity.client.patch(SLICES, *item.metadata.key, patch, subresource="status")

    def _check_holder(self, item: RegistrySlice) -> None:
        """Check that the status was not written by another holder since this agent wrote it.

        Raises ApiError if it was. A newer agent's status is kept: this agent learns at its next renewal that the Lease
        has another holder. If the Lease is renewed after that all the same, the status came from no agent (an edit by
        hand), and is replaced.
        """
        if not self._wrote or item.status.holder == self._identity.holder:
            self._disputed = None
            return
        if self._disputed is None:
            self._disputed = self._identity.renewals()
        if self._identity.renewals() < self._disputed + _RENEWALS_TO_SETTLE:
            raise ApiError(
                409, "Superseded", f"slice {item.metadata.name} is answered by {item.status.holder or 'nobody'} now"
            )
