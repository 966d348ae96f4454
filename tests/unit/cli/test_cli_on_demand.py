"""The verbs of the command line for children that requests have started, on a running hub and a simulated clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from clihub import HUB, JSON, MEMBERS, NAMES, Printed, started, with_cluster
from memoryapi import Key
from onethread import Cluster

from builders import reports_of
from processhub.cli import explain, listing, moves, plan, show, status, stop, target, top
from processhub.cli.errors import DONE, FAILED, CliError

DEMAND: dict[str, Any] = {"onDemand": {"exec": {"command": ["x"]}}}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


def slices(cluster: Cluster) -> list[dict[str, Any]]:
    return [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]


def recorded(cluster: Cluster, *ids: str) -> bool:
    """Whether these children are on record, and reported to run without a view."""
    entries = {child_id for item in slices(cluster) for child_id in item["spec"]["entries"]}
    reports = {id_: text for item in slices(cluster) for id_, text in reports_of(item).items()}
    return set(ids) <= entries and all(" Running " in reports.get(id_, "") for id_ in ids)


async def asked(cluster: Cluster, *ids: str) -> dict[str, str]:
    """Start the children by requests; returns the member of each when all are on record."""

    def view_is_open() -> bool:
        orders = [order for item in slices(cluster) if (order := item["spec"].get("activation"))]
        return [order["phase"] for order in orders] == ["Open"] * 3

    await cluster.until(view_is_open, "a view is open")
    places = {child_id: cluster.ask(child_id) for child_id in ids}
    assert all(places.values())
    await cluster.until(lambda: recorded(cluster, *ids), "all are on record")
    return places


def test_children_that_requests_have_started_are_listed_and_found_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("declared")
        places = await asked(cluster, "cart 7", "b")
        printed.text()

        await listing.list_children(HUB)
        rows = {line.split("  ")[0]: line.split()[-1] for line in printed.text().splitlines()[1:]}
        assert rows == {"b": "True", "cart 7": "True", "declared": "False"}
        await listing.list_children(HUB, listing.Selection(places["b"]))
        assert "b" in [row[0] for row in printed.rows()]
        await show.where("b", HUB)
        assert printed.rows() == [["b", places["b"], places["b"], "node", "Active", "Running", "7", "True"]]
        await listing.list_children(JSON)
        listed = {item["id"]: item for item in json.loads(printed.text())}
        assert [(id_, item.get("onDemand", False)) for id_, item in listed.items()] == [
            ("b", True), ("cart 7", True), ("declared", False),
        ]  # fmt: skip
        await show.where("b", JSON)
        assert json.loads(printed.text()) == listed["b"]
        await show.lookup("b", HUB)
        found = yaml.safe_load(printed.text())
        assert (found["onDemand"], found["spec"]["exec"]["command"], "childSet" in found) == (True, ["x"], False)
        for verb in (show.where("b", NAMES), show.lookup("b", NAMES), explain.explain("b", NAMES)):
            await verb
            assert printed.text() == "hub/hub\n"
        await listing.list_children(NAMES)
        assert printed.text() == "hub/hub\nchild/declared\n"
        assert await stop.await_children(["cart 7"], HUB, timeout="5s") == DONE
        assert printed.text() == f"'cart 7' running on {places['cart 7']} (pid 7)\n"
        assert await stop.await_children(["cart 7"], NAMES, timeout="5s") == DONE
        assert printed.text() == "hub/hub\n"
        await listing.dump(JSON)
        assert json.loads(printed.text())["b"]["onDemand"] is True

    with_cluster(tmp_path, monkeypatch, test, **DEMAND)


def test_the_place_and_the_end_of_a_child_that_a_request_has_started_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        places = await asked(cluster, "a")
        printed.text()

        assert await explain.explain("a", HUB) == DONE
        text = printed.text()
        assert "On demand: yes" in text
        assert "a request has started it; its present run began at 2040-01-01T" in text
        assert f"has {places['a']} for its id by the hash, whatever the load" in text
        assert "it ends at 2040-01-01T" in text
        assert "600 s after its first start (spec.onDemand.ttlSeconds)" in text
        assert "it ends when no request has come for 60 s (spec.onDemand.idleSeconds)" in text
        await explain.explain("a", JSON)
        found = json.loads(printed.text())
        assert (found["onDemand"], found["onRecord"], found["member"]) == (True, True, places["a"])

    demand = {"onDemand": {**DEMAND["onDemand"], "ttlSeconds": 600, "idleSeconds": 60}}
    with_cluster(tmp_path, monkeypatch, test, **demand)


def test_a_child_that_only_its_member_knows_yet_is_shown_while_no_operator_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await asked(cluster, "before")
        cluster.stops["operator-0"].set()
        assert await cluster.tasks.pop("operator-0") == 0
        member = cluster.ask("a")

        def reported() -> bool:
            return any(" Running " in reports_of(item).get("a", "") for item in slices(cluster))

        await cluster.until(reported, "its member reports it")
        await listing.list_children(HUB)
        assert ["a", member] in [row[:2] for row in printed.rows()]
        await show.where("a", HUB)
        assert printed.rows()[0][:2] == ["a", member]
        await explain.explain("a", HUB)
        text = printed.text()
        assert f"a request had {member} start it by itself; the operator has not put it on record yet" in text
        await explain.explain("a", JSON)
        assert json.loads(printed.text())["onRecord"] is False
        await status.status(JSON, everywhere=False, watch=False)
        assert json.loads(printed.text())["notRunning"] == []
        assert (await target.resolve(cluster.client("user"), "ns", None, ids=("a",))).metadata.name == "hub"
        there = next(name for name in MEMBERS if name != member)
        with pytest.raises(Exception, match=f"child 'a' was started by {member} and is not on record yet"):
            await moves.move("a", there, HUB, wait=False, timeout="30s")
        assert await top.top(JSON, everywhere=False) == DONE
        printed.text()
        assert await plan.plan(JSON, add=1, remove=(), files=()) == DONE
        assert json.loads(printed.text())["members"].keys() == {*MEMBERS, "hub-3"}

    with_cluster(tmp_path, monkeypatch, test, **DEMAND)


def test_for_an_id_that_nobody_has_asked_for_the_effect_of_a_request_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await asked(cluster, "a")
        assert await explain.explain("b", JSON) == DONE
        found = json.loads(printed.text())
        assert (found["member"], found["onDemand"]) == (None, False)
        assert found["why"][0].startswith(
            f"a request would start it on {found['wouldStartOn']}, its member by the hash"
        )
        with pytest.raises(
            CliError, match=r"no child 'b' in hub hub of namespace ns; a request would start it on hub-"
        ):
            await show.where("b", HUB)
        assert await stop.stop_children(["b"], HUB, wait=False, timeout="5s") == FAILED
        assert await stop.await_children(["b"], HUB, timeout="5s") == FAILED
        assert printed.text() == ""
        would = "; a request would start it on hub-"
        assert f"child b not stopped: NotFound: no child 'b' in hub hub of namespace ns{would}" in printed.err
        assert f"child b not started: NotFound: no child 'b' in hub hub{would}" in printed.err
        child = {"metadata": {"name": "stray"}, "spec": {"hub": "hubb", "exec": {"command": ["sleep"]}}}
        cluster.api.create("children", child)
        assert await explain.explain("stray", HUB) == DONE
        assert "Why:       child/stray is of hub 'hubb'\n           a request would start it on hub-" in printed.text()
        assert cluster.ask("b") == found["wouldStartOn"], "that is true"

        cluster.api.update(Key("hubs", "ns", "hub"), lambda hub: hub["spec"].update(suspend=True))
        await explain.explain("c", JSON)
        found = json.loads(printed.text())
        assert found["why"] == ["a request is refused, because spec.suspend of hub hub is true"]
        assert found["wouldStartOn"] is None

        def known() -> bool:
            slices = [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]
            return all(item["spec"]["settings"]["suspended"] for item in slices)

        await cluster.until(known, "each member knows it")

    with_cluster(tmp_path, monkeypatch, test, **DEMAND)


def test_a_child_that_a_request_has_started_is_stopped_until_the_next_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("declared")
        places = await asked(cluster, "a", "cart 7")
        printed.text()

        assert await stop.stop_children(["a", "declared", "cart 7"], HUB, wait=True, timeout="30s") == DONE
        assert printed.text().splitlines() == [
            "a stopped; the next request starts it again",
            "declared stopped",
            "'cart 7' stopped; the next request starts it again",
        ]
        assert not any(cluster.runs_on().values())
        await cluster.until(
            lambda: "processhub.dev/stop" not in cluster.api.get("hubs", "hub")["metadata"].get("annotations", {}),
            "the orders are removed",
        )
        await cluster.until(lambda: cluster.ask("a") == places["a"], "the next request starts it again")
        await cluster.until(lambda: recorded(cluster, "a"), "it is on record")
        assert await stop.stop_children(["a"], JSON, wait=False, timeout="30s") == DONE
        assert json.loads(printed.text()) == {"stopped": ["a"], "onDemand": ["a"], "errors": {}}

    with_cluster(tmp_path, monkeypatch, test, **DEMAND)


def test_a_child_that_a_request_has_started_is_moved_and_leaves_a_drained_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        places = await asked(cluster, *(f"cart-{number}" for number in range(8)))
        there = next(name for name in MEMBERS if name != places["cart-0"])
        printed.text()

        assert await moves.move("cart-0", there, HUB, wait=True, timeout="30s") == DONE
        assert printed.text() == f"cart-0 running on {there}\n"
        assert cluster.runs_on()["cart-0"] == {there}
        assert await plan.plan(JSON, add=0, remove=(there,), files=()) == DONE
        planned = {move["id"] for move in json.loads(printed.text())["moves"]}
        assert planned == {child_id for child_id, on in cluster.runs_on().items() if there in on}
        assert await moves.drain(there, HUB, force=False, wait=True, timeout="60s") == DONE
        assert not any(there in on for on in cluster.runs_on().values())
        await cluster.until(lambda: recorded(cluster, *places), "all run elsewhere")
        assert sum(bool(on) for on in cluster.runs_on().values()) == 8
        with pytest.raises(Exception, match=f"member {there} is drained"):
            await moves.move("cart-0", there, NAMES, wait=False, timeout="30s")

    with_cluster(tmp_path, monkeypatch, test, **DEMAND)


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"distribution": {"strategy": "LeastLoaded"}}, "was the least loaded member when it was placed (LeastLoaded)"),
        ({"distribution": {"strategy": "Local"}}, "hub-1 was asked for it, or the hash chose it because"),
        ({"redundancy": {"strategy": "Replication", "replicationModel": "ActivePassive"}}, "has the highest score"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_a_child_that_the_operator_places_for_a_request_is_handled_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed, spec: dict[str, Any], place: str
) -> None:
    async def test(cluster: Cluster) -> None:
        strategy = spec.get("distribution", {}).get("strategy", "ConsistentHashing")
        await explain.explain("a", HUB)
        assert f"a request would have the operator place it {'on' if strategy == 'Local' else 'by'} " in printed.text()
        with cluster.agents["hub-1"]._parts.requests.router._asks.ask("a") as ask:
            ask.make()
            await cluster.until(lambda: recorded(cluster, "a"), "it is on record")
        await stop.await_children(["a"], HUB, timeout="30s")
        printed.text()

        await listing.list_children(HUB)
        rows = printed.rows()
        assert {row[-1] for row in rows} == {"True"}
        await explain.explain("a", HUB)
        text = printed.text()
        assert "a request has started it; its present run began at 2040-01-01T" in text
        assert place in text
        assert not [key for key in cluster.api.objects if key.plural == "children"]
        assert await stop.stop_children(["a"], HUB, wait=True, timeout="30s") == DONE
        await listing.list_children(HUB)
        assert printed.rows() == []
        with pytest.raises(CliError, match="no child 'a' in hub hub of namespace ns; a request would have"):
            await show.lookup("a", HUB)

    with_cluster(tmp_path, monkeypatch, test, **DEMAND, **spec)
