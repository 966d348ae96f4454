"""Children that members start by themselves: operator and agents in one thread (docs/protocol.md, rules 26 to 33)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from memoryapi import Key
from onethread import Cluster, running_hub

from processhub.api.naming import ANNOTATION_DRAINED, ANNOTATION_MOVE_REFUSED, ANNOTATION_MOVE_TO, ANNOTATION_STOP

HUB = Key("hubs", "ns", "hub")
DEMAND: dict[str, Any] = {"onDemand": {"exec": {"command": ["x"]}}}


def orders(cluster: Cluster) -> dict[str, Any]:
    """What slice 0 of each member says about views."""
    slices = [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]
    return {item["spec"]["member"]: order for item in slices if (order := item["spec"].get("activation"))}


def is_open(cluster: Cluster, *members: str) -> bool:
    """Whether one view is open to these members, and no other is."""
    now = orders(cluster)
    opened = {member for member, order in now.items() if order["phase"] == "Open"}
    return opened == set(members) and len({now[member]["view"] for member in opened}) == 1


def ask(cluster: Cluster, child: str) -> str:
    """Have every member asked for the child; returns the one that has it now, or ""."""
    return cluster.ask(child)


def on_record(cluster: Cluster) -> dict[str, str]:
    """The member of each child on record."""
    slices = [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]
    return {child: item["spec"]["member"] for item in slices for child in item["spec"]["entries"]}


def drain(hub: Any, member: str) -> None:
    """Have this member drained, or none."""
    hub["metadata"].setdefault("annotations", {})[ANNOTATION_DRAINED] = member


def running(cluster: Cluster) -> dict[str, set[str]]:
    """The members on which each child runs."""
    return {child: places for child, places in cluster.runs_on().items() if places}


def test_what_members_start_is_put_on_record_where_it_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            started = {child: ask(cluster, child) for child in ("a", "b", "c", "d", "e")}
            assert all(started.values())

            await cluster.until(lambda: on_record(cluster) == started, "all is on record")
            assert {child: {member} for child, member in started.items()} == running(cluster)
            starts = [child for _, child, _, begins in cluster.log if begins]
            assert sorted(starts) == sorted(started)

    virtualtime.run(main())


def test_a_member_starts_children_while_no_operator_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            cluster.stops["operator-0"].set()
            assert await cluster.tasks.pop("operator-0") == 0
            before = orders(cluster)

            started = {f"cart-{number}": ask(cluster, f"cart-{number}") for number in range(50)}

            await cluster.until(lambda: all(cluster.runs_on()[child] for child in started), "all run")
            assert on_record(cluster) == {}
            cluster.start_replica("operator-1")
            await cluster.until(lambda: on_record(cluster) == started, "all is on record")
            assert orders(cluster) == before  # a leader change closes no view
            assert len(cluster.log) == len(started)

    virtualtime.run(main())


def test_a_declared_child_of_an_id_that_a_member_has_started_runs_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            for number in range(9):
                ask(cluster, f"cart-{number}")
                body = {"hub": "hub", "exec": {"command": ["other"]}}
                cluster.api.create("children", {"metadata": {"name": f"cart-{number}"}, "spec": body})

            await cluster.until(lambda: cluster.reported_running(*(f"cart-{n}" for n in range(9))), "all run")

    virtualtime.run(main())


def epoch_of(cluster: Cluster, child: str) -> int:
    """The epoch on record of a child."""
    slices = [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]
    (text,) = (item["spec"]["entries"][child] for item in slices if child in item["spec"]["entries"])
    return int(text.split()[1])


def order(cluster: Cluster, annotation: str, text: str) -> None:
    """Write an order onto the Hub."""
    annotated = {annotation: text}
    cluster.api.update(HUB, lambda hub: hub["metadata"].setdefault("annotations", {}).update(annotated))


def annotations_of(cluster: Cluster) -> dict[str, str]:
    """The Hub's annotations."""
    found: dict[str, str] = cluster.api.get("hubs", "hub")["metadata"].get("annotations", {})
    return found


