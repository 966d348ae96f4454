"""The output and the effects of the command line's verbs on a running hub, on a simulated clock."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from clihub import HUB, JSON, MEMBERS, NAMES, YAML, Printed, started, with_cluster
from memoryapi import Key
from memoryrequests import Refused
from onethread import Cluster

from processhub.api.naming import LABEL_COMPONENT
from processhub.cli import explain, listing, moves, plan, quorum, show, start, status, stop, target, top
from processhub.cli.errors import DONE, FAILED, TIMED_OUT, CliError, UsageError
from processhub.cli.shared import Target
from processhub.client.errors import HubError, HubNotFound, Unreachable
from processhub.cluster.kinds import HUBS


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


def test_a_hub_and_its_children_are_printed_as_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await listing.list_children(HUB)
        assert printed.text() == ""
        assert printed.err == "no children in hub hub of namespace ns\n"

        await started("a", "b")
        places = {child_id: next(iter(cluster.runs_on()[child_id])) for child_id in ("a", "b")}
        assert sorted(printed.text().splitlines()) == [
            f"{child_id} running on {places[child_id]} (pid 7)" for child_id in ("a", "b")
        ]
        await cluster.until(lambda: cluster.reported_running("a", "b"), "that is reported")

        await listing.list_children(HUB)
        assert [row[:5] for row in printed.rows()] == [
            [child_id, places[child_id], "Active", "Running", "7"] for child_id in ("a", "b")
        ]
        await show.where("a", HUB)
        assert printed.rows() == [["a", places["a"], places["a"], "node", "Active", "Running", "7"]]
        await status.members(HUB, everywhere=False, watch=False)
        counts = {name: str(list(places.values()).count(name)) for name in MEMBERS}
        assert printed.rows() == [[name, "True", "node", "10.0.0.1", "1", counts[name]] for name in MEMBERS]
        await explain.explain("a", HUB)
        history = printed.text()
        assert "Placed" in history
        assert f"on {places['a']}" in history
        await listing.list_children(HUB, listing.Selection(places["a"]))
        assert "a" in [row[0] for row in printed.rows()]
        with pytest.raises(CliError, match="hub hub has no member 'hub-9'; it has hub-0, hub-1, hub-2"):
            await listing.list_children(HUB, listing.Selection("hub-9"))

    with_cluster(tmp_path, monkeypatch, test)


def forbid(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, plural: str) -> None:
    """Let nobody list these objects."""
    answered = cluster.api.request

    def request(method: str, url: str, payload: bytes | None, content_type: str | None) -> Any:
        if method == "GET" and url.partition("?")[0].endswith(f"/{plural}"):
            raise Refused(403, "Forbidden", f"{plural} is forbidden")
        return answered(method, url, payload, content_type)

    monkeypatch.setattr(cluster.api, "request", request)


def test_who_may_not_read_the_registry_is_told_before_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        forbid(cluster, monkeypatch, "registryslices")
        with pytest.raises(Unreachable, match="registryslices is forbidden; ask for the role view"):
            await stop.await_children(["a"], HUB, timeout="60s")

    with_cluster(tmp_path, monkeypatch, test)


def test_a_hub_that_is_not_there_is_not_found_by_who_may_read_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cluster: Cluster) -> None:
        with pytest.raises(HubNotFound, match="hub shop not found in namespace ns; there are: hub"):
            await show.where("a", Target(hub="shop"))
        forbid(cluster, monkeypatch, "hubs")
        with pytest.raises(HubNotFound, match=r"hub shop not found in namespace ns$"):
            await show.where("a", Target(hub="shop"))

    with_cluster(tmp_path, monkeypatch, test)


def test_orders_are_given_by_who_may_not_list_childsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a", "b")
        forbid(cluster, monkeypatch, "childsets")
        printed.text()

        for output, words in ((HUB, "a moving to"), (NAMES, "child/a")):
            there = next(member for member in MEMBERS if member not in cluster.runs_on()["a"])
            assert await moves.move("a", there, output, wait=False, timeout="30s") == DONE
            assert printed.text().startswith(words)
            assert printed.err == ""
            await cluster.until(lambda there=there: cluster.runs_on()["a"] == {there}, "it is moved")  # type: ignore[misc]

        assert await stop.stop_children(["a", "c"], HUB, wait=False, timeout="30s") == FAILED
        assert printed.text() == "a stopping\n"
        assert printed.err == "error: child c not stopped: Forbidden: can't be looked up: childsets is forbidden\n"
        with pytest.raises(Unreachable, match="childsets is forbidden"):
            await moves.drain("hub-0", HUB, force=False, wait=False, timeout="30s")
        assert "annotations" not in cluster.api.get("hubs", "hub")["metadata"]

    with_cluster(tmp_path, monkeypatch, test)


def test_a_move_whose_child_can_not_be_looked_up_afterwards_is_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        workload = {"exec": {"command": ["x"]}}
        cluster.api.create(
            "childsets", {"metadata": {"name": "many"}, "spec": {"hub": "hub", "replicas": 1, "template": workload}}
        )
        await stop.await_children(["many-0"], HUB, timeout="60s")
        there = next(member for member in MEMBERS if member not in cluster.runs_on()["many-0"])
        cluster.api.listeners.append(
            lambda key, *_: key.plural == "childsets" and forbid(cluster, monkeypatch, "childsets")
        )
        printed.text()

        assert await moves.move("many-0", there, HUB, wait=False, timeout="30s") == DONE
        assert printed.text() == f"many-0 moving to {there}\n"
        assert printed.err.startswith("warning: the order is given, but the object of child 'many-0' is not known: ")

    with_cluster(tmp_path, monkeypatch, test)


def test_a_child_is_explained_without_its_history_to_who_may_not_read_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        forbid(cluster, monkeypatch, "events")
        printed.text()
        assert await explain.explain("a", HUB) == DONE
        assert "Candidates, by score:" in printed.text()
        assert printed.err == "warning: its history is not shown: events is forbidden\n"

    with_cluster(tmp_path, monkeypatch, test)


def test_a_hub_and_its_children_are_printed_as_data_and_as_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        (member,) = cluster.runs_on()["a"]
        printed.text()

        await listing.list_children(JSON)
        (listed,) = json.loads(printed.text())
        assert (listed["id"], listed["nodes"][0]["name"], listed["nodes"][0]["pod"]) == ("a", member, member)
        await show.where("a", JSON)
        assert json.loads(printed.text()) == listed
        await show.lookup("a", HUB)
        looked_up = yaml.safe_load(printed.text())
        assert (looked_up["spec"]["exec"]["command"], looked_up["nodes"]) == (["x"], listed["nodes"])
        await listing.dump(YAML)
        assert yaml.safe_load(printed.text())["a"]["uid"] == looked_up["uid"]
        await status.members(JSON, everywhere=False, watch=False)
        assert [item["name"] for item in json.loads(printed.text())] == MEMBERS

        for verb in (listing.list_children(NAMES), show.where("a", NAMES), show.lookup("a", NAMES)):
            await verb
            assert printed.text() == "child/a\n"
        await status.members(NAMES, everywhere=False, watch=False)
        assert printed.text().split() == [f"pod/{name}" for name in MEMBERS]
        await listing.dump(HUB)
        assert [row[0] for row in printed.rows()] == ["a"]

    with_cluster(tmp_path, monkeypatch, test)


def test_the_usage_of_members_and_the_restarting_children_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a", "b")
        (member,) = cluster.runs_on()["a"]
        machine = next(item for item in cluster.machines if item.member == member)
        next(run for run in machine.runs if run.child_id == "a").end()
        await cluster.until(lambda: cluster.runs_on()["a"] == {member}, "it was restarted")
        await asyncio.sleep(1)
        printed.text()

        assert await top.top(HUB, everywhere=False) == DONE
        members, _, restarted = printed.text().partition("\n\n")
        assert [line.split()[:2] for line in members.splitlines()[1:]] == [[name, "True"] for name in MEMBERS]
        assert [line.split() for line in restarted.splitlines()[1:]] == [["a", member, "Running", "1"]]
        await top.top(JSON, everywhere=False)
        assert json.loads(printed.text())["restarts"] == [
            {"id": "a", "member": member, "state": "Running", "restarts": 1}
        ]
        await top.top(NAMES, everywhere=False)
        assert printed.text().split() == [f"pod/{name}" for name in MEMBERS]

    with_cluster(tmp_path, monkeypatch, test)


def test_a_child_that_is_not_placed_is_distinguished_from_an_unknown_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        spec = {"hub": "hub", "exec": {"command": ["x"]}, "nodes": ["hub-0"]}
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": spec})
        await cluster.until(lambda: cluster.api.get("children", "a")["status"].get("id"), "it is refused")

        with pytest.raises(CliError, match="child 'a' of hub hub is not placed: InvalidChildMapping: spec"):
            await show.where("a", HUB)
        with pytest.raises(CliError, match="no child 'b' in hub hub of namespace ns"):
            await show.lookup("b", HUB)
        await explain.explain("a", HUB)
        text = printed.text()
        assert "spec.nodes is for hubs with distribution strategy Guided" in text
        assert "Rejected" in text, "its Events are listed"

    with_cluster(tmp_path, monkeypatch, test)


def test_a_stop_waits_for_children_and_prints_each_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a", "b")
        printed.text()

        assert await stop.await_children(["a", "b"], HUB, timeout="5s") == DONE
        assert [line.split()[:3] for line in printed.text().splitlines()] == [
            [child_id, "running", "on"] for child_id in ("a", "b")
        ]
        assert await stop.stop_children(["a", "c"], HUB, wait=True, timeout="30s") == FAILED
        assert printed.text() == "a stopped\n"
        assert printed.err.startswith("error: child c not stopped: NotFound:")
        assert cluster.runs_on()["a"] == set()
        assert await stop.await_children(["a"], HUB, timeout="1s") == FAILED
        assert await stop.stop_children(["b"], JSON, wait=False, timeout="30s") == DONE
        assert json.loads(printed.text())["stopped"] == ["b"]
        assert await stop.stop_children(["c"], YAML, wait=False, timeout="30s") == FAILED
        assert yaml.safe_load(printed.text())["errors"]["c"]["reason"] == "NotFound"

    with_cluster(tmp_path, monkeypatch, test)


def test_a_start_beyond_the_capacity_names_the_pending_children_or_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        order = start.Order(ids=("a", "b", "c", "d"), exec=True, command=("x",))

        code = await start.start_children(order, HUB, on_failure="continue", wait=True, timeout="5s")
        assert code == TIMED_OUT
        assert len(printed.text().splitlines()) == 3
        assert "not started: Timeout:" in printed.err
        assert await stop.stop_children(list(order.ids), HUB, wait=True, timeout="30s") == DONE
        printed.text()

        code = await start.start_children(order, JSON, on_failure="rollback", wait=True, timeout="5s")
        assert code == TIMED_OUT
        assert set(json.loads(printed.text())["rollback"]["removed"]) == set(order.ids)
        assert "rolled back: 4 children removed again" in printed.err
        assert not [key for key in cluster.api.objects if key.plural == "children"]

    with_cluster(tmp_path, monkeypatch, test, members={"replicas": 3, "maxChildren": 1})


def test_a_child_is_moved_and_a_member_is_drained_and_undrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started(*map(str, range(9)))
        (source,) = cluster.runs_on()["0"]
        there = next(name for name in MEMBERS if name != source)
        printed.text()

        assert await moves.move("0", there, HUB, wait=True, timeout="30s") == DONE
        assert printed.text() == f"0 running on {there}\n"
        assert cluster.runs_on()["0"] == {there}
        assert await moves.drain(there, HUB, force=False, wait=True, timeout="60s") == DONE
        assert printed.text() == f"member/{there} drained\n"
        assert not any(there in places for places in cluster.runs_on().values())
        assert await status.members(HUB, everywhere=False, watch=False) == DONE
        ready = {row[0]: row[1] for row in printed.rows()}
        assert ready == {name: "True,Drained" if name == there else "True" for name in MEMBERS}
        assert await status.members(JSON, everywhere=False, watch=False) == DONE
        assert [each["name"] for each in json.loads(printed.text()) if each["drained"]] == [there]
        assert await explain.explain("0", JSON) == DONE
        (choice,) = [each for each in json.loads(printed.text())["candidates"] if each["member"] == there]
        assert (choice["drained"], choice["cap"]) == (True, 0), "it may take none"
        assert await moves.undrain(there, HUB, wait=True, timeout="60s") == DONE
        assert printed.text() == f"member/{there} takes children again\n"
        assert await moves.undrain(there, JSON, wait=False, timeout="60s") == DONE
        assert json.loads(printed.text()) == {"member": there, "drained": False, "changed": False}

    with_cluster(tmp_path, monkeypatch, test)


def test_a_move_names_the_object_that_the_child_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        workload = {"exec": {"command": ["x"]}}
        cluster.api.create("children", {"metadata": {"name": "other"}, "spec": {"hub": "hub", "id": "a", **workload}})
        cluster.api.create(
            "childsets", {"metadata": {"name": "many"}, "spec": {"hub": "hub", "replicas": 1, "template": workload}}
        )
        await stop.await_children(["a", "many-0"], NAMES, timeout="60s")
        assert sorted(printed.text().splitlines()) == ["child/other", "childset/many"]

        for child_id, name in (("a", "child/other"), ("many-0", "childset/many")):
            there = next(member for member in MEMBERS if member not in cluster.runs_on()[child_id])
            assert await moves.move(child_id, there, NAMES, wait=True, timeout="30s") == DONE
            assert printed.text() == f"{name}\n"
        (there,) = cluster.runs_on()["a"]
        assert await moves.move("a", there, HUB, wait=False, timeout="30s") == DONE
        assert printed.text() == f"a (child/other) moving to {there}\n"

    with_cluster(tmp_path, monkeypatch, test)


def test_a_drain_that_leaves_children_behind_fails_and_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("bound", pinned=True)
        (member,) = cluster.runs_on()["bound"]
        printed.text()

        assert await moves.drain(member, JSON, force=False, wait=True, timeout="60s") == FAILED

        assert json.loads(printed.text())["stranded"] == ["bound"]
        assert f"1 child can't leave {member}: bound (pinned); delete or rebind them" in printed.err
        assert cluster.runs_on()["bound"] == {member}

    with_cluster(tmp_path, monkeypatch, test)


def test_nodes_that_the_hub_refuses_keep_no_child_on_a_drained_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        (member,) = cluster.runs_on()["a"]
        cluster.api.update(Key("children", "ns", "a"), lambda child: child["spec"].update(nodes=[member]))
        printed.text()

        assert await moves.drain(member, HUB, force=False, wait=True, timeout="60s") == DONE

        assert printed.text() == f"member/{member} drained\n"
        await cluster.until(lambda: bool(cluster.runs_on()["a"] - {member}), "it runs elsewhere")

    with_cluster(tmp_path, monkeypatch, test)


def test_the_name_of_a_child_that_is_given_for_an_id_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        workload = {"exec": {"command": ["sleep"]}}
        for name, spec in (("device-7", {"hub": "hub", "id": "device/7"}), ("stray", {"hub": "hubb"})):
            cluster.api.create("children", {"metadata": {"name": name}, "spec": {**spec, **workload}})
        there = "no child 'device-7' in hub hub of namespace ns; child/device-7 has the id 'device/7'"

        with pytest.raises(CliError, match=there):
            await show.where("device-7", HUB)
        with pytest.raises(CliError, match="no child 'stray' in hub hub of namespace ns; child/stray is of hub 'hubb'"):
            await explain.explain("stray", HUB)
        with pytest.raises(HubError, match=there):
            await moves.move("device-7", "hub-1", HUB, wait=False, timeout="30s")
        assert await stop.stop_children(["device-7"], HUB, wait=False, timeout="30s") == FAILED
        assert printed.text() == ""
        assert there in printed.err
        assert await stop.await_children(["device-7"], HUB, timeout="30s") == FAILED
        assert printed.text() == ""
        assert "no child 'device-7' in hub hub; child/device-7 has the id 'device/7'" in printed.err

    with_cluster(tmp_path, monkeypatch, test)


def test_a_quorum_is_reset_if_the_hub_has_a_recorded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(_: Cluster) -> None:
        assert await quorum.reset(HUB, wait=True, timeout="30s") == DONE
        assert printed.text() == "hub/hub quorum reset\n3 members are live, 2 needed\n"
        assert await quorum.reset(JSON, wait=False, timeout="30s") == DONE
        assert json.loads(printed.text()) == {"hub": "hub", "quorum": None}

    with_cluster(tmp_path, monkeypatch, test, partitionTolerance={"strategy": "MajorityQuorum"})


def test_a_quorum_is_not_reset_if_the_hub_has_no_recorded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(_: Cluster) -> None:
        with pytest.raises(UsageError, match="hub hub has partition strategy Divergence, which remembers no size"):
            await quorum.reset(HUB, wait=True, timeout="30s")

    with_cluster(tmp_path, monkeypatch, test)


def test_a_live_plan_names_the_children_that_another_member_would_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started(*map(str, range(12)))
        printed.text()

        assert await plan.plan(JSON, add=1, remove=(), files=()) == DONE

        found = json.loads(printed.text())["moves"]
        assert {move["to"] for move in found} == {"hub-3"}
        assert all({move["from"]} == cluster.runs_on()[move["id"]] for move in found)

    with_cluster(tmp_path, monkeypatch, test)


def test_of_several_hubs_the_one_with_the_child_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        cluster.api.create("hubs", {"metadata": {"name": "other"}, "spec": {"members": {"replicas": 0}}})
        cluster.api.create(
            "children", {"metadata": {"name": "b"}, "spec": {"hub": "other", "exec": {"command": ["x"]}}}
        )
        client = cluster.client("user")

        assert (await target.resolve(client, "ns", None, ids=("a",))).metadata.name == "hub"
        assert (await target.resolve(client, "ns", None, ids=("b",))).metadata.name == "other"
        assert (await target.resolve(client, "ns", None, members=("hub-1",))).metadata.name == "hub"
        assert (await target.resolve(client, "ns", None, ids=("b",), members=("hub-1",))).metadata.name == "other"
        for hub in ("hub", "other"):
            waits = {"hub": hub, "id": "in both", "exec": {"command": ["x"]}, "suspend": True}
            cluster.api.create("children", {"metadata": {"name": f"of-{hub}"}, "spec": waits})
        assert (await target.resolve(client, "ns", None, ("in both",), ("hub-1",))).metadata.name == "hub"
        with pytest.raises(UsageError, match="which hub of namespace ns"):
            await target.resolve(client, "ns", None, ("in both",))
        assert (await target.resolve(client, "ns", "other")).metadata.name == "other"
        with pytest.raises(UsageError, match="which hub of namespace ns\\? name one with --hub: hub, other"):
            await target.resolve(client, "ns", None)
        with pytest.raises(CliError, match="no hub in namespace elsewhere"):
            await target.resolve(client, "elsewhere", None)
        monkeypatch.setenv("HUB_NAME", "other")
        assert (await target.resolve(client, "ns", None)).metadata.name == "other"
        assert len((await client.list(HUBS, "ns"))[0]) == 2

    with_cluster(tmp_path, monkeypatch, test)


def test_a_member_that_is_not_there_is_named_when_a_child_is_started_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        def start_on(child_id: str, member: str) -> Any:
            order = start.Order(ids=(child_id,), exec=True, command=("x",), nodes=(member,))
            return start.start_children(order, HUB, on_failure="continue", wait=False, timeout="30s")

        assert await start_on("a", "hub-0") == DONE
        assert (printed.text(), printed.err) == ("a created\n", "")
        assert await start_on("b", "hub-O") == DONE
        assert printed.text() == "b created\n"
        assert printed.err == "warning: child b waits: hub hub has no member 'hub-O'; it has hub-0, hub-1, hub-2\n"

        cluster.api.create("hubs", {"metadata": {"name": "other"}, "spec": {"members": {"replicas": 0}}})
        assert await start_on("c", "hub-1") == DONE  # of several hubs the one with the member
        with pytest.raises(CliError, match="no hub of namespace ns has a member 'hub-O'; it has the hubs hub, other"):
            await start_on("d", "hub-O")

    with_cluster(tmp_path, monkeypatch, test, distribution={"strategy": "Guided"})


def test_the_pod_of_a_pod_child_is_its_own_in_every_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        pod = {"template": {"spec": {"containers": [{"name": "main", "image": "app"}]}}}
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", "pod": pod}})

        def own() -> list[str]:
            labelled = {key.name: item["metadata"].get("labels", {}) for key, item in cluster.api.objects.items()}
            return [name for name, labels in labelled.items() if labels.get(LABEL_COMPONENT) == "child"]

        await cluster.until(lambda: bool(own()), "its Pod is there")
        await show.where("a", HUB)
        assert [row[2] for row in printed.rows()] == own()
        for verb in (show.where, show.lookup):
            await verb("a", JSON)
            assert [node["pod"] for node in json.loads(printed.text())["nodes"]] == own()

    with_cluster(tmp_path, monkeypatch, test)
