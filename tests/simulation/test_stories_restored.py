"""What operator and agents do where etcd is restored to an earlier time while they run."""

from __future__ import annotations

from random import Random

import pytest
from memoryrequests import Key

from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover


def test_an_agent_does_not_start_what_its_slice_has_again_by_a_restore() -> None:
    """Its report was stored over the restored slice, which had the entry of a child that had left meanwhile.

    The answer had a lower generation than the slice that the agent knew, and its next owner ran it.
    """

    async def story(told: Story) -> None:
        world = told.world
        own = [run.child_id for run in world.checks.runs if run.member == "hub-0"]
        leaving, staying = own[:2]
        world.edit(Key("children", "ns", leaving), {"metadata": {"annotations": {"processhub.dev/move-to": "hub-1"}}})
        await told.until(lambda: told.entry_on("hub-0", leaving) is None, every=0.0005)
        removed = int(world.server.get("registryslices", "hub.hub-0.0")["metadata"]["resourceVersion"])
        await told.until(lambda: (run := told.run(leaving)) is not None and run.member == "hub-1", every=0.0005)

        world.restore(removed - 1, others=30)
        run = told.run(staying)
        assert run is not None
        run.crash()
        await told.until(lambda: told.run(leaving) is None, every=0.0005)

    tell(hub(), 6, story)


def test_a_pod_of_a_member_that_is_back_by_a_restore_waits_until_what_ran_meanwhile_has_ended() -> None:
    """Its Lease named it as the holder. It took that at once, as a restarted container does, beside the next pod."""

    async def story(told: Story) -> None:
        world, former, version = told.world, told.pod("hub-0"), told.world.server.version
        own = [run.child_id for run in world.checks.runs if run.member == "hub-0"]
        assert own
        world.server.end(former.key)
        await told.until(lambda: former.gone and told.running("hub-0") == len(own))

        told.pod("hub-0").cut()
        world.restore(version, others=50)
        back = next(pod for pod in world.running_pods if pod.uid == former.uid)
        await told.until(lambda: any(run.where == back.container.process.name for run in world.checks.runs))

    tell(hub(), 6, story)


def test_a_member_that_waits_after_a_restore_is_not_ready_and_takes_no_requests() -> None:
    """It ran nothing for as long as that, and was Ready: requests waited there until it ended, and got no answer."""

    async def story(told: Story) -> None:
        world = told.world
        version = world.server.version
        await told.answered("d0", "hub-0")
        await told.until(lambda: told.slices_of("d0"))
        world.restore(version, others=30)
        await told.until(lambda: not world.checks.runs)
        container = told.pod("hub-0").container
        assert container.process.runs
        assert not container.ready
        answers: list[str] = []
        world.callers.call("d1", Random(1), answers.append, member="hub-0")
        await told.until(lambda: answers, seconds=1)
        assert answers[0].startswith("503 not_ready")

    spec = hub(onDemand={"exec": {"command": ["x"]}}, migration={"onRestart": "Move"})
    tell(spec, 2, story)
