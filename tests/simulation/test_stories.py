"""Faults that the simulator or a reader of its rules has found, each as the shortest run that shows it."""

from __future__ import annotations

import asyncio

import pytest
from memoryrequests import Key

from builders import reports_of
from processhub.api.reasons import State
from processhub.registry.grammar import has_state

from .machines import Run
from .naming import HUB, LEADER
from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover


@pytest.mark.parametrize("late", ["leases", "leases and pods"])
def test_a_child_counts_as_running_once_the_lease_of_its_reporter_is_seen(late: str) -> None:
    """The operator saw the reports of a member's next agent before the Lease that this agent took.

    Until it saw the Lease too, the member's children were Pending to it, and nothing told it to look at them again.
    """

    async def story(told: Story) -> None:
        weather, server = told.world.network.weather, told.world.server
        running = await told.replace_agent("hub-0", late)

        def pending() -> int:
            statuses = (server.get("children", f"c{number}")["status"] for number in range(6))
            return sum(status["state"] == "Pending" for status in statuses)

        def reported() -> int:
            reports = reports_of(server.get("registryslices", "hub.hub-0.0")).values()
            return sum(has_state(report, State.RUNNING) for report in reports)

        await told.until(lambda: reported() == pending() == running)
        weather.clear()
        await told.until(lambda: pending() == 0, seconds=5)

    tell(hub(), 6, story)


@pytest.mark.parametrize("edit", ["none", "ends", "starts again"])
@pytest.mark.parametrize("end", ["killed", "in order"])
def test_a_child_that_was_up_on_its_target_does_not_get_the_same_state_again(end: str, edit: str) -> None:
    """The operator saw nothing of the report that the child was up: the next agent overwrote it.

    That agent reported the state as lost, and the child was started with the copy that its source had kept. An agent
    that ended in an orderly way took the report back itself, with those of all children that it had stopped.
    """

    async def story(told: Story) -> None:
        weather, server = told.world.network.weather, told.world.server
        run = told.run("c0")
        assert run is not None
        there = "hub-1" if run.member == "hub-0" else "hub-0"
        name = f"hub.{there}.0"
        told.world.edit(Key("children", "ns", "c0"), {"metadata": {"annotations": {"processhub.dev/move-to": there}}})

        await told.until(lambda: (entry := told.entry_on(there, "c0")) and entry.state)
        weather.stall("operator-", "registryslices")
        await told.until(lambda: told.is_reported(there, "c0", State.RUNNING))
        if edit != "none":
            told.world.edit(Key("children", "ns", "c0"), {"spec": {"exec": {"command": ["edited"]}}})
            await told.until(lambda: told.is_reported(there, "c0", State.STOPPING))
        if edit == "starts again":
            await told.until(lambda: told.is_reported(there, "c0", State.STARTING))
        before = told.pod(there).container
        holder = server.get("registryslices", name)["status"]["holder"]
        if end == "killed":
            before.kill()
        else:
            before.terminate()
        await told.until(lambda: server.get("registryslices", name)["status"]["holder"] != holder)
        await asyncio.sleep(2)
        weather.clear()

    tell(hub(migration={"strategy": "HotSwap", "onRestart": "Hold", "holdSeconds": 30}), 1, story)


@pytest.mark.parametrize("end", ["killed", "in order"])
def test_a_child_that_was_up_on_a_lost_target_does_not_get_the_same_state_again(end: str) -> None:
    """The operator had not read the last report of the target when it gave the child back to its source.

    It did not go by the last report of an agent that had released its Lease, either.
    """

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert run is not None
        there = "hub-1" if run.member == "hub-0" else "hub-0"
        told.world.edit(Key("children", "ns", "c0"), {"metadata": {"annotations": {"processhub.dev/move-to": there}}})

        await told.until(lambda: (entry := told.entry_on(there, "c0")) and entry.state)
        told.world.network.weather.stall("operator-", "registryslices")
        await told.until(lambda: told.is_reported(there, "c0", State.RUNNING))
        container = told.pod(there).container
        if end == "killed":
            container.kill()
        else:
            container.terminate()
        await told.until(lambda: container.ended)
        told.world.network.weather.clear()

    tell(hub(migration={"strategy": "HotSwap", "onRestart": "Move"}), 1, story)


