"""The client of a running hub: it starts, moves, drains and stops children on a simulated clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from memoryapi import Key
from onethread import Cluster, running_hub

from processhub.api.naming import ANNOTATION_HOOKS, ANNOTATION_NODES, ANNOTATION_PAUSED
from processhub.client.asynchub import AsyncHub
from processhub.client.errors import ChildrenFailed, HubError, HubNotFound, InvalidHook, NoChildren, Timeout
from processhub.client.hub import Hub
from processhub.client.session import Session, find_hub

EXEC = {"exec": {"command": ["x"]}}
MEMBERS = ["hub-0", "hub-1", "hub-2"]


def children(*ids: str, **spec: Any) -> list[dict[str, Any]]:
    return [{"id": child_id, **EXEC, **spec} for child_id in ids]


def with_hub(folder: Path, test: Callable[[AsyncHub, Cluster], Awaitable[None]], **spec: Any) -> None:
    """Run the test with a client that follows a hub with this spec."""

    async def main() -> None:
        async with running_hub(folder, **spec) as cluster:
            client = cluster.client("user")
            session = Session(client, "ns", await find_hub(client, "ns", "hub"))
            await session.follow()
            await test(AsyncHub.attached(session), cluster)
            await session.close()

    virtualtime.run(main())


def test_children_that_were_started_are_found_until_they_are_stopped(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        result = await hub.start_children(
            children("a", "b", tags=["own"]), wait=True, timeout=30, tags=["all"], metadata={"k": "v"}
        )
        assert result.ok
        assert {child_id: {member for member, _ in places} for child_id, places in result.started.items()} == {
            child_id: cluster.runs_on()[child_id] for child_id in ("a", "b")
        }

        (member,) = cluster.runs_on()["a"]
        spec, processes = hub.child_lookup("a") or pytest.fail("it is not on record")
        assert (list(spec.tags), spec.metadata, list(processes)) == (["all", "own"], {"k": "v"}, [(member, 7)])
        assert hub.child_lookup("c") is None
        assert (hub.get_pid("a"), hub.get_pids("a"), hub.get_pid("c"), hub.get_pids("c")) == (7, [7], None, [])
        assert (hub.is_alive("a"), hub.is_locked("a"), hub.is_alive("c"), hub.is_partitioned()) == (1, 0, 0, 0)
        assert hub.process_list().keys() == {"a", "b"}
        assert "a" in hub.process_list("local", member)
        assert hub.tag_query("own").keys() == hub.metadata_query(k="v").keys() == {"a", "b"}
        assert hub.metadata_query({"k": "v"}, other="w") == {}
        assert [node["name"] for node in hub.registry_dump()["a"]["nodes"]] == [member]
        assert hub.nodes() == MEMBERS

        stopped = await hub.stop_children(["a", "c"], wait=True)
        assert (stopped.stopped, stopped.errors["c"].reason) == (["a"], "NotFound")
        assert (cluster.runs_on()["a"], hub.child_lookup("a")) == (set(), None)
        assert hub.is_alive("b")

    with_hub(tmp_path, test)


def test_a_child_connects_to_its_own_hub_without_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_NAME", "shop")
    assert (Hub.connect().name, Hub.connect("other").name) == ("shop", "other")

    monkeypatch.delenv("HUB_NAME")
    with pytest.raises(HubError, match=r"name the hub: HUB_NAME is not set"):
        Hub.connect()


def test_invalid_calls_are_errors_and_processes_are_listed_for_all_or_one_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(hub: AsyncHub, _: Cluster) -> None:
        await hub.start_children(children(*map(str, range(12))), wait=True, timeout=30)
        with pytest.raises(HubError, match="scope is 'all'; it is 'global' or 'local'"):
            hub.process_list("all")
        monkeypatch.delenv("HUB_MEMBER", raising=False)
        with pytest.raises(HubError, match="this process runs in no member"):
            hub.process_list("local")
        for value, why in ((float("inf"), "a number that is NaN or infinite"), ("\udc80", r"its text has U\+DC80")):
            with pytest.raises(HubError, match=f"the request to child '1' does not fit JSON: .*{why}"):
                await hub.call("1", [value])

        monkeypatch.setenv("HUB_MEMBER", "hub-1")

        here = hub.process_list("local")
        assert here == hub.process_list("local", "hub-1") != {}
        assert {child_id for child_id, places in hub.process_list().items() if places[0][0] == "hub-1"} == set(here)

    with_hub(tmp_path, test)


def test_an_existing_id_is_an_error_or_counts_as_started_if_the_child_is_the_same(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, _: Cluster) -> None:
        await hub.start_children(children("a"), wait=True, timeout=30)

        again = await hub.start_children(children("a", "b"), wait=True, timeout=30)
        same = await hub.start_children(children("a"), wait=True, timeout=30, check_existing=False)
        other = await hub.start_children(children("a", pinned=True), wait=True, timeout=30, check_existing=False)

        assert (again.errors["a"].reason, list(again.started)) == ("AlreadyStarted", ["b"])
        assert (same.errors, list(same.started)) == ({}, ["a"])
        assert other.errors["a"].reason == "AlreadyStarted"
        with pytest.raises(NoChildren):
            await hub.start_children([])
        with pytest.raises(HubError, match="on_failure is 'undo'"):
            await hub.start_children(children("c"), on_failure="undo")  # type: ignore[arg-type]

    with_hub(tmp_path, test)


def test_a_rolled_back_call_leaves_no_child(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await hub.start_children(children("there"), wait=True, timeout=30)

        result = await hub.start_children(children("a", "b", "there"), wait=True, timeout=30, on_failure="rollback")

        assert result.errors["there"].reason == "AlreadyStarted"
        assert result.rollback is not None
        assert (set(result.rollback.removed), result.rollback.left) == ({"a", "b"}, {})
        assert cluster.api.objects.keys() >= {("children", "ns", "there")}
        assert not [key for key in cluster.api.objects if key.plural == "children" and key.name != "there"]
        assert hub.process_list().keys() == {"there"}

    with_hub(tmp_path, test)


def test_a_wait_returns_the_running_children_and_the_reasons_of_the_others(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, _: Cluster) -> None:
        await hub.start_children(children("a"))

        assert (await hub.wait_children(["a"], timeout=30)).started.keys() == {"a"}
        with pytest.raises(ChildrenFailed, match="not started: nobody") as failed:
            await hub.wait_children(["a", "nobody"], timeout=30)
        assert failed.value.result is not None
        assert failed.value.result.started.keys() == {"a"}

    with_hub(tmp_path, test)


def test_a_wait_for_a_child_without_room_times_out_with_the_reason(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, _: Cluster) -> None:
        result = await hub.start_children(children("a", "b", "c", "d"), wait=True, timeout=5)

        (late,) = result.errors
        assert result.errors[late].reason == "Timeout"
        with pytest.raises(Timeout, match=f"not running within 2 s: {late}"):
            await hub.wait_children([late], timeout=2)

    with_hub(tmp_path, test, members={"replicas": 3, "maxChildren": 1})


def test_a_child_moves_to_a_valid_member_and_not_to_an_invalid_one(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await hub.start_children([*children("a"), *children("bound", pinned=True)], wait=True, timeout=30)
        (source,) = cluster.runs_on()["a"]
        target = next(name for name in MEMBERS if name != source)

        await hub.migrate_child("a", target, wait=True)
        assert cluster.runs_on()["a"] == {target}
        await hub.migrate_child("a", target, wait=True)  # it is there already

        (held,) = cluster.runs_on()["bound"]
        other = next(name for name in MEMBERS if name != held)
        for child_id, member, why in (
            ("a", "hub-9", "has no member 'hub-9'; it has hub-0, hub-1, hub-2"),
            ("bound", other, "child 'bound' is pinned"),
            ("nobody", other, "nobody"),
        ):
            with pytest.raises(HubError, match=why):
                await hub.migrate_child(child_id, member, wait=True)

    with_hub(tmp_path, test)


def test_a_drained_member_loses_the_children_that_can_move_and_gets_children_after_an_undrain(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await hub.start_children(children(*map(str, range(12))), wait=True, timeout=30)
        await hub.start_children(children(*(f"p{number}" for number in range(6)), pinned=True), wait=True, timeout=30)
        bound = {child_id for child_id, places in cluster.runs_on().items() if child_id[0] == "p" and "hub-0" in places}
        assert bound, "the test needs one on hub-0"

        result = await hub.drain("hub-0", wait=True)
        assert set(result.stranded) == bound
        assert set(result.reasons.values()) == {"pinned"}
        assert {child_id for child_id, places in cluster.runs_on().items() if "hub-0" in places} == bound
        with pytest.raises(HubError, match="member hub-0 is drained"):
            await hub.migrate_child("0", "hub-0")

        await hub.drain("hub-0", force=True, wait=True)
        assert not any("hub-0" in places for places in cluster.runs_on().values())

        assert await hub.undrain("hub-0")
        assert not await hub.undrain("hub-0")
        await cluster.until(lambda: any("hub-0" in places for places in cluster.runs_on().values()), "it takes some")
        with pytest.raises(HubError, match="has no member 'hub-9'"):
            await hub.drain("hub-9")

    with_hub(tmp_path, test)


def test_a_wait_for_a_suspended_child_fails_and_says_so(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await hub.start_children(children("a", "b"), wait=True, timeout=30)
        key = Key("hubs", "ns", "hub")

        async def reasons(child_id: str) -> list[tuple[str, str]]:
            with pytest.raises(ChildrenFailed) as raised:
                await hub.wait_children([child_id], timeout=20)
            return [(error.reason, error.message) for error in raised.value.result.errors.values()]

        cluster.api.update(key, lambda item: item["spec"].update(suspend=True))
        await cluster.until(lambda: not any(cluster.runs_on().values()), "all are stopped")
        await asyncio.sleep(2)
        assert await reasons("a") == [("Suspended", "spec.suspend of hub hub is true")]

        cluster.api.update(Key("children", "ns", "b"), lambda item: item["spec"].update(suspend=True))
        cluster.api.update(key, lambda item: item["spec"].update(suspend=False))
        await cluster.until(lambda: not hub._session.living_hub().spec.suspend, "the client knows it")
        assert (await hub.wait_children(["a"], timeout=20)).ok, "it is being resumed"
        assert await reasons("b") == [("Suspended", "spec.suspend is true")]

    with_hub(tmp_path, test)


def test_an_undrain_that_waits_returns_when_the_member_has_its_share(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await hub.start_children(children(*map(str, range(12))), wait=True, timeout=30)
        before = cluster.runs_on()
        await hub.drain("hub-0", wait=True)

        assert await hub.undrain("hub-0", wait=True)
        assert cluster.runs_on() == before

        await hub.drain("hub-0", wait=True)
        assert await hub.undrain("hub-0")
        assert not await hub.undrain("hub-0", wait=True), "it waits for the one before"
        assert cluster.runs_on() == before

    with_hub(tmp_path, test, distribution={"loadCapPercent": 1000})


def test_an_undrain_that_waits_right_after_a_drain_does_not_take_the_status_before_both_for_the_result(
    tmp_path: Path,
) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await hub.start_children(children(*map(str, range(12))), wait=True, timeout=30)
        before = cluster.runs_on()
        await hub.drain("hub-0")
        cluster.api.webhook_seconds = lambda key: 1.5 if key.plural == "hubs" else 0.0
        await cluster.until(lambda: cluster.runs_on() != before, "its children leave")
        cluster.api.webhook_seconds = lambda key: 0.0
        (member,) = (member for member in hub._session.living_hub().status.members if member.name == "hub-0")
        assert not member.drained, "the status is that before the drain"

        assert await hub.undrain("hub-0", wait=True)
        assert cluster.runs_on() == before

    with_hub(tmp_path, test, distribution={"loadCapPercent": 1000})


def test_a_drain_of_an_empty_member_waits_for_the_operator(tmp_path: Path) -> None:
    """Until then a child may be placed on it."""

    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        paused = {ANNOTATION_PAUSED: "true"}
        key = Key("hubs", "ns", "hub")
        cluster.api.update(key, lambda item: item["metadata"].setdefault("annotations", {}).update(paused))
        with pytest.raises(Timeout, match="hub-0 is not drained within 20 s: no operator has acted on that yet"):
            await hub.drain("hub-0", wait=True, timeout=20)

        cluster.api.update(key, lambda item: item["metadata"]["annotations"].pop(ANNOTATION_PAUSED))
        assert (await hub.drain("hub-0", wait=True)).left == ()

    with_hub(tmp_path, test)


def test_an_undrain_that_nothing_acts_on_times_out_and_says_why(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await hub.start_children(children(*map(str, range(12))), wait=True, timeout=30)
        await hub.drain("hub-0", wait=True)
        paused = {ANNOTATION_PAUSED: "true"}
        cluster.api.update(Key("hubs", "ns", "hub"), lambda item: item["metadata"]["annotations"].update(paused))

        with pytest.raises(Timeout, match="its share of the children within 20 s: no operator has acted on that yet"):
            await hub.undrain("hub-0", wait=True, timeout=20)

    with_hub(tmp_path, test)


def test_the_error_for_an_unknown_hub_names_the_hubs_of_the_namespace(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        with pytest.raises(HubNotFound, match="hub other not found in namespace ns; there are: hub"):
            await find_hub(cluster.client("user"), "ns", "other")

    with_hub(tmp_path, test)


def test_registered_hooks_are_called_until_they_are_cancelled(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        def hooks() -> list[str]:
            stored = cluster.api.get("hubs", "hub")
            assert "hooks" not in stored["spec"], "its manifest can be applied again"
            return list(stored["status"]["hooks"]["inEffect"])

        webhook = {"event": "ChildStarted", "webhook": {"url": "http://audit.example"}}
        await hub.register_hook_handlers([{"name": "a", **webhook}, {"name": "b", **webhook}])
        assert hooks() == ["a", "b"]

        with pytest.raises(InvalidHook, match="hub hub has a hook b already"):
            await hub.register_hook_handlers([{"name": "c", **webhook}, {"name": "b", **webhook}])
        with pytest.raises(InvalidHook, match=r"not registered: .* must begin with http"):
            await hub.register_hook_handlers([{"name": "c", "event": "ChildStarted", "webhook": {"url": "audit"}}])
        with pytest.raises(InvalidHook, match="hub hub has no hook c; there are: a, b"):
            await hub.cancel_hook_handlers(["a", "c"])
        with pytest.raises(InvalidHook, match="names is the text 'a'; write a list"):
            await hub.cancel_hook_handlers("a")
        assert hooks() == ["a", "b"], "nothing was changed"

        await hub.cancel_hook_handlers(["a"])
        assert hooks() == ["b"]

    with_hub(tmp_path, test)


def test_a_cancelled_hook_of_the_spec_is_called_again_when_it_is_edited(tmp_path: Path) -> None:
    declared = {"name": "a", "event": "ChildMoved", "webhook": {"url": "http://audit.example"}}

    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        async def is_called(*names: str) -> None:
            await cluster.until(
                lambda: cluster.api.get("hubs", "hub")["status"]["hooks"]["inEffect"] == list(names), f"{names}"
            )

        await is_called("a")
        await hub.cancel_hook_handlers(["a"])
        await is_called()
        cluster.api.update(Key("hubs", "ns", "hub"), lambda item: item["spec"].update(suspend=False))
        await is_called()
        for priority in (5, 0):
            changed = [{**declared, "priority": priority} if priority else declared]
            cluster.api.update(Key("hubs", "ns", "hub"), lambda item, hooks=changed: item["spec"].update(hooks=hooks))
            await is_called("a")
            await cluster.until(
                lambda: ANNOTATION_HOOKS not in cluster.api.get("hubs", "hub")["metadata"].get("annotations", {}),
                "the cancellation is over, so that the edit can be undone",
            )
        await is_called("a")

    with_hub(tmp_path, test, hooks=[declared])


def test_an_unreadable_move_annotation_is_removed_and_reported(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await hub.start_children(children("a"), child_mapping={"a": ["hub-1"]}, wait=True, timeout=30)
        (key,) = (key for key in cluster.api.objects if key.plural == "children")

        cluster.api.update(key, lambda item: item["metadata"]["annotations"].update({ANNOTATION_NODES: "hub-2"}))

        def gone() -> bool:
            return ANNOTATION_NODES not in cluster.api.objects[key]["metadata"]["annotations"]

        await cluster.until(gone, "it is removed")
        assert cluster.runs_on()["a"] == {"hub-1"}

        def said() -> bool:
            events = [item for key, item in cluster.api.objects.items() if key.plural == "events"]
            return any("use kubectl hub move, or write a JSON object" in event["message"] for event in events)

        await cluster.until(said, "the Child has an Event")

    with_hub(tmp_path, test, distribution={"strategy": "Guided"})


def test_a_child_of_a_set_can_be_moved_but_is_stopped_with_its_set(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        spec = {"hub": "hub", "replicas": 4, "template": EXEC}
        cluster.api.create("childsets", {"metadata": {"name": "web"}, "spec": spec})
        ids = [f"web-{number}" for number in range(4)]
        await cluster.until(lambda: hub.process_list().keys() == set(ids), "they run")
        before = {child_id: cluster.runs_on()[child_id] for child_id in ids}
        target = next(name for name in MEMBERS if {name} != before["web-0"])

        await hub.migrate_child("web-0", target, wait=True)

        assert {child_id: cluster.runs_on()[child_id] for child_id in ids} == {**before, "web-0": {target}}
        assert (await hub.stop_children(["web-1"])).errors["web-1"].message.count("childset/web")
        cluster.api.delete("childsets", "web")
        await cluster.until(lambda: not any(cluster.runs_on().values()), "they end with their set")

    with_hub(tmp_path, test)


def test_a_static_child_runs_as_long_as_its_hub_lists_it(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        await cluster.until(lambda: hub.process_list().keys() == {"one", "two"}, "they run")
        stopped = await hub.stop_children(["one"], wait=True)
        assert stopped.errors["one"].reason == "StaticChild"

        key = Key("hubs", "ns", "hub")
        cluster.api.update(key, lambda item: item["spec"].update(children=[{"id": "two", "exec": {"command": ["y"]}}]))

        await cluster.until(lambda: hub.process_list().keys() == {"two"}, "one is gone")
        await cluster.until(lambda: hub.registry_dump()["two"]["spec"]["exec"]["command"] == ["y"], "it is edited")
        await cluster.until(lambda: len(cluster.runs_on()["two"]) == 1, "it runs anew")
        assert cluster.runs_on()["one"] == set()

    with_hub(tmp_path, test, children=[{"id": "one", **EXEC}, {"id": "two", **EXEC}])


def test_a_child_of_a_guided_hub_is_moved_by_its_nodes(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        with pytest.raises(HubError, match="nodes"):
            await hub.start_children(children("a"))
        await hub.start_children(children("a"), child_mapping={"a": ["hub-1"]}, wait=True, timeout=30)
        assert cluster.runs_on()["a"] == {"hub-1"}

        (key,) = (key for key in cluster.api.objects if key.plural == "children")

        await hub.migrate_child("a", "hub-2", wait=True)

        assert cluster.runs_on()["a"] == {"hub-2"}
        assert cluster.api.objects[key]["spec"]["nodes"] == ["hub-1"], "its manifest can be applied again"
        cluster.api.update(key, lambda child: child["spec"].update(tags=["eu"]))
        await hub.migrate_child("a", "hub-0", wait=True)
        assert cluster.runs_on()["a"] == {"hub-0"}, "an edit of another field ends no move"

        cluster.api.update(key, lambda child: child["spec"].update(nodes=["hub-2"]))
        await cluster.until(lambda: cluster.runs_on()["a"] == {"hub-2"}, "the edit wins")
        cluster.api.update(key, lambda child: child["spec"].update(nodes=["hub-1"]))
        await cluster.until(lambda: cluster.runs_on()["a"] == {"hub-1"}, "the move is over")
        assert ANNOTATION_NODES not in cluster.api.objects[key]["metadata"]["annotations"]

    with_hub(tmp_path, test, distribution={"strategy": "Guided"})


def test_a_child_that_its_user_has_made_go_with_the_hub_is_no_static_child(tmp_path: Path) -> None:
    async def test(hub: AsyncHub, cluster: Cluster) -> None:
        uid = cluster.api.get("hubs", "hub")["metadata"]["uid"]
        owner = {"apiVersion": "processhub.dev/v1alpha1", "kind": "Hub", "name": "hub", "uid": uid}
        metadata = {"name": "a", "ownerReferences": [owner]}
        cluster.api.create("children", {"metadata": metadata, "spec": {"hub": "hub", **EXEC}})
        await hub.wait_children(["a"], timeout=30)
        await asyncio.sleep(30)

        stored = cluster.api.get("children", "a")["metadata"]
        assert (stored["ownerReferences"], stored.get("labels", {})) == ([owner], {})
        assert hub.is_alive("a")
        assert (await hub.stop_children(["a"], wait=True)).stopped == ["a"]

    with_hub(tmp_path, test)
