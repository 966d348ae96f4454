"""Sending states to other members: small states in batches, large ones in a stream each.

One request for each of a thousand small states would cost many times what the states do. At most one batch is on its
way to a member. States that become ready meanwhile are sent with the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

SMALL_MAX = 64 * 1024  # bytes; larger states are sent as a stream
_BATCH_BYTES = 1024 * 1024
_BATCH_STATES = 256
_STREAMS = 4  # large states that are sent at a time
_ANSWER_SECONDS = 10.0  # time limit of a batch


Content = bytes | Path  # A state on this member, in memory or in a file.


class Outgoing(msgspec.Struct, frozen=True):
    """A state of ``size`` bytes, and the waiting entry that it is sent to."""

    id: str
    uid: str
    epoch: int
    checksum: str
    content: Content
    size: int


class SmallState(msgspec.Struct, frozen=True, array_like=True):
    """A small state, as it is sent in a batch."""

    id: str
    uid: str
    epoch: int
    checksum: str
    state: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """A batch of small states; ``more``: others follow soon."""

    states: tuple[SmallState, ...]
    more: bool = False


class Receipt(msgspec.Struct, frozen=True, array_like=True):
    """The target's answer for one state: status 204 if it has taken it, else an HTTP status and a detail.

    Status 0 means that there was no answer.
    """

    status: int
    detail: str = ""


Pending = tuple[Outgoing, asyncio.Future[Receipt]]


class StateSender:
    """Sends states to other members.

    ``stream(address, state)`` sends one state. ``batch(address, batch)`` sends several and returns their receipts in
    order. ``under_way()`` is the number of states that are being sent or are about to be.
    """

    def __init__(
        self,
        stream: Callable[[str, Outgoing], Awaitable[Receipt]],
        batch: Callable[[str, Batch], Awaitable[tuple[Receipt, ...]]],
        under_way: Callable[[], int],
    ) -> None:
        self._stream, self._batch, self._under_way = stream, batch, under_way
        self._waiting: dict[str, deque[Pending]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._streams = asyncio.Semaphore(_STREAMS)
        self._loop = asyncio.get_running_loop()

    async def send(self, address: str, state: Outgoing) -> Receipt:
        """Send the state; returns the receipt of the member at the address. Cancelling the call gives the state up."""
        if state.size > SMALL_MAX:
            async with self._streams:
                return await self._stream(address, state)
        receipt: asyncio.Future[Receipt] = self._loop.create_future()
        self._waiting.setdefault(address, deque()).append((state, receipt))
        if address not in self._tasks:
            self._tasks[address] = self._loop.create_task(self._serve(address))
        return await receipt

    async def _serve(self, address: str) -> None:
        """Send batches until no state waits for this member."""
        waiting = self._waiting[address]
        pending: list[Pending] = []
        try:
            await asyncio.sleep(0)  # states that the same event made ready are sent with it
            while waiting:
                states, pending = _packed(waiting)
                if states:
                    answers = await self._carry(address, states)
                    for (_, receipt), answer in zip(pending, answers, strict=True):
                        _settle(receipt, answer)
                    await asyncio.sleep(0)  # what waited for these receipts goes on: it is under way no more
        finally:
            del self._tasks[address], self._waiting[address]
            for _, receipt in (*pending, *waiting):
                _settle(receipt, Receipt(0, "it was not sent"))

    async def _carry(self, address: str, states: tuple[SmallState, ...]) -> tuple[Receipt, ...]:
        """Send a batch; returns a receipt for each state, even if the member does not answer in time."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._batch(address, Batch(states, more=self._under_way() > len(states)))
        except TimeoutError:
            return (Receipt(0, f"no answer within {_ANSWER_SECONDS:g} s"),) * len(states)


def _packed(waiting: deque[Pending]) -> tuple[tuple[SmallState, ...], list[Pending]]:
    """Take as many waiting states as fit into one batch. States whose sender has given up are skipped."""
    states: list[SmallState] = []
    packed: list[Pending] = []
    room = _BATCH_BYTES
    while waiting and len(packed) < _BATCH_STATES and waiting[0][0].size <= room:
        state, receipt = waiting.popleft()
        if receipt.done():
            continue
        try:
            content = state.content if isinstance(state.content, bytes) else state.content.read_bytes()
        except OSError as error:
            _settle(receipt, Receipt(0, f"{error.strerror}: {error.filename}"))
            continue
        room -= state.size
        states.append(SmallState(state.id, state.uid, state.epoch, state.checksum, content))
        packed.append((state, receipt))
    return tuple(states), packed


def _settle(receipt: asyncio.Future[Receipt], answer: Receipt) -> None:
    if not receipt.done():
        receipt.set_result(answer)
