"""Handover of the state of children that move (HotSwap), on both members (docs/protocol.md, rules 20 and 21).

A handover takes four steps:

1. The operator orders it in the source's entry, and writes a waiting entry for the target.
2. The source ends the child, which writes its state.
3. The source sends the state to the target, and keeps it until the target runs the child.
4. The operator makes the target's entry startable, and the target starts the child with the state.

A child ends before its state is sent, whatever its workload: an actor with tasks of its own could otherwise go on
acting. If the move fails, the source starts the child again with the state that it kept. Small states of actors are
kept in memory: files for a thousand of them cost more than the rest of their handovers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import xxhash

from processhub.agent.children.child import Child
from processhub.agent.children.childhost import ChildNews
from processhub.agent.children.runs import ExitStatus
from processhub.agent.env import Environment
from processhub.agent.frames import STATE_IN_MESSAGE_MAX
from processhub.agent.handover.heldstates import HeldState, HeldStates
from processhub.agent.handover.reports import report_kept, report_lost, report_received, report_sent
from processhub.agent.peers.link import PeerLink
from processhub.agent.peers.statesender import SMALL_MAX, Batch, Content, Outgoing, Receipt, SmallState, StateSender
from processhub.agent.problems import Problem
from processhub.agent.registry import lookup
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.api.child import Exec, PodWorkload
from processhub.api.reasons import State
from processhub.registry.grammar import Assignment, HandoverOrder

log = logging.getLogger(__name__)
STATE_MAX = 64 * 1024 * 1024  # bytes
_LAST_SECONDS = 15  # for a handover in a hub that begins none any more
_AGAIN_SECONDS = 0.05  # until a target is asked again that has not read its entry yet or can't be reached
_CHUNK = 256 * 1024
_FINAL = (400, 401, 403, 413)  # statuses that another attempt won't change
_MANY = 8  # with more states than this under way, reports are delayed a little, so that one write carries many
_MORE_SECONDS = 0.5  # how long further states are awaited after a source announced them


class HandoverRefusedError(Exception):
    """A state that the target refuses, or that can't be sent. The message says why."""


