"""The member's Lease beside a main loop that is busy."""

from __future__ import annotations

import asyncio
import time

from memoryapi import MemoryApi, MemoryClient, Wire
from waiting import until

from processhub.agent.env import Environment
from processhub.agent.lease import LeaseKeeper
from processhub.api.slice import Settings

DEADLINE = 40.0
ENV = Environment("h", "ns", "uid", "h-0", "h-0", "pod-uid", "127.0.0.1", "node")


class NoDeadlines:
    """No watchdog takes the deadlines."""

    def set(self, stop_at: float, kill_at: float) -> None: ...


async def test_the_lease_is_renewed_while_the_main_loop_is_busy_and_freed_by_its_release() -> None:
    api, taken = MemoryApi(), list[int]()
    api.create("leases", {"metadata": {"name": "h.h-0"}, "spec": {"holderIdentity": ""}})

    async def connect() -> MemoryClient:
        return MemoryClient(api, Wire())

    keeper = LeaseKeeper(ENV, Settings(lease_seconds=1), NoDeadlines(), connect=connect)
    keeper.taken.listen(taken.append)
    assert keeper.alive, "it was not started yet"
    keeper.start()
    await until(lambda: taken, "the Lease")
    assert api.get("leases", "h.h-0")["spec"]["holderIdentity"] == keeper.identity

    began, before = time.monotonic(), keeper.renewals
    while keeper.renewals < before + 5:
        assert time.monotonic() - began < DEADLINE, "renewals"
        sum(range(1000))  # the main loop does nothing else
    assert keeper.held(taken[-1])
    assert keeper.alive

    await asyncio.wait_for(keeper.release(), DEADLINE)
    assert api.get("leases", "h.h-0")["spec"]["holderIdentity"] == ""