def test_a_child_that_returns_does_not_get_the_state_that_it_once_left_there() -> None:
    """Its former member had not acknowledged that the child had left when it was to return.

    That member kept its copy of the state, and used it, as the move back came without one.
    """

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert run is not None
        here = run.member
        there = "hub-1" if here == "hub-0" else "hub-0"
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": here}}})
        await told.until(lambda: (entry := told.entry_on(there, "c0")) and entry.state)

        await told.until(lambda: told.is_reported(there, "c0", State.RUNNING))
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": there}}})
        await told.until(lambda: (entry := told.entry_on(there, "c0")) and entry.to)
        run = told.run("c0")
        assert run is not None
        run.kill()
        await told.until(lambda: told.running(here) == 1)

    tell(hub(migration={"strategy": "HotSwap", "onRestart": "Hold", "holdSeconds": 30}), 1, story)


@pytest.mark.parametrize("late", ["leases", "leases and pods"])
def test_an_agent_that_started_before_move_was_asked_for_keeps_what_it_runs(late: str) -> None:
    """The operator still saw the earlier agent's Lease when this agent took it.

    The operator granted the entries to the earlier agent. So it took the next agent for one that had started none of
    them.
    """

    async def story(told: Story) -> None:
        weather = told.world.network.weather
        await told.replace_agent("hub-0", late)
        told.world.edit(HUB, {"spec": {"migration": {"onRestart": "Move"}}})
        await told.until(lambda: told.world.server.get("registryslices", "hub.hub-0.0")["spec"].get("holder"))
        weather.clear()
        await asyncio.sleep(10)

    tell(hub(), 6, story)


@pytest.mark.parametrize("restarts", [False, True])
def test_epochs_rise_where_the_leaders_lease_and_all_slices_are_deleted(*, restarts: bool) -> None:
    """The next leader began with term 1 again.

    A member that was cut off ran children on, and others got their epochs on the member that had started again. The
    members that had not started again had seen a higher term, and started nothing.
    """

    async def story(told: Story) -> None:
        world, server = told.world, told.world.server
        begins = min(terms(told))
        for operator in world.operators:
            operator.process.kill()
        await told.until(lambda: min(terms(told)) > begins)
        run = told.run("c0")
        assert run is not None
        cut, other = run.member, "hub-1" if run.member == "hub-0" else "hub-0"
        before = max(run.epoch for run in world.checks.runs)

        told.pod(cut).wire.whole.clear()
        for operator in world.operators:  # so that nobody is left who knows the term
            operator.process.kill()
        if restarts:
            told.pod(other).container.kill()
        for key in [key for key in server.objects if key.plural == "registryslices" or key == LEADER]:
            server.end(key)
        await told.until(lambda: world.trace.violation or told.running(other) == 4)
        assert world.trace.violation or min(told.epochs(other)) > before
        assert told.running(cut) > 0

    tell(hub(partitionTolerance={"strategy": "Divergence"}), 4, story)


def test_a_hub_whose_status_cannot_be_written_loses_no_child() -> None:
    """The term of a new leader can't be noted there. Children of a member that is lost must not wait for that."""

    async def story(told: Story) -> None:
        world, begins = told.world, min(terms(told))
        world.network.weather.refused["hubs"] = 403
        for operator in world.operators:
            operator.process.kill()
        await told.until(lambda: min(terms(told)) > begins)
        run = told.run("c0")
        assert run is not None
        told.pod(run.member).wire.whole.clear()
        other = "hub-1" if run.member == "hub-0" else "hub-0"
        await told.until(lambda: told.running(other) == 4, seconds=30)
        assert world.server.objects[HUB]["status"]["term"] == begins

        world.network.weather.clear()
        await told.until(lambda: world.server.objects[HUB]["status"]["term"] == min(terms(told)))

    tell(hub(), 4, story)


def terms(told: Story) -> list[int]:
    """The terms of all slices."""
    objects = told.world.server.objects
    return [item["spec"]["term"] for key, item in objects.items() if key.plural == "registryslices"]


def test_a_new_agent_counts_as_one_that_runs_nothing_only_when_it_has_said_so() -> None:
    """The earlier agent had ended in order, and reported that it ran nothing. The operator saw both of them late."""

    async def story(told: Story) -> None:
        world, weather = told.world, told.world.network.weather
        run = told.run("c0")
        assert isinstance(run, Run)
        for plural in ("leases", "pods"):
            weather.stall("operator-", plural)
        told.pod(run.member).container.terminate()
        await told.until(lambda: (again := told.run("c0")) and again is not run, every=0.001)
        again = told.run("c0")
        assert isinstance(again, Run)
        again.machine.agent.pause()  # it has not reported yet what it runs
        world.edit(HUB, {"spec": {"migration": {"onRestart": "Move"}}})
        await told.until(lambda: world.server.get("registryslices", f"hub.{run.member}.0")["spec"].get("holder"))
        weather.clear()
        await asyncio.sleep(2)

        again.machine.agent.resume(world.loop)
        await asyncio.sleep(5)
        assert told.run("c0") is again

    tell(hub(), 1, story)
