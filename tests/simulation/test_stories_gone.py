"""Members that seem gone because a watch lags, each as the shortest run that shows the fault."""

from __future__ import annotations

import asyncio

import pytest
from memoryrequests import Key

from processhub.api.reasons import State

from .hands import Hands
from .naming import HUB, LEADER, NODES
from .serving import Asked
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


@pytest.mark.parametrize("on_restart", ["Hold", "Move"])
@pytest.mark.parametrize("trace", ["pod", "status"])
def test_a_member_whose_slices_and_lease_were_deleted_before_an_operator_led_is_waited_for(
    trace: str, on_restart: str
) -> None:
    """The next leader knew of no holder, and started its children on another member at once.

    The member was cut off, and ran them until its Lease would have expired. There was its pod, or none: the Hub's
    status still named the member then.
    """

    async def story(told: Story) -> None:
        server = told.world.server
        run = told.run("c0")
        assert run is not None
        member = run.machine.member
        for operator in told.world.operators:
            operator.process.kill()
        await asyncio.sleep(5)  # until their containers have started again
        told.pod(member).wire.whole.clear()
        for key in (*told.slices_of("c0"), Key("leases", "ns", f"hub.{member}"), LEADER):
            server.end(key)
        if trace == "status":
            for node in NODES:
                told.world.cordon(node, unschedulable=True)  # so that no other pod takes its place
            server.end(Key("pods", "ns", member), 0)
        await told.until(lambda: (now := told.run("c0")) and now is not run, seconds=_LEASE_IS_OVER)

    migration = {"onRestart": on_restart, "holdSeconds": 30}
    tell(hub(migration=migration), 4, story)


def test_a_member_without_children_counts_for_the_quorum_until_its_lease_is_read() -> None:
    """The operator's watch of Leases delivered nothing. Nothing could run on the member, so its Lease was not read.

    The hub had too few members then, and its child was stopped.
    """

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert run is not None
        told.world.network.weather.stall("operator-", "leases")
        await asyncio.sleep(2 * _LEASE_IS_OVER)
        assert told.run("c0") is run

    tell(hub(partitionTolerance={"strategy": "StaticQuorum", "quorumSize": 2}), 1, story)


@pytest.mark.parametrize("children", [1, 4])
def test_a_member_whose_lease_cannot_be_read_counts_for_the_quorum(children: int) -> None:
    """It was held, as nothing was known of it. The hub had too few live members then, and its children were stopped."""

    async def story(told: Story) -> None:
        runs = list(told.world.checks.runs)
        weather = told.world.network.weather
        weather.stall("operator-", "leases")
        for member in ("hub-0", "hub-1"):
            weather.rates["", f"read of hub.{member}"] = 1.0
        await asyncio.sleep(2 * _LEASE_IS_OVER)
        assert list(told.world.checks.runs) == runs

    tell(hub(partitionTolerance={"strategy": "StaticQuorum", "quorumSize": 2}), children, story)


def test_a_lease_that_is_deleted_while_its_watch_lags_is_no_proof_that_its_member_has_ended() -> None:
    """The operator had not seen the last renewals. It read that there was no Lease, and took the member for gone."""

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert run is not None
        told.world.network.weather.stall("operator-", "leases")
        await asyncio.sleep(_LEASE_IS_OVER - 4)
        told.world.server.end(Key("leases", "ns", f"hub.{run.machine.member}"))
        await asyncio.sleep(2 * _LEASE_IS_OVER)

    tell(hub(migration={"onRestart": "Move"}), 4, story)


def test_an_agent_without_its_lease_reports_no_end() -> None:
    """The agent that had taken the Lease was paused. It ran a child whose entry the former agent had seen removed.

    The operator's watch of Leases delivered nothing, so the former agent's report counted: another child of that id
    was started.
    """

    async def story(told: Story) -> None:
        world, server = told.world, told.world.server
        run = told.run("c0")
        assert run is not None
        former = told.pod(run.machine.member)
        former.container.process.pause()
        server.end(former.key, 0)
        await told.until(lambda: former.key in server.objects)
        world.network.weather.stall("operator-", "leases")
        await told.until(lambda: (now := told.run("c0")) and now is not run, every=0.001)
        again = told.run("c0")
        assert again is not None
        again.machine.agent.pause()

        world.server_request("DELETE", Key("children", "ns", "c0"), {}, "user")
        await told.until(lambda: not told.slices_of("c0"))
        Hands(world, 0).create("c0")
        await asyncio.sleep(0.5)
        former.container.process.resume(world.loop)
        await asyncio.sleep(2)

    tell(hub(), 4, story)