class Handovers:
    """The handovers of this member, both as source and as target. ``children`` are its children, by id."""

    def __init__(self, env: Environment, slices: SliceWatcher, peers: PeerLink, children: Mapping[str, Child]) -> None:
        self._env, self._slices, self._children = env, slices, children
        self._states = HeldStates(env.run_dir / "handover")
        # By id, for children that are to end: "", or why there is no state.
        self._ends: dict[str, asyncio.Future[str]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._hitches: dict[str, str] = {}  # by id: why the target has not taken the state so far
        self._under_way = 0  # how many of those tasks are not done
        self._more_until = 0.0  # until then, more states are expected from a source that announced them
        self._starting: set[str] = set()  # ids of children that are being started with a state
        self._doubtful: dict[str, Child] = {}  # by id: children for which an earlier agent may have received a state
        self._looking = False
        self._loop = asyncio.get_running_loop()
        self._sender = StateSender(peers.send_state, peers.send_states, lambda: self._under_way)

    def listen_to(self, news: ChildNews[Child]) -> None:
        """Subscribe to the events of this member's children."""
        news.handover_ordered.listen(self.begin)
        news.handover_declined.listen(self.stays)
        news.quiesced.listen(self.quiesced)
        news.replaced.listen(self.replace)
        news.left.listen(self.keep)
        news.adopted.listen(self.adopt)
        news.started.listen(self.started)
        news.gone.listen(self.forget)

    def busy(self) -> bool:
        """Whether more reports of handovers will follow soon, because many are under way."""
        many = self._under_way > _MANY or len(self._starting) > _MANY
        return many or self._loop.time() < self._more_until

    # The source's side.

    def begin(self, child: Child, desired: DesiredRun) -> None:
        """Begin the handover of the child's state that its entry orders."""
        if (task := self._tasks.pop(child.id, None)) is not None:
            task.cancel()
        self._tasks[child.id] = self._loop.create_task(self._hand_over(child, desired))

    def stays(self, child: Child) -> None:
        """Fail the handover of a child that declined to be moved."""
        self._end(child.id, "refused")

    def replace(self, child: Child) -> None:
        """End an edited or suspended child so that it leaves its state for its next run on this member.

        A handover that was ordered is given up.
        """
        if (task := self._tasks.pop(child.id, None)) is not None:
            task.cancel()
        try:
            path = self._path(child)
        except OSError as error:
            # Otherwise the changes of all other children would be lost with this one.
            log.error("its state can't be kept for its next run: %s", error, extra={"child": child.id})
            child.stop(child.limits.stop_seconds)
        else:
            child.leave_state(path)

    def keep(self, child: Child, exit_status: ExitStatus) -> bool:
        """Keep the state that the child left at its end, if any, until it runs; returns whether it left one."""
        desired, path = child.desired, self._states.own_path(child.id)
        if desired is None or (exit_status.state is None and not path.exists()):
            return False
        content = path if exit_status.state is None else exit_status.state
        self._states.left[child.id] = HeldState(desired.assignment.uid, content)
        return True

    def adopt(self, child: Child, uid: str) -> None:
        """Keep the states of a child for the object that has it now, instead of the one with this uid."""
        assert child.desired is not None
        self._states.adopt(child.id, uid, child.desired.assignment.uid)

    def quiesced(self, child: Child, exit_status: ExitStatus) -> None:
        """Take the state that the child left at its end for a handover."""
        desired = child.desired
        if self.keep(child, exit_status):
            self._end(child.id, "")
        else:
            stateless = desired is None or isinstance(desired.workload, Exec)
            log.info("left no state: %s", exit_status.text, extra={"child": child.id})
            self._end(child.id, "stateless" if stateless else "failed")

    def _end(self, child_id: str, why: str) -> None:
        ended = self._ends.pop(child_id, None)
        if ended is not None and not ended.done():
            ended.set_result(why)

    async def _hand_over(self, child: Child, desired: DesiredRun) -> None:
        order = HandoverOrder.parse(desired.assignment.to)
        target = order.member
        seconds = self._slices.settings.handover_seconds or _LAST_SECONDS
        self._under_way += 1
        try:
            async with asyncio.timeout(seconds):
                why = await self._quiesced(child, desired, ask=not order.must)
                if why:
                    report_kept(child, why)
                    return
                held = self._held(child, desired.assignment)
                assert held is not None
                checksum = await self._send(child.id, order, held)
            report_sent(child, checksum)
        except TimeoutError:
            why = self._hitches.get(child.id, "it has not ended")
            log.warning("not handed over to %s within the time: %s", target, why, extra={"child": child.id})
            report_kept(child, "failed", f"not handed over within {seconds} s: {why}")
        except (HandoverRefusedError, OSError) as error:
            log.warning("not handed over to %s: %s", target, error, extra={"child": child.id})
            report_kept(child, "failed", str(error))
        finally:
            self._under_way -= 1

    async def _quiesced(self, child: Child, desired: DesiredRun, *, ask: bool) -> str:
        """Wait until the child has ended; returns "" if its state is here, else why there is none."""

        def has_state() -> bool:
            return self._held(child, desired.assignment) is not None

        # The child may be starting with a state that it left here or that came with it, or be ending without having
        # been up with it.
        while child.alive and (child.status.state == State.STARTING or has_state()):  # noqa: ASYNC110 bounded by the time for all of it
            await asyncio.sleep(_AGAIN_SECONDS)
        if not child.alive:
            return "" if has_state() else "stateless"
        if isinstance(desired.workload, PodWorkload) or (
            child.status.state != State.RUNNING and not child.handover.leaving
        ):
            return "stateless"
        ended: asyncio.Future[str] = self._loop.create_future()
        self._ends[child.id] = ended
        child.quiesce(self._path(child), ask=ask)
        return await ended

    def _path(self, child: Child) -> Path:
        """The path at which the child is to leave its state. One that is leaving may have written it, and soon end."""
        return self._states.own_path(child.id) if child.handover.leaving else self._states.fresh_path(child.id)

    async def _send(self, child_id: str, order: HandoverOrder, held: HeldState) -> str:
        """Send the state until the target has it; returns its checksum. Raises HandoverRefusedError."""
        content = held.content
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size > STATE_MAX:
            raise HandoverRefusedError(f"its state has {size} bytes, the limit is {STATE_MAX}")
        checksum = _checksum(content) if size <= SMALL_MAX else await asyncio.to_thread(_checksum, content)
        state = Outgoing(child_id, held.uid, order.epoch, checksum, content, size)
        while True:
            receipt = Receipt(0, "its address is not known")
            if address := lookup.address_of(self._slices.registry(), order.member):
                receipt = await self._sender.send(address, state)
            if receipt.status == 204:
                return checksum
            if receipt.status in _FINAL:
                raise HandoverRefusedError(receipt.detail)
            self._hitches[child_id] = receipt.detail
            await asyncio.sleep(_AGAIN_SECONDS)

    # The target's side.

    async def receive(self, child_id: str, uid: str, epoch: int, checksum: str, body: AsyncIterator[bytes]) -> None:
        """Receive the state for a waiting entry as a stream.

        Raises Problem: 409 if no such entry waits (yet), 400 if the checksum is wrong, 413 if the state is too large.
        """
        if (child := self._waiting(child_id, uid, epoch)) is None:
            raise Problem(409, "stale_epoch", f"no entry of epoch {epoch} waits on {self._env.member}")
        digest, size = xxhash.xxh3_128(), 0
        with self._states.receiving(child_id, epoch) as (path, scratch):
            with scratch.open("wb") as file:
                async for chunk in body:
                    size += len(chunk)
                    if size > STATE_MAX:
                        raise Problem(413, "bad_request", f"a state has at most {STATE_MAX} bytes")
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != checksum:
                raise Problem(400, "bad_request", "the state is not what its checksum says")
            if self._waiting(child_id, uid, epoch) is not child:
                raise Problem(409, "stale_epoch", f"no entry of epoch {epoch} waits on {self._env.member} any more")
            scratch.replace(path)
        self._states.receive(child_id, HeldState(uid, path, checksum))
        report_received(child, checksum)

    def take(self, batch: Batch) -> tuple[Receipt, ...]:
        """Receive a batch of small states; returns a receipt for each, in order."""
        receipts = tuple(map(self._take, batch.states))
        self._more_until = self._loop.time() + _MORE_SECONDS if batch.more else 0.0
        return receipts

    def _take(self, state: SmallState) -> Receipt:
        """Receive a small state for a waiting entry."""
        if (child := self._waiting(state.id, state.uid, state.epoch)) is None:
            return Receipt(409, f"no entry of epoch {state.epoch} waits on {self._env.member}")
        if xxhash.xxh3_128_hexdigest(state.state) != state.checksum:
            return Receipt(400, "the state is not what its checksum says")
        content: Content = state.state
        if len(state.state) > STATE_IN_MESSAGE_MAX:
            try:
                with self._states.receiving(child.id, state.epoch) as (content, scratch):
                    scratch.write_bytes(state.state)
                    scratch.replace(content)
            except OSError as error:
                return Receipt(500, f"it can't be kept on {self._env.member}: {error.strerror}")
        self._states.receive(child.id, HeldState(state.uid, content, state.checksum))
        report_received(child, state.checksum)
        return Receipt(204)

    def _waiting(self, child_id: str, uid: str, epoch: int) -> Child | None:
        """The child, if an entry of this uid and epoch waits here."""
        child = self._children.get(child_id)
        entry = child.desired.assignment if child is not None and child.desired is not None else None
        if entry is None or not entry.wait or (entry.uid, entry.epoch) != (uid, epoch):
            return None
        return child

    # Both sides: the start of the child.

    def state_for(self, child: Child, desired: DesiredRun) -> Content | None:
        """The state to start the child with, or None to start it without one."""
        held = self._held(child, desired.assignment)
        if held is None:
            return None
        if held.checksum:
            self._starting.add(child.id)
        return held.content

    def _held(self, child: Child, entry: Assignment) -> HeldState | None:
        """The state that is here for a start by this entry, or None.

        An entry that names none follows a waiting one whose source was lost: what arrived for that one counts.
        """
        return self._states.find(child.id, entry.uid, entry.state or child.handover.received)

    def lacks(self, child: Child) -> bool:
        """Whether the child needs a state that is not on this member, while the source that has it is on record.

        This happens after this member's agent restarted. If no source is on record, there is nothing to wait for.
        """
        desired = child.desired
        entry = desired.assignment if desired is not None else None
        if entry is None or not entry.state or self._held(child, entry) is not None:
            return False
        if self._sent_for(child.id, entry) is None:
            return False
        self._doubtful[child.id] = child
        return True

    def follow(self, children: Iterable[Child]) -> None:
        """Watch the waiting children that this agent finds: an earlier agent may have received states for them."""
        waiting = (child for child in children if child.desired is not None and child.desired.assignment.wait)
        self._doubtful.update({child.id: child for child in waiting})
        self.registry_changed()

    def registry_changed(self, *_: object) -> None:
        """Check the children whose state may be lost: a source may have reported it sent, or may be gone."""
        if self._doubtful and not self._looking:
            self._looking = True
            # Deferred, so that a list which arrives object by object is complete by then.
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        for child in list(self._doubtful.values()):
            entry = child.desired.assignment if child.desired is not None else None
            if entry is None or not entry.wait or child.id in self._states.received:
                del self._doubtful[child.id]
                child.advance()  # if the start is refused again, the child is recorded again
            elif self._sent_for(child.id, entry) == entry.epoch:
                del self._doubtful[child.id]
                report_lost(child)

    def _sent_for(self, child_id: str, entry: Assignment) -> int | None:
        """For which entry the state was sent here; None if no entry on record orders a handover to this member."""
        return lookup.sent_for(self._slices.registry(), child_id, entry.uid, self._env.member)

    def started(self, child: Child, *_: object) -> None:
        """Discard the state of a child that runs now. After a crash it starts without that state."""
        self._starting.discard(child.id)
        self._states.discard(child.id)

    def forget(self, child: Child) -> None:
        """Discard everything about a child that was removed from this member."""
        if (task := self._tasks.pop(child.id, None)) is not None:
            task.cancel()
        self._ends.pop(child.id, None)
        self._hitches.pop(child.id, None)
        self.started(child)


def _checksum(content: Content) -> str:
    if isinstance(content, bytes):
        return xxhash.xxh3_128_hexdigest(content)
    digest = xxhash.xxh3_128()
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
