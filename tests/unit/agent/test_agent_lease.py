"""The member's Lease: how long it is valid, and its renewal beside a busy main loop."""

from __future__ import annotations

import asyncio
import time

import virtualtime
from memoryapi import MemoryApi, MemoryClient, Wire
from onethread import SameLoop
from waiting import until

from processhub.agent.env import Environment
from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.lease.trouble import LeaseTrouble
from processhub.agent.lease.validity import Renewal, Validity
from processhub.api.naming import ANNOTATION_REFUSED
from processhub.api.slice import Settings
from processhub.cluster.errors import ForbiddenError, UnavailableError

DEADLINE = 40.0
ENV = Environment("h", "ns", "uid", "h-0", "h-0", "pod-uid", "127.0.0.1", "node")


class NoDeadlines:
    """No watchdog takes the deadlines."""

    def set(self, stop_at: float, kill_at: float) -> None: ...


async def test_the_lease_is_renewed_while_the_main_loop_is_busy_until_it_is_released() -> None:
    api, taken = MemoryApi(), list[int]()
    api.create("leases", {"metadata": {"name": "h.h-0"}, "spec": {"holderIdentity": ""}})

    async def connect() -> MemoryClient:
        return MemoryClient(api, Wire())

    # Long enough that it does not expire on a busy machine.
    keeper = LeaseKeeper(ENV, Settings(lease_seconds=5), NoDeadlines(), connect=connect)
    keeper.taken.listen(taken.append)
    assert keeper.alive, "it was not started yet"
    keeper.start()
    await until(lambda: taken, "the Lease")
    assert api.get("leases", "h.h-0")["spec"]["holderIdentity"] == keeper.identity

    began, before = time.monotonic(), keeper.renewals
    while keeper.renewals < before + 2:
        assert time.monotonic() - began < DEADLINE, "renewals"
        sum(range(1000))  # the main loop does nothing else
    assert keeper.held(taken[-1])
    assert keeper.alive

    await asyncio.wait_for(keeper.release(), DEADLINE)
    assert api.get("leases", "h.h-0")["spec"]["holderIdentity"] == ""


async def test_settings_that_change_and_change_back_at_once_are_the_last_ones() -> None:
    api = MemoryApi()
    api.create("leases", {"metadata": {"name": "h.h-0"}, "spec": {"holderIdentity": ""}})

    async def connect() -> MemoryClient:
        return MemoryClient(api, Wire())

    keeper = LeaseKeeper(ENV, Settings(lease_seconds=15), NoDeadlines(), connect=connect, place=SameLoop())
    keeper.start()
    keeper.apply(Settings(lease_seconds=9))
    keeper.apply(Settings(lease_seconds=15))
    await until(lambda: keeper.renewals, "a renewal")

    assert api.get("leases", "h.h-0")["spec"]["leaseDurationSeconds"] == 15
    await keeper.release()


class Clock:
    """A clock that moves only in the test, and the latest deadlines."""

    def __init__(self) -> None:
        self.now = 100.0
        self.fed = (0.0, 0.0)

    def __call__(self) -> float:
        return self.now

    def set(self, stop_at: float, kill_at: float) -> None:
        self.fed = (stop_at, kill_at)


async def test_renewals_say_why_reports_are_not_stored_until_they_are() -> None:
    api = MemoryApi()
    metadata = {"name": "h.h-0", "annotations": {ANNOTATION_REFUSED: "by an earlier agent", "other": "kept"}}
    api.create("leases", {"metadata": metadata, "spec": {"holderIdentity": ""}})

    async def connect() -> MemoryClient:
        return MemoryClient(api, Wire())

    def annotations() -> dict[str, str]:
        return api.get("leases", "h.h-0")["metadata"]["annotations"]

    keeper = LeaseKeeper(ENV, Settings(lease_seconds=1), NoDeadlines(), connect=connect, place=SameLoop())
    keeper.start()
    await until(lambda: annotations() == {"other": "kept"}, "the first write")
    keeper.set_refused("slices are kept here")
    await until(lambda: annotations().get(ANNOTATION_REFUSED) == "slices are kept here", "a renewal")
    keeper.set_refused("")
    await until(lambda: annotations() == {"other": "kept"}, "another renewal")
    await keeper.release()


@virtualtime.timed
async def test_a_renewal_without_an_answer_is_tried_again_at_once() -> None:
    loop, api, wire, began = asyncio.get_running_loop(), MemoryApi(), Wire(), list[float]()
    api.create("leases", {"metadata": {"name": "h.h-0"}, "spec": {"holderIdentity": ""}})

    async def connect() -> MemoryClient:
        began.append(loop.time())
        return MemoryClient(api, wire)

    keeper = LeaseKeeper(
        ENV, Settings(lease_seconds=5), NoDeadlines(), connect=connect, place=SameLoop(), clock=loop.time
    )
    keeper.start()
    await asyncio.sleep(1.5)
    assert keeper.renewals == 2
    wire.whole.clear()
    await asyncio.sleep(1.6)

    assert [round(at, 1) for at in began] == [0.0, 3.0], "a renewal was due at 2, and its answer at 3"
    wire.whole.set()
    await keeper.release()


def test_only_what_the_api_server_refuses_is_told_until_the_lease_is_written() -> None:
    told: list[str] = []
    trouble = LeaseTrouble(told.append)

    trouble.failed(TimeoutError())
    trouble.failed(UnavailableError(503, "Unavailable", "down"))
    assert (told, trouble.missed) == ([], 2)

    for _ in range(2):
        trouble.failed(ForbiddenError(403, "Forbidden", "leases are\nkept here"))
    trouble.ended()
    assert (told, trouble.missed) == (["leases are kept here", ""], 0)


def test_only_a_renewal_sent_after_the_expiry_starts_a_new_session() -> None:
    clock = Clock()
    lease = Validity(Settings(lease_seconds=15), clock, clock)
    assert not lease.holds(0), "it was never taken"
    assert lease.renew(100.0, 15, taken=True) is Renewal.ANEW
    clock.now = 114.0
    assert lease.holds(1)
    assert lease.renew(113.0, 15, taken=False) is Renewal.IN_TIME

    clock.now = 128.5
    assert not lease.holds(1)
    assert lease.renew(127.0, 15, taken=False) is Renewal.LATE
    assert lease.holds(1)

    clock.now = 142.5
    assert lease.renew(142.0, 15, taken=False) is Renewal.ANEW
    assert lease.holds(2)
    assert not lease.holds(1), "what was permitted in the earlier session needs a new permit"

    lease.lose()
    assert not lease.holds(2)


def test_with_fencing_children_are_stopped_at_two_thirds_and_killed_a_second_before_the_end() -> None:
    clock = Clock()
    lease = Validity(Settings(lease_seconds=15, fence=True), clock, clock)
    lease.renew(100.0, 15, taken=True)
    assert clock.fed == (110.0, 114.0)

    lease.apply(Settings(lease_seconds=60, fence=True))
    assert clock.fed == (110.0, 114.0), "observers wait no longer than the last renewal says"
    clock.now = 111.0
    assert not lease.holds(1)
    assert lease.renew(109.0, 60, taken=False) is Renewal.LATE
    assert clock.fed == (149.0, 168.0)

    lease.apply(Settings(lease_seconds=6, fence=True))
    assert clock.fed == (113.0, 114.0)
    lease.apply(Settings(lease_seconds=6))
    assert clock.fed == (0, 0), "without fencing the watchdog has no deadline"
