"""Verbs that show hubs: of one namespace or of all, by tag, once or with watch. The hub runs in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from clihub import HUB, JSON, NAMES, Printed, started, with_cluster
from memoryapi import Key
from onethread import Cluster

from processhub.cli import explain, listing, show, status, target, top
from processhub.cli.errors import CliError, UsageError
from processhub.cli.listing import Selection
from processhub.cli.shared import Target
from processhub.cluster.kinds import HUBS

HUB_KEY = Key("hubs", "ns", "hub")


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


@contextlib.asynccontextmanager
async def watching(verb: Coroutine[Any, Any, int]) -> AsyncIterator[None]:
    """Run the verb beside the block, and interrupt it at the block's end."""
    task = asyncio.create_task(verb)
    await asyncio.sleep(1)
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def other_namespace(cluster: Cluster) -> None:
    """Create a hub in another namespace, for which no operator is responsible."""
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "MembersNotReady",
        "message": "far-0 has no node",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    cluster.api.create("hubs", {"metadata": {"name": "far"}, "spec": {}, "status": {"conditions": [condition]}}, "away")


def test_children_are_listed_in_natural_order_and_by_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("w-10", "w-9", "w-1")
        cluster.api.create(
            "children",
            {"metadata": {"name": "e"}, "spec": {"hub": "hub", "tags": ["eu", "big"], "exec": {"command": ["x"]}}},
        )
        await cluster.until(lambda: cluster.reported_running("e"), "it runs")
        printed.text()

        await listing.list_children(NAMES)
        assert printed.text().split() == ["child/e", "child/w-1", "child/w-9", "child/w-10"]
        await listing.list_children(HUB, Selection(tags=("eu", "big")))
        assert [row[0] for row in printed.rows()] == ["e"]
        await listing.list_children(HUB, Selection(tags=("eu", "small")))
        assert (printed.text(), printed.err) == ("", "no children with tag eu, small in hub hub of namespace ns\n")

    with_cluster(tmp_path, monkeypatch, test)


def test_children_and_hubs_of_all_namespaces_are_listed_with_their_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        other_namespace(cluster)
        printed.text()

        await listing.list_children(HUB, Selection(everywhere=True))
        assert printed.text().split()[:3] == ["NAMESPACE", "HUB", "ID"]
        await listing.list_children(JSON, Selection(everywhere=True))
        assert [(one["namespace"], one["hub"], one["id"]) for one in json.loads(printed.text())] == [("ns", "hub", "a")]
        await status.status(HUB, everywhere=True, watch=False)
        assert [row[:4] for row in printed.rows()] == [
            ["away", "far", "False", "<none>"],
            ["ns", "hub", "True", "3/3"],
        ]
        await status.status(JSON, everywhere=True, watch=False)
        assert [one["namespace"] for one in json.loads(printed.text())] == ["away", "ns"]
        await status.members(HUB, everywhere=True, watch=False)
        assert [row[:3] for row in printed.rows()] == [["ns", "hub", f"hub-{number}"] for number in range(3)]
        assert printed.err == "hub far has no members yet\n"
        await top.top(HUB, everywhere=True)
        assert [row[:4] for row in printed.rows()] == [["ns", "hub", f"hub-{number}", "True"] for number in range(3)]
        assert printed.err == "hub far has no members yet\n"
        await top.top(JSON, everywhere=True)
        assert [(one["hub"], len(one["members"])) for one in json.loads(printed.text())] == [("far", 0), ("hub", 3)]
        with pytest.raises(CliError, match="no hub none in any namespace"):
            await status.status(Target(hub="none"), everywhere=True, watch=False)

    with_cluster(tmp_path, monkeypatch, test)


def test_a_watch_prints_what_changes_under_the_same_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        printed.text()
        async with watching(listing.list_children(HUB, Selection(watch=True))):
            assert [row[0] for row in printed.rows()] == ["a"]
            await started("b")
            await asyncio.sleep(1)
            lines = [line.split() for line in printed.text().splitlines()]
            states = [line[3] for line in lines if line[0] == "b" and len(line) > 6]
            assert states[-1] == "Running"
            assert set(states) <= {"Pending", "Starting", "Running"}
            assert not [line for line in lines if line[0] in ("ID", "a")], "neither the header nor what did not change"
            cluster.api.delete("children", "a")
            await asyncio.sleep(5)
            states = [line.split()[3] for line in printed.text().splitlines()]
            assert (states[-1], set(states[:-1]) <= {"Stopping"}) == ("Deleted", True)

    with_cluster(tmp_path, monkeypatch, test)


def test_a_watch_of_names_prints_the_objects_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        body = {"hub": "hub", "exec": {"command": ["x"]}}
        cluster.api.create("children", {"metadata": {"name": "b-object"}, "spec": {**body, "id": "b"}})
        await cluster.until(
            lambda: cluster.api.get("children", "b-object")["status"].get("state") == "Running", "it runs"
        )
        printed.text()
        async with watching(listing.list_children(NAMES, Selection(watch=True))):
            assert printed.text().split() == ["child/a", "child/b-object"]
            template = {"hub": "hub", "replicas": 3, "template": {"exec": {"command": ["x"]}}}
            cluster.api.create("childsets", {"metadata": {"name": "web"}, "spec": template})
            cluster.api.create("children", {"metadata": {"name": "c-object"}, "spec": {**body, "id": "c"}})
            await asyncio.sleep(5)
            assert set(printed.text().split()) == {"childset/web", "child/c-object"}

            cluster.api.delete("childsets", "web")
            cluster.api.delete("children", "b-object")
            await asyncio.sleep(5)
            assert set(printed.text().split()) == {"childset/web", "child/b-object"}

    with_cluster(tmp_path, monkeypatch, test)


