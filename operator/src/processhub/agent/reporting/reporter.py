"""The status reporter: it writes what this member runs into the status of its slices.

Each slice has one writer, with one write in flight. The rules for writes are:

- A change for which a client may wait is written at once. Changes that follow shortly after are written together.
- Changes of a crash loop wait for a budget of bytes, so that they do not fill etcd (noise.py).
- A write takes its content from the children at the moment of writing, after the slice's newest spec was applied to
  them. So its observedGeneration is true. What an answer has shown before the watch is acknowledged when the watch has
  come so far: a slice that was deleted before is known then (docs/protocol.md, rule 7).
- Nothing is written while the Lease is not held: another agent may have started by then what this one says has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from processhub.agent.children.child import Child
from processhub.agent.children.report import reporting_slices
from processhub.agent.reporting.noise import NoiseBudget
from processhub.agent.reporting.pace import Pace
from processhub.agent.reporting.refusals import Refusals
from processhub.agent.reporting.reportwriter import ReportWriter, WriterIdentity
from processhub.agent.reporting.slicereports import SliceReports
from processhub.api.slice import RegistrySlice, SliceStatus, TlsReport, stored_bytes
from processhub.cluster.errors import ApiError, ForbiddenError, InvalidError, NotFoundError

log = logging.getLogger(__name__)
_RETRY_SECONDS, _RETRY_REFUSED_MAX = 0.5, 5.0  # after a write that was refused; doubled each time


class StatusReporter:
    """The status writers of all own slices."""

    def __init__(self, identity: WriterIdentity) -> None:
        self._identity = identity
        self._budget, self._refusals = NoiseBudget(identity.members), Refusals(identity.refused)
        self._statuses: dict[str, _SliceStatus] = {}
        self._open = False
        self._telling: asyncio.Task[None] | None = None

    def slice_changed(self, item: RegistrySlice | None, name: str, children: Iterable[Child] = ()) -> None:
        """Take an own slice as it is now, or None if it was deleted. Its spec has already been applied."""
        slice_status = self._statuses.get(name)
        if item is None:
            if slice_status is not None:
                slice_status.close()
                del self._statuses[name]
                self._refusals.ended(name)
            return
        if slice_status is None:
            slice_status = self._statuses[name] = _SliceStatus(self._identity, self._budget, self._refusals)
            slice_status.reports.dirty.update({child.id: child for child in children})
        slice_status.take(item, open_=self._open)

    def child_changed(self, child: Child, urgent: bool) -> None:
        """Mark a child whose report changed in all slices that report it."""
        names = reporting_slices(child)
        for name, slice_status in self._statuses.items():
            # Slices that no longer name the child are included: its entry is removed from them.
            if name in names or slice_status.reports.has(child.id):
                slice_status.mark(child, urgent=urgent, open_=self._open)

    def member_changed(self, first: str) -> None:
        """Report what has changed of the member as a whole, in its slice 0, whose name is ``first``."""
        if self._open and (slice_status := self._statuses.get(first)) is not None:
            slice_status.kick()

    def lease_refused(self, first: str, why: str) -> None:
        """Report in slice 0 why the Lease is refused, or "" that it is not, also if this agent has never held it."""
        self._refusals.lease = why
        slice_status = self._statuses.get(first)
        if slice_status is not None and self._open:
            slice_status.kick()
        elif slice_status is not None and self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell(slice_status))

    def asks_changed(self, first: str, urgent: bool) -> None:
        """Report for which ids this member asks, in its slice 0; at once where a request waits for that."""
        if self._open and (slice_status := self._statuses.get(first)) is not None:
            slice_status.ask(urgent=urgent)

    def look_again(self) -> None:
        """Acknowledge the slices that the watch has reached: answers to writes may have shown them before."""
        for slice_status in self._statuses.values() if self._open else ():
            slice_status.look_again()

    def open(self) -> None:
        """Start writing, beginning with all of the status: the Lease is held."""
        self._open = True
        for slice_status in self._statuses.values():
            slice_status.kick()

    async def _tell(self, slice_status: _SliceStatus) -> None:
        """Write why the Lease is refused beside the status of the agent that has held it before."""
        told = ""
        while not self._open and (why := self._refusals.lease) != told:
            try:
                await slice_status.tell(why)
                told = why
            except ApiError as error:
                log.warning("slice 0 can't say why the Lease is refused: %s", error)
                await asyncio.sleep(_RETRY_REFUSED_MAX)
        self._telling = None

    async def flush(self, seconds: float) -> None:
        """Write all changes that are not written yet, for ``seconds`` at most, and stop writing."""
        if self._telling is not None:
            self._telling.cancel()
        if not self._open:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(slice_status.settle() for slice_status in self._statuses.values()))
        for slice_status in self._statuses.values():
            slice_status.close()


class _SliceStatus:
    """The writer of one slice's status."""

    def __init__(self, identity: WriterIdentity, budget: NoiseBudget, refusals: Refusals) -> None:
        self.reports = SliceReports()
        self._identity, self._writer = identity, ReportWriter(identity, lambda: self._slice)
        self._refusals, self._logged = refusals, ""  # the last error that was logged, "" after a success
        self._pace = Pace(budget, lambda: identity.busy() or self.reports.many_start or self.reports.only_wait)
        self._item: RegistrySlice | None = None
        self._said: SliceStatus | None = None  # the last status that this agent wrote
        self._stored: SliceStatus | None = None  # that status as it was stored; None while it is being written
        self._lags = False  # the last one that was composed could not acknowledge the slice
        self._task: asyncio.Task[None] | None = None

    @property
    def _slice(self) -> RegistrySlice:
        """The slice as it was seen last."""
        assert self._item is not None
        return self._item

    def take(self, item: RegistrySlice, *, open_: bool) -> None:
        """Take a changed slice: its generation has changed or, by this agent's writes, its resourceVersion."""
        before, self._item = self._item, item
        self._check_stored()
        if before is not None and before.metadata.generation == item.metadata.generation:
            return
        self.reports.measure(item)
        if before is not None and before.spec.activation != item.spec.activation:
            self._pace.hurry(awaited=True)  # the next view is opened when all members have acknowledged that one closes
        if open_:
            # Not urgent by itself: a child that starts or ends because of it is urgent some milliseconds later, and one
            # write then reports both.
            self.kick()

    def mark(self, child: Child, *, urgent: bool, open_: bool) -> None:
        """Mark the child's entry as changed."""
        self.reports.dirty[child.id] = child
        if urgent:
            self._pace.hurry()
        if open_:
            noise = not self._pace.pressing and self.reports.is_noise(child, self._slice.metadata.name)
            self.kick(pressing=not noise)

    def kick(self, *, pressing: bool = True) -> None:
        """Have the status written soon; a change that is not ``pressing`` waits for the budget."""
        self._pace.kick(pressing=pressing)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    def look_again(self) -> None:
        """Acknowledge the slice, if the watch has come so far now."""
        if self._lags and self._identity.has_read(self._slice.metadata.name):
            self._lags = False
            self.kick()

    def ask(self, *, urgent: bool) -> None:
        """Have changed asks written."""
        if urgent:
            self._pace.hurry(awaited=True)
        self.kick()

    def close(self) -> None:
        """Stop writing."""
        if self._task is not None:
            self._task.cancel()

    async def tell(self, why: str) -> None:
        """Write why the Lease is refused, and nothing else: this agent does not hold it."""
        await self._writer.tell(why)

    async def settle(self) -> None:
        """Write without waiting for tokens until nothing is left to write, then end."""
        self._pace.close()
        self.kick()
        assert self._task is not None
        await self._task

    async def _serve(self) -> None:
        metrics, pause = self._identity.metrics, _RETRY_SECONDS
        while not self._pace.over:
            pressing = await self._pace.due()
            if not self._identity.held():
                continue  # it would prove nothing; ``open`` has it written when the Lease is held again
            try:
                status, size = self._compose()
                if self._said == status:
                    continue
                self._pace.begin(size, noise=not pressing)
                self._stored = None
                self._stored = await self._writer.write(status)
                self._pace.end()
                self._said = status
                self._check_stored()
                metrics.count_write("written")
                self._refusals.ended(self._slice.metadata.name)
                self._logged, pause = "", _RETRY_SECONDS
            except NotFoundError:
                log.info("a slice was deleted while its status was being written")
            except Exception as error:
                metrics.count_write("failed")
                name, known = self._slice.metadata.name, isinstance(error, ApiError)
                if self._logged != str(error):
                    self._logged = str(error)
                    log.warning("status of slice %s not written: %s", name, error, exc_info=None if known else error)
                if isinstance(error, ApiError):
                    self._refusals.failed(name, error, asyncio.get_running_loop().time())
                self._said = None
                await asyncio.sleep(pause)
                if isinstance(error, ForbiddenError | InvalidError):
                    pause = min(2 * pause, _RETRY_REFUSED_MAX)
                self._pace.again(pressing=pressing)

    def _check_stored(self) -> None:
        """Write again if the slice has another status than the one that was stored last.

        An earlier write, of which no answer came, may be stored late: it is no conflict if nothing has changed since.
        """
        if self._stored is not None and self._slice.status != self._stored:
            self._said = self._stored = None
            self.kick()

    def _compose(self) -> tuple[SliceStatus, int]:
        """The status to write, and the bytes that the object then takes."""
        self._pace.gathered(len(self.reports.dirty))
        index_0 = self._slice.metadata.name.endswith(".0")
        asks = self._identity.asks() if index_0 else ()
        observes = self._identity.has_read(self._slice.metadata.name)
        reports = self.reports.compose(self._slice, stored_bytes(asks), observes=observes)
        self._lags = not observes
        status = SliceStatus(
            observed_generation=self.reports.observed,
            holder=self._identity.holder,
            address=self._identity.address,
            port=self._identity.port,
            tls=self._identity.tls() if index_0 else TlsReport(),
            asks=asks,
            lease_refused=self._refusals.lease if index_0 else "",
        ).reporting(reports)
        return status, self.reports.object_bytes(status)