def test_an_order_on_the_hub_ends_one_run_and_the_id_may_be_started_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            members = {child: ask(cluster, child) for child in ("a", "b")}
            await cluster.until(lambda: on_record(cluster) == members, "both are on record")
            first = epoch_of(cluster, "a")

            order(cluster, ANNOTATION_STOP, json.dumps({"a": first, "b": 1, "never-was": 1}))

            await cluster.until(lambda: on_record(cluster) == {"b": members["b"]}, "one has left the record")
            await cluster.until(lambda: ANNOTATION_STOP not in annotations_of(cluster), "the orders are done")
            await cluster.until(lambda: running(cluster).keys() == {"b"}, "it has ended")
            assert ask(cluster, "a") == members["a"]
            await cluster.until(lambda: on_record(cluster) == members, "it is on record again")
            assert epoch_of(cluster, "a") > first

            order(cluster, ANNOTATION_STOP, "a")
            await cluster.until(lambda: ANNOTATION_STOP not in annotations_of(cluster), "what can't be read is removed")
            assert on_record(cluster) == members

    virtualtime.run(main())


def test_an_order_on_the_hub_moves_what_a_request_has_started(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            member = ask(cluster, "a")
            await cluster.until(lambda: on_record(cluster) == {"a": member}, "it is on record")
            target = next(name for name in cluster.agents if name != member)

            order(cluster, ANNOTATION_MOVE_TO, json.dumps({"a": target, "b": target}))

            await cluster.until(lambda: running(cluster) == {"a": {target}}, "it runs there")
            await cluster.until(lambda: ANNOTATION_MOVE_TO not in annotations_of(cluster), "the order is done")
            refused = json.loads(annotations_of(cluster)[ANNOTATION_MOVE_REFUSED])
            assert refused == {"b": f"{target}: hub/hub has no such child"}
            assert ask(cluster, "a") == target

    virtualtime.run(main())


def test_an_order_on_a_hub_that_starts_no_children_on_demand_is_refused(tmp_path: Path) -> None:
    """It stood for ever, and moved a child that a request started after the Hub had got spec.onDemand."""

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            order(cluster, ANNOTATION_MOVE_TO, json.dumps({"a": "hub-0"}))

            await cluster.until(lambda: ANNOTATION_MOVE_TO not in annotations_of(cluster), "the order is done")
            refused = json.loads(annotations_of(cluster)[ANNOTATION_MOVE_REFUSED])
            assert refused == {"a": "hub-0: hub/hub has no spec.onDemand"}

    virtualtime.run(main())


def test_a_childs_time_is_over_after_its_ttl_wherever_it_runs_by_then(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, onDemand={**DEMAND["onDemand"], "ttlSeconds": 20}) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            began = asyncio.get_running_loop().time()
            member = ask(cluster, "a")
            await cluster.until(lambda: on_record(cluster) == {"a": member}, "it is on record")
            target = next(name for name in cluster.agents if name != member)
            order(cluster, ANNOTATION_MOVE_TO, json.dumps({"a": target}))
            await cluster.until(lambda: running(cluster) == {"a": {target}}, "it runs there")

            await cluster.until(lambda: not running(cluster), "it has ended")

            assert 19.0 <= asyncio.get_running_loop().time() - began <= 22.0
            await cluster.until(lambda: not on_record(cluster), "it has left the record")

    virtualtime.run(main())


@pytest.mark.parametrize(("command", "starts"), [("x", 1), ("other", 2)])
def test_a_child_that_is_declared_later_is_taken_over_where_it_runs(tmp_path: Path, command: str, starts: int) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            member = ask(cluster, "a")
            await cluster.until(lambda: on_record(cluster) == {"a": member}, "it is on record")

            body = {"hub": "hub", "exec": {"command": [command]}}
            cluster.api.create("children", {"metadata": {"name": "a"}, "spec": body})

            await cluster.until(lambda: cluster.reported_running("a"), "it is reported")
            await asyncio.sleep(5.0)
            assert running(cluster) == {"a": {member}}
            assert len([begins for *_, begins in cluster.log if begins]) == starts
            cluster.api.delete("children", "a")
            await cluster.until(lambda: not on_record(cluster), "it has left the record")

    virtualtime.run(main())


def test_the_next_view_waits_for_a_member_that_has_not_closed_the_last(tmp_path: Path) -> None:
    """It is cut off and starts children by the view that it knows, until its Lease has run out."""

    async def main() -> None:
        spec = {**DEMAND, "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 1}}
        async with running_hub(tmp_path, **spec) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            cluster.wires["hub-0"].whole.clear()
            cluster.api.update(Key("hubs", "ns", "hub"), lambda hub: drain(hub, "hub-0"))

            for number in range(40):
                await asyncio.sleep(0.25)
                ask(cluster, f"cart-{number % 20}")
                cluster.runs_on()
            assert {member for places in running(cluster).values() for member in places} >= {"hub-0"}
            assert not is_open(cluster, "hub-1", "hub-2")

            await cluster.until(lambda: is_open(cluster, "hub-1", "hub-2"), "the others have a view")
            for number in range(20):
                await cluster.until(lambda number=number: bool(ask(cluster, f"cart-{number}")), "it runs")
            cluster.wires["hub-0"].whole.set()

    virtualtime.run(main())


def test_what_a_lost_member_had_is_started_again_after_it_has_ended_on_another(tmp_path: Path) -> None:
    """Its slice was deleted under the next view, so the others may not know that what it named has ended.

    They start none of that by themselves. Nobody asked the operator, and no other view was opened.
    """

    async def main() -> None:
        spec = {**DEMAND, "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 1}}
        async with running_hub(tmp_path, **spec) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            members = {f"cart-{number}": ask(cluster, f"cart-{number}") for number in range(12)}
            await cluster.until(lambda: on_record(cluster) == members, "all is on record")
            child = next(child for child, member in members.items() if member == "hub-2")
            await cluster.until(lambda: running(cluster).get(child) == {"hub-2"}, "it runs")

            cluster.wires["hub-2"].whole.clear()
            cluster.api.update(HUB, lambda hub: hub["spec"]["members"].update(replicas=2))
            await cluster.until(lambda: child in on_record(cluster) and "hub-2" not in orders(cluster), "it is retired")
            await cluster.until(lambda: len(running(cluster)) == 12, "all run")
            order(cluster, ANNOTATION_STOP, json.dumps({child: epoch_of(cluster, child)}))
            await cluster.until(lambda: child not in on_record(cluster), "it has ended")

            await cluster.until(lambda: bool(ask(cluster, child)), "it is started again")
            cluster.wires["hub-2"].whole.set()

    virtualtime.run(main())


def test_what_was_started_before_an_edit_and_is_recorded_after_it_gets_the_template_a_few_at_a_time(
    tmp_path: Path,
) -> None:
    """None was on record when the operator read the edit, so it had nothing to roll out. Then all came at once."""

    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            cluster.stops["operator-0"].set()
            assert await cluster.tasks.pop("operator-0") == 0
            for number in range(20):
                ask(cluster, f"cart-{number}")
            await cluster.until(lambda: len(running(cluster)) == 20, "all run")
            cluster.api.update(HUB, lambda hub: hub["spec"]["onDemand"]["exec"].update(command=["y"]))

            cluster.start_replica("operator-1")

            await cluster.until(lambda: len(cluster.log) > 20, "the first is restarted")
            await asyncio.sleep(1.0)
            assert len({child for _, child, *_ in cluster.log[20:]}) == 2, "10 % of them, for minReadySeconds"
            await cluster.until(lambda: len({child for _, child, *_ in cluster.log[20:]}) == 20, "all have it")

    virtualtime.run(main())
