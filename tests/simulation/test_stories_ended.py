"""Children that have ended for good, and whose members leave: nothing starts them again."""

from __future__ import annotations

import asyncio

import pytest
from memoryapi import Json
from memoryrequests import Key

from processhub.api.reasons import State

from .machines import Run
from .naming import HUB
from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover
MOVE = {"onRestart": "Move"}
CHILD = Key("children", "ns", "c0")


def leave(told: Story, member: str, how: str) -> None:
    """Have a member drained, lost or scaled away."""
    match how:
        case "drained":
            told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": member}}})
        case "lost":
            told.pod(member).container.kill()
        case "scaled away":
            told.world.edit(HUB, {"spec": {"members": {"replicas": 1}}})


@pytest.mark.parametrize("leader", ["stays", "ends as the move begins", "ends as the source is left"])
@pytest.mark.parametrize("how", ["drained", "lost", "scaled away"])
def test_a_child_that_has_finished_is_not_started_by_its_next_member(how: str, leader: str) -> None:
    """Only its former member's report said that it had ended: a one-off job ran twice after a drain."""

    async def story(told: Story) -> None:
        def node() -> Json:
            shown: Json = told.world.server.get("children", "c0")["status"]["nodes"][0]
            return shown

        if told.running("hub-1") == 0:
            told.world.edit(CHILD, {"metadata": {"annotations": {"processhub.dev/move-to": "hub-1"}}})
        await told.until(lambda: (node()["name"], node()["state"]) == ("hub-1", State.RUNNING))
        before = node()["startedAt"]
        await told.finish("c0")
        leave(told, "hub-1", how)
        if leader != "stays":
            await told.until(lambda: told.entry_on("hub-0", "c0"))
            if leader == "ends as the source is left":
                await told.until(lambda: len(told.slices_of("c0")) == 1)
            for operator in told.world.operators:
                operator.process.kill()
        await told.until(lambda: (node()["name"], node()["state"]) == ("hub-0", State.STOPPED))
        assert (node()["lastExit"], node()["startedAt"]) == ("exit code 0", before)

    tell(hub(migration=MOVE), 1, story)


@pytest.mark.parametrize("strategy", ["ColdSwap", "HotSwap"])
def test_a_child_that_finishes_while_it_is_moved_is_not_started_by_its_next_member(strategy: str) -> None:
    async def story(told: Story) -> None:
        run = told.run("c0")
        assert isinstance(run, Run)
        there = "hub-1" if run.member == "hub-0" else "hub-0"
        told.world.edit(CHILD, {"spec": {"restartPolicy": "Temporary"}})
        await told.until(lambda: run.is_temporary)
        await asyncio.sleep(2)  # so that its member reports the next change at once
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": run.member}}})
        await told.until(lambda: told.entry_on(there, "c0"), every=0.001)
        told.world.network.weather.stall("operator-", "registryslices")
        told.world.checks.finished.finish(run, seen=False)
        await asyncio.sleep(2)
        told.world.network.weather.clear()

    tell(hub(migration={"strategy": strategy, "onRestart": "Move"}), 1, story)


def test_an_end_that_the_operator_had_not_read_counts_when_its_member_is_lost() -> None:
    """The member ended in order: its Lease was released with its last status. The operator read the Lease first."""

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert isinstance(run, Run)
        told.world.edit(CHILD, {"spec": {"restartPolicy": "Temporary"}})
        await told.until(lambda: run.is_temporary)
        told.world.network.weather.stall("operator-", "registryslices")
        member = await told.finish("c0")
        container = told.pod(member).container
        container.terminate()
        await told.until(lambda: container.ended)
        await asyncio.sleep(5)
        told.world.network.weather.clear()

    tell(hub(migration=MOVE), 2, story)


def test_an_edit_runs_it_again_after_its_member_was_lost() -> None:
    async def story(told: Story) -> None:
        member = await told.finish("c0")
        leave(told, member, "lost")
        there = "hub-1" if member == "hub-0" else "hub-0"
        await told.until(lambda: told.is_reported(there, "c0", State.STOPPED))

        told.world.edit(CHILD, {"spec": {"exec": {"command": ["edited"]}}})
        await told.until(lambda: told.run("c0"))

    tell(hub(migration=MOVE), 2, story)


@pytest.mark.parametrize("on_restart", ["Hold", "Move"])
def test_an_end_counts_that_was_reported_while_the_next_agent_waited_for_the_lease(on_restart: str) -> None:
    """That agent had read that the child ran. It went by that, and reported the child as Pending."""

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert isinstance(run, Run)
        told.world.edit(CHILD, {"spec": {"restartPolicy": "Temporary"}})
        await told.until(lambda: run.is_temporary)
        before = told.pod(run.member)
        told.world.server.end(before.key, 0)

        def waits() -> bool:
            others = [pod for pod in told.world.running_pods if pod.name == run.member and pod is not before]
            return any(pod.container.agent is not None and pod.container.agent._parts.slices.ready for pod in others)

        await told.until(waits)
        assert run.runs
        await told.finish("c0")

        await told.until(lambda: before.container.ended)
        await asyncio.sleep(30)
        assert told.world.server.get("children", "c0")["status"]["nodes"][0]["lastExit"] == "exit code 0"

    tell(hub(migration={"onRestart": on_restart, "holdSeconds": 30}), 1, story)


def test_a_child_that_has_finished_stays_so_when_its_slice_was_out_of_sight() -> None:
    async def story(told: Story) -> None:
        await told.finish("c0")
        (slice_,) = told.slices_of("c0")
        told.world.edit(slice_, {"metadata": {"labels": {"processhub.dev/hub": None}}}, "admin")
        await told.until(lambda: "processhub.dev/hub" in told.world.server.objects[slice_]["metadata"]["labels"])
        await asyncio.sleep(10)

        assert told.world.server.get("children", "c0")["status"]["nodes"][0]["state"] == State.STOPPED

    tell(hub(), 1, story)


def test_an_end_that_the_next_agent_reports_again_is_shown_again() -> None:
    """The operator saw the next agent's Lease long before its report, which was the same text as the former one's.

    So nothing in the slice seemed changed, and the child was Pending for ever.
    """

    async def story(told: Story) -> None:
        def ready() -> str:
            conditions = told.world.server.get("children", "c0")["status"]["conditions"]
            reasons: dict[str, str] = {condition["type"]: condition["reason"] for condition in conditions}
            return reasons["Ready"]

        await told.until(told.view_is_open)
        member = await told.finish("c0")
        await told.until(lambda: ready() == "Completed")
        told.world.network.weather.refused["registryslices"] = 403
        before = told.pod(member).container
        before.kill()
        await told.until(lambda: told.pod(member).container is not before)
        await asyncio.sleep(5)
        assert ready() == "Pending"

        told.world.network.weather.refused.clear()
        await told.until(lambda: ready() == "Completed")

    tell(hub(onDemand={"exec": {"command": ["x"]}}), 1, story)