def test_a_watch_of_members_names_prints_those_that_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        async with watching(status.members(NAMES, everywhere=False, watch=True)):
            assert printed.text().split() == ["pod/hub-0", "pod/hub-1", "pod/hub-2"]
            cluster.api.update(HUB_KEY, lambda hub: hub["spec"]["members"].update(weights={"hub-1": 3}))
            await asyncio.sleep(5)
            assert printed.text().split() == ["pod/hub-1"]

    with_cluster(tmp_path, monkeypatch, test)


def test_a_watch_of_all_namespaces_sees_hubs_that_are_created_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        async with watching(status.status(HUB, everywhere=True, watch=True)):
            assert [row[1] for row in printed.rows()] == ["hub"]
            other_namespace(cluster)
            await asyncio.sleep(1)
            assert "MembersNotReady   far-0 has no node" in printed.text()
            cluster.api.delete("hubs", "far", "away")
            await asyncio.sleep(1)
            printed.text()
            assert printed.err == "hub far of namespace away was deleted\n"

    with_cluster(tmp_path, monkeypatch, test)


def test_status_names_the_children_that_do_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        cluster.api.create("children", {"metadata": {"name": "b"}, "spec": {"hub": "hub", "exec": {"command": ["x"]},
                                                                           "suspend": True}})  # fmt: skip
        await cluster.until(lambda: "status" in cluster.api.get("children", "b"), "it is answered")
        await asyncio.sleep(2)
        printed.text()

        await status.status(HUB, everywhere=False, watch=False)
        text = printed.text()
        assert "Hub:        hub (namespace ns)" in text
        assert "Members:    3/3 ready" in text
        assert "MembersReady" in text
        assert "hub-2   True" in text

    with_cluster(tmp_path, monkeypatch, test)


def test_members_that_are_not_ready_are_shown_beside_their_last_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        (member,) = cluster.runs_on()["a"]
        for name in cluster.stops:
            cluster.stops[name].set()  # the operator does not act any more
        await asyncio.sleep(1)
        key = next(key for key in cluster.api.objects if key.plural == "hubs")
        places = cluster.api.get("hubs", "hub")["status"]["members"]

        def lose(item: dict[str, Any]) -> None:
            item["status"]["members"] = [{**one, "ready": one["name"] != member} for one in places]

        cluster.api.update(key, lose)
        printed.text()
        warning = f"warning: member {member} of hub hub is not ready: its children are shown as it last reported them"
        for verb in (listing.list_children(HUB), show.where("a", HUB), show.lookup("a", HUB), listing.dump(JSON),
                     explain.explain("a", HUB)):  # fmt: skip
            await verb
            assert printed.text()
            assert printed.err.startswith(warning)

    with_cluster(tmp_path, monkeypatch, test)


def test_an_id_that_none_of_several_hubs_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster) -> None:
        await started("a")
        cluster.api.create("hubs", {"metadata": {"name": "other"}, "spec": {"members": {"replicas": 0}}})
        cluster.api.create(
            "children", {"metadata": {"name": "left"}, "spec": {"hub": "gone", "exec": {"command": ["x"]}}}
        )
        client = cluster.client("user")

        with pytest.raises(CliError, match="no hub of namespace ns has a child 'A'; it has the hubs hub, other"):
            await target.resolve(client, "ns", None, ids=("A",))
        with pytest.raises(CliError, match="no hub of namespace ns has a member 'hub-9'; it has the hubs hub, other"):
            await target.resolve(client, "ns", None, members=("hub-9",))
        with pytest.raises(CliError, match="child 'left' is of hub gone, which is not in namespace ns; it has"):
            await target.resolve(client, "ns", None, ids=("left",))
        cluster.api.create("hubs", {"metadata": {"name": "lazy"}, "spec": {"onDemand": {"exec": {"command": ["x"]}}}})
        assert (await target.resolve(client, "ns", None, ids=("A",))).metadata.name == "lazy", "it may start any id"
        with pytest.raises(UsageError):
            await target.resolve(client, "ns", None)
        assert len((await client.list(HUBS, "ns"))[0]) == 3

    with_cluster(tmp_path, monkeypatch, test)


def test_every_copy_of_a_child_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}})
        await asyncio.sleep(5)

        await explain.explain("a", HUB)
        copies = printed.text().partition("\nCopies:\n")[2].splitlines()[1:3]
        assert [line.split()[1:3] for line in copies] == [["Active", "Running"], ["Passive", "Running"]]

    spec = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"}
    with_cluster(tmp_path, monkeypatch, test, redundancy=spec)


def test_a_child_that_cannot_be_read_is_named_among_several_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    args: dict[str, Any] = {}
    for _ in range(600):
        args = {"a": args}

    async def test(cluster: Cluster) -> None:
        cluster.api.create("hubs", {"metadata": {"name": "second"}, "spec": {}})
        spec = {"hub": "hub", "python": {"target": "m:C", "args": args}}
        cluster.api.create("children", {"metadata": {"name": "deep"}, "spec": spec})

        with pytest.raises(CliError, match="child 'deep' can't be read: it is nested too deeply"):
            await explain.explain("deep", HUB)

    with_cluster(tmp_path, monkeypatch, test)