def test_an_end_is_proven_only_by_an_agent_whose_lease_was_seen() -> None:
    """The operator still saw the earlier agent's Lease, so that the next one's reports did not count.

    That one had acknowledged the removal, and reported that it still ended the child.
    """

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert run is not None
        here, there = run.member, "hub-1" if run.member == "hub-0" else "hub-0"
        await told.replace_agent(here, "leases and pods")
        run = told.run("c0")
        assert run is not None
        ask_for_long(told, here, 4.5)
        await told.until(lambda: run.handles)
        told.world.edit(Key("children", "ns", "c0"), {"metadata": {"annotations": {"processhub.dev/move-to": there}}})
        await told.until(lambda: not told.entry_on(here, "c0") and told.is_reported(here, "c0", State.STOPPING))
        await asyncio.sleep(2)
        assert told.run("c0") is run

    tell(hub(), 1, story)


def test_a_hub_that_is_created_again_starts_nothing_beside_a_member_of_the_former() -> None:
    """The node of that member was cut off, so its Pod was still there. The next hub has no member of that name."""

    async def story(told: Story) -> None:
        server = told.world.server
        assert told.running("hub-1")
        told.pod("hub-1").cut()
        spec = server.objects[HUB]["spec"] | {"members": {"replicas": 1}}
        body = {"metadata": {"name": HUB.name}, "spec": spec}
        told.world.server_request("DELETE", HUB, {}, "user")
        await asyncio.sleep(1)
        told.world.server_request("POST", HUB, body, "user")
        await asyncio.sleep(_LEASE_IS_OVER)

    tell(hub(timeouts={"leaseSeconds": 30, "stopSeconds": 2}), 4, story)


def test_a_pinned_child_whose_member_is_lost_as_it_is_scaled_away_runs_again() -> None:
    """The member was not made again, so the child waited for it for ever. Nothing but the child said so."""

    async def story(told: Story) -> None:
        child = Key("children", "ns", "c0")
        run = told.run("c0")
        assert run is not None
        if run.member == "hub-0":
            told.world.edit(child, {"metadata": {"annotations": {"processhub.dev/move-to": "hub-1"}}})
            await told.until(lambda: (moved := told.run("c0")) and moved.member == "hub-1")
        told.world.edit(child, {"spec": {"pinned": True}})
        pod = told.pod("hub-1")
        pod.cut()
        await asyncio.sleep(40)  # Its Lease has expired for everybody.
        told.world.edit(HUB, {"spec": {"members": {"replicas": 1}}})
        await asyncio.sleep(5)
        told.world.server.end(pod.key, 0)  # as an admin does whose node is lost

        await told.until(lambda: (again := told.run("c0")) and again.member == "hub-1")

        def stalled() -> list[str]:
            conditions = told.world.server.get("hubs", "hub")["status"]["conditions"]
            return [condition["reason"] for condition in conditions if condition["type"] == "Stalled"]

        await told.until(lambda: stalled() == ["Stranded"])
        told.world.edit(child, {"spec": {"pinned": False}})
        await told.until(lambda: (left := told.run("c0")) and left.member == "hub-0")

    tell(hub(migration={"onRestart": "Move"}), 1, story)


def test_a_member_that_only_ends_a_child_is_gone_only_by_a_read_of_its_lease() -> None:
    """The leader had not removed the child's entry itself. So the member had nothing by which its Lease would be read.

    The operator's watch of Leases delivered nothing. The child still answered a request, and was started elsewhere.
    """

    async def story(told: Story) -> None:
        run, server = told.run("c0"), told.world.server
        assert run is not None
        here, there = run.member, "hub-1" if run.member == "hub-0" else "hub-0"
        first = f"hub.{here}.0"
        ask_for_long(told, here, 40)
        await told.until(lambda: run.handles)
        told.world.edit(Key("children", "ns", "c0"), {"metadata": {"annotations": {"processhub.dev/move-to": there}}})
        await told.until(lambda: not told.entry_on(here, "c0") and told.is_reported(here, "c0", State.STOPPING))
        before = server.get("registryslices", first)["metadata"]["generation"]
        for operator in told.world.operators:
            operator.process.kill()
        await told.until(lambda: server.get("registryslices", first)["status"]["observedGeneration"] > before)

        told.world.network.weather.stall("operator-", "leases")
        await asyncio.sleep(_LEASE_IS_OVER)
        assert told.run("c0") is run

    timeouts = {"leaseSeconds": 9, "stopSeconds": 10, "requestSeconds": 60}
    tell(hub(timeouts=timeouts, partitionTolerance={"strategy": "Divergence"}), 1, story)


def ask_for_long(told: Story, member: str, seconds: float) -> None:
    """Send a request to c0 on its member, which takes so long that the child ends late."""
    container, asked = told.pod(member).container, Asked(1, seconds, crashes=False)
    container.process.call(lambda: asyncio.get_running_loop().create_task(container.server.receive("c0", asked)))
