"""Small states on their way: many in one request, and none delayed for long by a silent member."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio

import pytest

from processhub.agent.peers import statesender
from processhub.agent.peers.statesender import Batch, Outgoing, Receipt, StateSender

WAITS = 40


async def test_a_member_that_was_silent_gets_later_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statesender, "_ANSWER_SECONDS", 0.1, raising=False)
    sent: list[tuple[str, ...]] = []

    async def stream(address: str, state: Outgoing) -> Receipt:
        raise AssertionError("all states here are small")

    async def batch(address: str, batch: Batch) -> tuple[Receipt, ...]:
        sent.append(tuple(state.id for state in batch.states))
        if len(sent) == 1:
            await asyncio.Event().wait()  # its machine has lost power: not even the connection ends
        return (Receipt(204),) * len(batch.states)

    carrier = StateSender(stream, batch, lambda: 0)
    first = asyncio.create_task(carrier.send("10.0.0.2", Outgoing("a", "u", 1, "", b"1", 1)))
    while not sent:
        await asyncio.sleep(0)

    async with asyncio.timeout(WAITS):
        receipt = await carrier.send("10.0.0.2", Outgoing("b", "u", 2, "", b"2", 1))

    assert receipt == Receipt(204)
    assert (await first).status == 0
    assert sent == [("a",), ("b",)]


async def test_the_last_batch_announces_no_further_states() -> None:
    """Otherwise the target reports none of them for half a second, because it awaits more."""
    sent: list[Batch] = []
    under_way = 0

    async def stream(address: str, state: Outgoing) -> Receipt:
        raise AssertionError("all states here are small")

    async def batch(address: str, batch: Batch) -> tuple[Receipt, ...]:
        sent.append(batch)
        return (Receipt(204),) * len(batch.states)

    carrier = StateSender(stream, batch, lambda: under_way)

    async def hand_over(number: int) -> None:
        nonlocal under_way
        under_way += 1
        await carrier.send("10.0.0.2", Outgoing(f"c{number}", "u", 1, "", b"1", 1))
        under_way -= 1

    async with asyncio.timeout(WAITS):
        await asyncio.gather(*(hand_over(number) for number in range(600)))

    assert [batch.more for batch in sent] == [True] * (len(sent) - 1) + [False]
    assert sum(len(batch.states) for batch in sent) == 600
    assert len(sent) > 1
