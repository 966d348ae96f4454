"""Writing what this member runs into the status of its slices.

One writer a slice, one write in flight. A change somebody may wait for goes out at once, what follows is gathered.
What a crash loop has to say waits for a budget of bytes, so that it does not fill etcd (noise.py). What a write says is
taken from the children at the moment of writing, after the slice's newest spec was applied to them: so its
observedGeneration is true.
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
_BURST, _PER_SECOND = 10, 1.0
_GATHER_SECONDS = 0.1  # between two writes while many children change,
_GATHER_FEW, _FEW = 0.01, 8  # and after a write of few changes
_GATHER_MAX = 0.3
_LINGER_SECONDS = 0.05  # a change that nobody waits for goes out with the next one, or after this
_BUSY_MAX = 0.5  # a write waits no longer for the rest of what makes many changes
_LOOK_SECONDS = 0.02  # until it is looked again whether that is over which makes many changes
_RETRY_SECONDS = 0.5
_RENEWALS_TO_SETTLE = 2  # the first may have been under way
_ENVELOPE = 2048  # bytes of an object beside its spec and its entries


@dataclass(frozen=True)
class WriterIdentity:
    """The identity of the writer: the holder of the member's Lease, at its address.

    ``renewals()`` counts those of that Lease; ``written(slice)`` gets each slice as it was stored; ``busy()`` is true
    while many children are about to have something to say, which had better go with one write. ``members()`` are those
    of the hub that have slices.
    """

    client: Client
    holder: str
    address: str
    renewals: Callable[[], int]
    metrics: Metrics
    written: Callable[[RegistrySlice], None]
    busy: Callable[[], bool]
    members: Callable[[], int]


class StatusReporter:
    """The writers of all own slices."""

    def __init__(self, writer: WriterIdentity) -> None:
        self._writer = writer
        self._budget = NoiseBudget(writer.members)
        self._statuses: dict[str, _SliceStatus] = {}
        self._open = False

    def slice_changed(self, item: RegistrySlice | None, name: str, children: Iterable[Child] = ()) -> None:
        """An own slice as it is now, or None where it was deleted. Its spec is applied already."""
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
        """A child's report changed."""
        for slice_status in self._statuses.values():
            # Also those that no longer name it: its entry goes there.
            if slice_status.concerns(child):
                slice_status.mark(child, urgent=urgent, open_=self._open)

    def open(self) -> None:
        """The Lease is held: write from now on, all of it anew."""
        self._open = True
        for slice_status in self._statuses.values():
            slice_status.kick()

    async def flush(self, seconds: float) -> None:
        """Write what is not written yet, for so long at most, and stop writing."""
        if not self._open:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(slice_status.settle() for slice_status in self._statuses.values()))
        for slice_status in self._statuses.values():
            slice_status.close()


class _SliceStatus:
    """One slice's status."""

    def __init__(self, writer: WriterIdentity, budget: NoiseBudget) -> None:
        self._writer, self._budget = writer, budget
        self._item: RegistrySlice | None = None
        self._spec_size = 0  # bytes, as stored
        self._entries: dict[str, str] = {}
        self._turns: dict[str, int] = {}  # how often the report of each child's present incarnation has changed
        self._named: Collection[str] = ()  # the children that the last status reported
        self._observed = 0  # the generation that is answered: what is not listed then has ended
        self.dirty: dict[str, Child] = {}
        self._said: tuple[int, dict[str, str]] | None = None  # what this agent wrote last
        self._wrote = False  # this agent has answered the slice
        self._disputed: int | None = None  # renewals of the Lease when another's answer was seen after that
        self._bucket = TokenBucket(_PER_SECOND, _BURST)
        self._wake = asyncio.Event()  # there is something to say
        self._urgent = asyncio.Event()  # and somebody may wait for it
        self._pressing = asyncio.Event()  # and it is more than a crash loop's noise
        self._since = 0.0  # since when there is
        self._task: asyncio.Task[None] | None = None
        self._last = self._gap = 0.0  # when the last write was begun, and the least time to the next
        self._closing = False

    def take(self, item: RegistrySlice, *, open_: bool) -> None:
        """The slice changed: its generation or, by our own writes, its resourceVersion."""
        before, self._item = self._item, item
        if before is not None and before.metadata.generation == item.metadata.generation:
            return
        self._spec_size = stored_bytes(item.spec)
        if open_:
            # Not urgent by itself: a child that starts or ends because of it is, some milliseconds later, and one
            # write then answers for both.
            self.kick()

    def concerns(self, child: Child) -> bool:
        """Whether the child is, or was, reported here."""
        assert self._item is not None
        return child.id in self._entries or self._item.metadata.name in reporting_slices(child)

    def mark(self, child: Child, *, urgent: bool, open_: bool) -> None:
        """The child's entry is to be made anew."""
        self.dirty[child.id] = child
        if urgent:
            self._urgent.set()
        if open_:
            self.kick(pressing=self._pressing.is_set() or not self._is_noise(child))

    def _is_noise(self, child: Child) -> bool:
        """Whether the child merely goes on with its crash loop, some rounds of which are reported already."""
        assert self._item is not None
        before = self._entries.get(child.id)
        if before is None or self._turns.get(child.id, 0) < FEW or child.given_up:
            return False
        after, reported = report_in(child, self._item.metadata.name), parse_report(shorten_report(before, 0))
        if after is None or (awaits_pod(child) and reported.state != State.STARTING):
            return False
        return is_noise(reported, after)

    def kick(self, *, pressing: bool = True) -> None:
        """Have it written soon; what is not ``pressing`` when the budget allows."""
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
        """Write without waiting for tokens until there is nothing to say, then end."""
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
                # Also where it fails: it may be stored all the same.
                self._budget.spend(self._last, size, noise=not pressing)
                await self._write(status)
                # Many children, a busy server: the next write takes more with it.
                self._gap = max(self._gap, min(loop.time() - self._last, _GATHER_MAX))
                self._said = (status.observed_generation, status.entries)
                self._writer.metrics.status_writes.labels("written").inc()
            except NotFoundError:
                log.info("a slice is gone while its status was written")
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
        """Wait until the next write is due: now for an urgent change after a quiet time, else a little later."""
        while not self._closing:
            now = loop.time()
            # Those that wait for the budget go on together: which of them is written does not depend on their speed.
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
        await asyncio.sleep(0)  # what the same event changed goes with it
        self._bucket.take(loop.time())

    def _compose(self) -> tuple[SliceStatus, int]:
        """What is to be said, and the bytes of the object then."""
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
            entries=entries,
        )
        return status, self._spec_size + size + _ENVELOPE

    def _enter(self, child_id: str, text: str | None) -> None:
        """Take a child's report, None where it has none, and count how often that of this incarnation has changed."""
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
        """PUT with the version last seen; on a conflict a JSON Patch of the status alone, tested for uid and holder."""
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
                    continue  # no status to test for: once more on the version just read
                patch = [
                    {"op": "test", "path": "/metadata/uid", "value": item.metadata.uid},
                    # Ours, or an earlier agent's that nobody has replaced since.
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
        """Raises ApiError where another holder has answered a slice that this agent has answered before.

        A newer agent's status stands: this one will see at its next renewal that the Lease is another's. Once the
        Lease has been renewed since, the answer was nobody's (a hand edit), and is replaced.
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
    """Wait for the event, but no longer than this."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
