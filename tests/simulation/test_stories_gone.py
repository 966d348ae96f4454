"""Members that seem gone because a watch lags, each as the shortest run that shows the fault."""

from __future__ import annotations

import asyncio

import pytest

from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover
_LEASE_IS_OVER = 12  # seconds after the last renewal that the operator's watch showed


@pytest.mark.parametrize("led", [True, False])
def test_a_member_whose_slices_are_deleted_is_gone_only_by_a_read_of_its_lease(*, led: bool) -> None:
    """The watches of the member's slices and of the operator's Leases delivered nothing.

    No slice had a child of the member, so its Lease was not read, and its children were started on another. With
    ``led`` an operator sees the deletion, and may not write a new slice. Without, the next leader writes one.
    """

    async def story(told: Story) -> None:
        server, weather = told.world.server, told.world.network.weather
        (deleted,) = told.slices_of("c0")
        run = told.run("c0")
        assert run is not None
        weather.stall(run.member, "registryslices")
        before = server.objects[deleted]["spec"]["term"]
        if led:
            weather.refused["registryslices"] = 403
        else:
            for operator in told.world.operators:
                operator.process.kill()
        server.end(deleted)
        if not led:
            await told.until(lambda: deleted in server.objects and server.objects[deleted]["spec"]["term"] > before)
        weather.stall("operator-", "leases")
        await asyncio.sleep(_LEASE_IS_OVER)
        weather.refused.clear()
        await asyncio.sleep(_LEASE_IS_OVER)
        assert told.run("c0") is run

    tell(hub(), 4, story)
