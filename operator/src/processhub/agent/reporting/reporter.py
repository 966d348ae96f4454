"""The status reporter: it writes what this member runs into the status of its slices.

Each slice has one writer, with one write in flight. The rules for writes are:

- A change for which a client may wait is written at once. Changes that follow shortly after are written together.
- Changes of a crash loop wait for a budget of bytes, so that they do not fill etcd (noise.py).
- A write takes its content from the children at the moment of writing, after the slice's newest spec was applied to
  them. So its observedGeneration is true.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from processhub.agent.children.child import Child
from processhub.agent.children.report import awaits_pod, report_in, report_text, reporting_slices
from processhub.agent.metrics import Metrics
from processhub.agent.reporting.noise import FEW, NoiseBudget, is_noise
from processhub.agent.reporting.statusfit import fit
from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice, SliceStatus, stored_bytes
from processhub.cluster.client import JSON_PATCH, Client
from processhub.cluster.errors import ApiError, ConflictError, InvalidError, NotFoundError
from processhub.cluster.kinds import SLICES
from processhub.cluster.tokenbucket import TokenBucket
from processhub.registry.grammar import parse_report, same_incarnation, shorten_report

log = logging.getLogger(__name__)
_BURST, _PER_SECOND = 10, 1.0  # writes at once, and writes a second after that
_GATHER_SECONDS = 0.1  # between two writes while many children change
_GATHER_FEW, _FEW = 0.01, 8  # between two writes after a write of few changes
_GATHER_MAX = 0.3  # the longest of these pauses, after a slow write
_LINGER_SECONDS = 0.05  # a change for which no client waits is written with the next one, or after this time
_BUSY_MAX = 0.5  # a write waits no longer than this for more changes of a series
_LOOK_SECONDS = 0.02  # between two checks whether such a series is over
_RETRY_SECONDS = 0.5
_RENEWALS_TO_SETTLE = 2  # the first renewal may have been under way already
_ENVELOPE = 2048  # bytes of an object beside its spec and its entries


@dataclass(frozen=True)
class WriterIdentity:
    """The identity of a writer: the holder of the member's Lease, and the member's address.

    ``renewals()`` is the number of renewals of that Lease. ``written(slice)`` receives each slice as it was stored.
    ``busy()`` is true while many children are about to change, whose changes should go into one write. ``members()`` is
    the number of the hub's members that have slices.
    """

    client: Client
    holder: str
    address: str
    port: int
    renewals: Callable[[], int]
    metrics: Metrics
    written: Callable[[RegistrySlice], None]
    busy: Callable[[], bool]
    members: Callable[[], int]


class StatusReporter:
    """The status writers of all own slices."""

    def __init__(self, writer: WriterIdentity) -> None:
        self._writer = writer
        self._budget = NoiseBudget(writer.members)
        self._statuses: dict[str, _SliceStatus] = {}
        self._open = False

    def slice_changed(self, item: RegistrySlice | None, name: str, children: Iterable[Child] = ()) -> None:
        """Take an own slice as it is now, or None if it was deleted. Its spec has already been applied."""
        slice_status = self._statuses.get(name)
        if item is None:
            if slice_status is not None:
                slice_status.close()
                del self._statuses[name]
            return
        if slice_status is None:
            slice_status = self._statuses[name] = _SliceStatus(self._writer, self._budget)
            slice_status.dirty.update({child.id: child for child in children})
        slice_status.take(item, open_=self._open)

    def child_changed(self, child: Child, urgent: bool) -> None:
        """Mark a child whose report changed in all slices that report it."""
        for slice_status in self._statuses.values():
            # Slices that no longer name the child are included: its entry is removed from them.
            if slice_status.concerns(child):
                slice_status.mark(child, urgent=urgent, open_=self._open)

    def open(self) -> None:
        """Start writing, beginning with all of the status: the Lease is held."""
        self._open = True
        for slice_status in self._statuses.values():
            slice_status.kick()

    async def flush(self, seconds: float) -> None:
        """Write all changes that are not written yet, for ``seconds`` at most, and stop writing."""
        if not self._open:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(slice_status.settle() for slice_status in self._statuses.values()))
        for slice_status in self._statuses.values():
            slice_status.close()


class _SliceStatus:
    """The writer of one slice's status."""

    def __init__(self, writer: WriterIdentity, budget: NoiseBudget) -> None:
        self._writer, self._budget = writer, budget
        self._item: RegistrySlice | None = None
        self._spec_size = 0  # bytes of the spec as stored
        self._entries: dict[str, str] = {}
        self._turns: dict[str, int] = {}  # by id: how often the report of the child's present incarnation has changed
        self._named: Collection[str] = ()  # the children in the last status that was written
        self._observed = 0  # the observedGeneration to report: a child that is not listed then has ended
        self.dirty: dict[str, Child] = {}
        self._said: tuple[int, dict[str, str]] | None = None  # the last status that this agent wrote
        self._wrote = False  # whether this agent has written the status before
        # Number of renewals of the Lease when another holder's status was seen after that.
        self._disputed: int | None = None
        self._bucket = TokenBucket(_PER_SECOND, _BURST)
        self._wake = asyncio.Event()  # a change is to be written
        self._urgent = asyncio.Event()  # set too if a client may wait for it
        self._pressing = asyncio.Event()  # set too if it is more than a crash loop's noise
        self._since = 0.0  # the loop's time of the first change that is not written yet
        self._task: asyncio.Task[None] | None = None
        self._last = self._gap = 0.0  # when the last write was begun, and the least seconds to the next
        self._closing = False

    def take(self, item: RegistrySlice, *, open_: bool) -> None:
        """Take a changed slice: its generation has changed or, by this agent's writes, its resourceVersion."""
        before, self._item = self._item, item
        if before is not None and before.metadata.generation == item.metadata.generation:
            return
        self._spec_size = stored_bytes(item.spec)
        if open_:
            # Not urgent by itself: a child that starts or ends because of it is urgent some milliseconds later, and one
            # write then reports both.
            self.kick()

    def concerns(self, child: Child) -> bool:
        """Whether the child is reported, or was reported, in this slice."""
        assert self._item is not None
        return child.id in self._entries or self._item.metadata.name in reporting_slices(child)

    def mark(self, child: Child, *, urgent: bool, open_: bool) -> None:
        """Mark the child's entry as changed."""
        self.dirty[child.id] = child
        if urgent:
            self._urgent.set()
        if open_:
            self.kick(pressing=self._pressing.is_set() or not self._is_noise(child))

    def _is_noise(self, child: Child) -> bool:
        """Whether the child only goes on in a crash loop of which some rounds are reported already."""
        assert self._item is not None
        before = self._entries.get(child.id)
        if before is None or self._turns.get(child.id, 0) < FEW or child.given_up:
            return False
        after, reported = report_in(child, self._item.metadata.name), parse_report(shorten_report(before, 0))
        if after is None or (awaits_pod(child) and reported.state != State.STARTING):
            return False
        return is_noise(reported, after)

    def kick(self, *, pressing: bool = True) -> None:
        """Have the status written soon; a change that is not ``pressing`` waits for the budget."""
        if pressing:
            self._pressing.set()
        if not self._wake.is_set():
            self._since = asyncio.get_running_loop().time()
            self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    def close(self) -> None:
        """Stop writing."""
        if self._task is not None:
            self._task.cancel()

    async def settle(self) -> None:
        """Write without waiting for tokens until nothing is left to write, then end."""
        self._closing = True
        self._urgent.set()
        self.kick()
        assert self._task is not None
        await self._task

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while not (self._closing and not self._wake.is_set()):
            await self._wake.wait()
            await self._gather(loop)
            pressing = self._pressing.is_set()
            for event in (self._wake, self._urgent, self._pressing):
                event.clear()
            try:
                status, size = self._compose()
                if self._said == (status.observed_generation, status.entries):
                    continue
                self._last = loop.time()
                # A failed write counts too, because it may have been stored all the same.
                self._budget.spend(self._last, size, noise=not pressing)
                await self._write(status)
                # With many children or a busy server, the next write waits longer and carries more.
                self._gap = max(self._gap, min(loop.time() - self._last, _GATHER_MAX))
                self._said = (status.observed_generation, status.entries)
                self._writer.metrics.status_writes.labels("written").inc()
            except NotFoundError:
                log.info("a slice was deleted while its status was being written")
            except Exception as error:
                self._writer.metrics.status_writes.labels("failed").inc()
                known = isinstance(error, ApiError)
                log.warning("status of slice not written: %s", error, exc_info=None if known else error)
                self._said = None
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()
                if pressing:
                    self._pressing.set()

    async def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the next write is due: at once for an urgent change after a quiet time, else a little later."""
        while not self._closing:
            now = loop.time()
            # Changes that wait for the budget are written together, so that a quick child has no advantage.
            if not self._pressing.is_set() and (rest := self._budget.wait(now)) > 0:
                await _up_to(rest, self._pressing)
                continue
            rest = max(self._bucket.wait(now), self._last + self._gap - now)
            if not self._urgent.is_set():
                rest = max(rest, self._since + _LINGER_SECONDS - now)
                if rest > 0:
                    await _up_to(rest, self._urgent)
                    continue
            if rest <= 0 and self._writer.busy() and now < self._since + _BUSY_MAX:
                rest = _LOOK_SECONDS
            if rest <= 0:
                break
            await asyncio.sleep(rest)
        await asyncio.sleep(0)  # changes that the same event made are written with it
        self._bucket.take(loop.time())

    def _compose(self) -> tuple[SliceStatus, int]:
        """The status to write, and the bytes that the object then takes."""
        item = self._item
        assert item is not None
        name = item.metadata.name
        self._gap = _GATHER_FEW if len(self.dirty) <= _FEW else _GATHER_SECONDS
        for child_id, child in self.dirty.items():
            self._enter(child_id, report_text(child, name))
        self.dirty.clear()
        entries, whole, size = fit(self._entries, item.spec, self._spec_size, self._named)
        self._named = entries
        if whole:
            self._observed = item.metadata.generation
        status = SliceStatus(
            observed_generation=self._observed,
            holder=self._writer.holder,
            address=self._writer.address,
            port=self._writer.port,
            entries=entries,
        )
        return status, self._spec_size + size + _ENVELOPE

    def _enter(self, child_id: str, text: str | None) -> None:
        """Take a child's report (None: it has none), and count how often its present incarnation has changed it."""
        if text is None:
            self._entries.pop(child_id, None)
            self._turns.pop(child_id, None)
            return
        before, self._entries[child_id] = self._entries.get(child_id), text
        if before is None or not same_incarnation(before, text):
            self._turns.pop(child_id, None)
        elif before != text:
            self._turns[child_id] = self._turns.get(child_id, 0) + 1

    async def _write(self, status: SliceStatus) -> None:
        """Replace the status at the version last seen; after a conflict, send a JSON Patch that tests the holder."""
        for _ in range(5):
            item = self._item
            assert item is not None
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
                    "spec": item.spec,
                    "status": status,
                }
                stored = await self._writer.client.replace(SLICES, namespace, name, body, subresource="status")
                break
            except ConflictError:
                current = await self._writer.client.get(SLICES, namespace, name)
                if current.metadata.uid != item.metadata.uid:
                    raise NotFoundError(404, "NotFound", f"slice {name} was re-created") from None
                self._check_holder(current)
                self._writer.written(current)
                if not current.status.holder:
                    continue  # without a status there is nothing to test: replace it at the version just read
                patch = [
                    {"op": "test", "path": "/metadata/uid", "value": item.metadata.uid},
                    # The holder is this agent, or an earlier agent whose status is still in place.
                    {"op": "test", "path": "/status/holder", "value": current.status.holder},
                    {"op": "replace", "path": "/status", "value": status},
                ]
                try:
                    stored = await self._writer.client.patch(
                        SLICES, namespace, name, patch, content_type=JSON_PATCH, subresource="status"
                    )
                    break
                except InvalidError:
                    continue
        else:
            raise ConflictError(409, "Conflict", f"slice {name} changes too quickly")
        self._wrote = True
        self._writer.written(stored)

    def _check_holder(self, item: RegistrySlice) -> None:
        """Check that the status was not written by another holder since this agent wrote it.

        Raises ApiError if it was. A newer agent's status is kept: this agent learns at its next renewal that the Lease
        has another holder. If the Lease is renewed after that all the same, the status came from no agent (an edit by
        hand), and is replaced.
        """
        if not self._wrote or item.status.holder == self._writer.holder:
            self._disputed = None
            return
        if self._disputed is None:
            self._disputed = self._writer.renewals()
        if self._writer.renewals() < self._disputed + _RENEWALS_TO_SETTLE:
            raise ApiError(
                409, "Superseded", f"slice {item.metadata.name} is answered by {item.status.holder or 'nobody'} now"
            )


async def _up_to(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, for ``seconds`` at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
