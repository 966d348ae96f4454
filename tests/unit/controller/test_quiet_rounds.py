"""Rounds of a hub at rest in which children restart: they report that, and plan nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import virtualtime
from memoryrequests import Key
from onethread import Run, running_hub
from prometheus_client import REGISTRY

from builders import make_hub, make_member, make_observation, make_slice
from processhub.api.naming import ANNOTATION_QUORUM_RESET
from processhub.api.slice import RegistrySlice
from processhub.controller.memory import LastRound
from processhub.controller.quietrounds import still_holds
from processhub.controller.store.slicechanges import children_only_restart
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.registry.grammar import Assignment, Report, format_report

ENTRY = Assignment(uid="u", epoch=1, workload="w")
RUNNING = Report(uid="u", epoch=1, state="Running", pid=7, started_at="2040-01-01T00:00:00Z", reason="Started")
FAILED = msgspec.structs.replace(RUNNING, state="Failed", pid=0, restarts=1, reason="Exited", last_exit="exit code 1")


def plans() -> float:
    return REGISTRY.get_sample_value("processhub_plan_seconds_count") or 0.0


def test_a_restart_in_a_hub_at_rest_is_reported_without_a_plan(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            api, template = cluster.api, {"exec": {"command": ["x"]}}
            api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", **template}})
            api.create(
                "childsets", {"metadata": {"name": "s"}, "spec": {"hub": "hub", "replicas": 3, "template": template}}
            )

            def status(plural: str, name: str) -> dict[str, Any]:
                found: dict[str, Any] = api.get(plural, name).get("status", {})
                return found

            def node() -> dict[str, Any]:
                return next(iter(status("children", "a").get("nodes", ())), {})

            await cluster.until(lambda: status("childsets", "s").get("running") == 3, "the set runs")
            await cluster.until(lambda: node().get("state") == "Running", "the child runs")
            await asyncio.sleep(20)  # Nothing is to be done any more.
            before = plans()
            run = next(run for machine in cluster.machines for run in machine.runs if run.child_id == "a")
            run.end()

            await cluster.until(lambda: (node().get("state"), node().get("restarts")) == ("Running", 1), "its restart")
            assert plans() == before
            api.create("children", {"metadata": {"name": "b"}, "spec": {"hub": "hub", **template}})
            await cluster.until(lambda: status("children", "b").get("state") == "Running", "another child is placed")

    virtualtime.run(main())


def test_the_status_of_a_set_at_rest_follows_each_restart_without_a_plan(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            template = {"exec": {"command": ["x"]}}
            spec = {"hub": "hub", "replicas": 3, "template": template}
            cluster.api.create("childsets", {"metadata": {"name": "s"}, "spec": spec})

            def running() -> int:
                found: int = cluster.api.get("childsets", "s").get("status", {}).get("running", 0)
                return found

            await cluster.until(lambda: running() == 3, "the set runs")
            await asyncio.sleep(20)  # Nothing is to be done any more.
            before = plans()

            def present() -> Run | None:
                runs = (run for machine in cluster.machines for run in machine.runs)
                return next((run for run in runs if run.child_id == "s-0"), None)

            for _ in range(8):  # Until the back-off is long enough to be seen.
                await cluster.until(lambda: present() is not None, "it is started")
                await asyncio.sleep(1)
                run = present()
                assert run is not None
                run.end()
            await cluster.until(lambda: running() == 2, "its end is reported", within=3)
            await cluster.until(lambda: running() == 3, "its restart is reported", within=8)
            assert plans() == before

    virtualtime.run(main())


@pytest.mark.parametrize("now", [Phase.GONE, Phase.HELD])
def test_a_plan_does_not_hold_for_a_member_that_was_lost_while_it_was_carried_out(now: Phase) -> None:
    """It was made for a live member. What was seen at the end of its round must not count as planned."""
    live = {"hub-0": make_member("hub-0", holder="pod/n")}
    nothing = Plan(entries={}, unplaced={}, next_epoch=0)
    observation = make_observation(members=live)
    last = LastRound(hub=make_hub(), observation=observation, plan=nothing, refusal=None, quorum=None, due=300.0)

    assert still_holds(last, live, 1.0)
    assert not still_holds(last, {"hub-0": make_member("hub-0", holder="pod/n", phase=now)}, 1.0)
    assert not still_holds(last, live, 300.0)


async def plans_in(seconds: float, folder: Path, **spec: Any) -> float:
    """Return how many plans an operator makes in so many seconds for a hub at rest."""
    async with running_hub(folder, **spec) as cluster:
        await asyncio.sleep(20)  # Nothing is to be done any more.
        before = plans()
        await asyncio.sleep(seconds)
        made = plans() - before
        assert cluster.api.get("hubs", "hub")["status"]["readyReplicas"] == 3
        return made


def test_a_hub_at_rest_is_planned_rarely_though_its_leases_are_watched(tmp_path: Path) -> None:
    assert virtualtime.run(plans_in(900, tmp_path)) <= 3


def test_a_hub_that_is_planned_by_use_is_planned_as_often_as_leases_are_judged(tmp_path: Path) -> None:
    assert virtualtime.run(plans_in(120, tmp_path, distribution={"strategy": "LeastLoaded"})) >= 7


def test_members_that_were_live_until_now_count_for_the_quorum_after_a_long_rest(tmp_path: Path) -> None:
    async def main() -> None:
        tolerance = {"strategy": "DynamicQuorum", "thresholdSeconds": 30}
        async with running_hub(tmp_path, partitionTolerance=tolerance) as cluster:
            await asyncio.sleep(240)  # Longer than the threshold, and without a plan since.
            for name in ("hub-1", "hub-2"):
                cluster.wires[name].whole.clear()

            def quorate() -> dict[str, Any]:
                conditions = cluster.api.get("hubs", "hub")["status"]["conditions"]
                return next(condition for condition in conditions if condition["type"] == "Quorate")

            await cluster.until(lambda: quorate()["status"] == "False", "two of three are missed")
            for name in ("hub-1", "hub-2"):
                cluster.wires[name].whole.set()
            await cluster.until(lambda: quorate()["status"] == "True", "all are back")

    virtualtime.run(main())


def test_a_reset_of_the_quorum_is_taken_off_as_soon_as_it_is_reported(tmp_path: Path) -> None:
    async def main() -> None:
        tolerance = {"strategy": "DynamicQuorum", "thresholdSeconds": 3600}
        async with running_hub(tmp_path, partitionTolerance=tolerance) as cluster:
            hub = Key("hubs", "ns", "hub")
            cluster.api.update(hub, lambda item: item["spec"]["members"].update(replicas=2))

            def quorum() -> dict[str, Any]:
                found: dict[str, Any] = cluster.api.get("hubs", "hub")["status"]["quorum"]
                return found

            await cluster.until(lambda: (quorum()["live"], quorum()["largestSeen"]) == (2, 3), "one is gone")
            await asyncio.sleep(20)  # Nothing is to be done any more.
            order = {ANNOTATION_QUORUM_RESET: "now"}
            cluster.api.update(hub, lambda item: item["metadata"].update(annotations=order))

            def annotations() -> dict[str, str]:
                found: dict[str, str] = cluster.api.get("hubs", "hub")["metadata"].get("annotations", {})
                return found

            await cluster.until(lambda: not annotations(), "the order is taken off", within=3)
            assert quorum()["largestSeen"] == 2

    virtualtime.run(main())


def version(*reports: Report, **more: Any) -> RegistrySlice:
    ids = [f"c-{number}" for number in range(len(reports))]
    workloads = more.pop("workloads", {"w": '{"exec":{"command":["x"]}}'})
    item = make_slice(dict.fromkeys(ids, ENTRY), dict(zip(ids, reports, strict=True)), workloads=workloads, **more)
    return msgspec.structs.replace(item, status=item.status.reporting(item.status.reports))


def test_a_restart_alone_is_seen_as_one() -> None:
    starting = msgspec.structs.replace(FAILED, state="Starting")
    again = msgspec.structs.replace(FAILED, state="Running", pid=8)

    for before, after in ((RUNNING, FAILED), (FAILED, starting), (starting, again), (RUNNING, again)):
        assert children_only_restart(version(before, RUNNING), version(after, RUNNING))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (version(RUNNING), version(RUNNING, FAILED)),
        (version(RUNNING), version(FAILED, generation=2)),
        (version(RUNNING), version(FAILED, holder="pod/other")),
        (version(RUNNING), version(FAILED, observed_generation=0)),
        (version(msgspec.structs.replace(RUNNING, state="Starting", started_at="")), version(RUNNING)),
        (version(RUNNING), version(msgspec.structs.replace(RUNNING, reason="Idle"))),
        (version(RUNNING), version(msgspec.structs.replace(FAILED, reason="RestartsExceeded"))),
        (version(RUNNING), version(msgspec.structs.replace(RUNNING, state="Stopped"))),
        (version(RUNNING), version(msgspec.structs.replace(RUNNING, state="Stopping"))),
        (version(RUNNING), version(msgspec.structs.replace(RUNNING, epoch=2))),
        (version(RUNNING), version(msgspec.structs.replace(RUNNING, role="Passive"))),
        (version(RUNNING), version(msgspec.structs.replace(RUNNING, claim="hub-1"))),
        (version(RUNNING), version(msgspec.structs.replace(RUNNING, gave="2:x"))),
        (version(RUNNING, workloads={"w": '{"pod":{}}'}), version(FAILED, workloads={"w": '{"pod":{}}'})),
    ],
    ids=[
        "id", "generation", "holder", "observed", "first", "idle", "for good", "stopped", "stopping", "epoch", "role",
        "takeover", "handover", "pod",
    ],
)  # fmt: skip
def test_what_a_plan_may_need_is_more_than_a_restart(before: RegistrySlice, after: RegistrySlice) -> None:
    assert not children_only_restart(before, after)


def test_the_first_restart_of_one_of_many_children_that_run_well_is_seen_as_one() -> None:
    before, after = version(*[RUNNING] * 5), version(FAILED, *[RUNNING] * 4)
    fewer = version(FAILED, FAILED, *[RUNNING] * 3)

    assert [len(item.status.running) for item in (before, after, fewer)] == [1, 1, 0]
    assert children_only_restart(before, after)
    assert children_only_restart(after, fewer)
    assert not children_only_restart(before, version(*[RUNNING] * 4))


def test_an_unreadable_report_is_more_than_a_restart() -> None:
    before = version(RUNNING)
    entries = {"c-0": format_report(RUNNING).replace(" 1 ", " ? ")}
    after = msgspec.structs.replace(before, status=msgspec.structs.replace(before.status, entries=entries))

    assert not children_only_restart(before, after)
