"""The Python client against the product at work: which calls start children, which are rejected, what remains."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from livehub import SLEEP, WAIT, Live, live, losing_answers, sleepers
from waiting import alive, eventually

import processhub
from localcluster.cluster import Cluster
from processhub import Hub, HubError
from processhub.api.naming import child_object_names
from processhub.client.errors import (
    ChildMappingMismatch,
    ChildNotFound,
    ChildrenFailed,
    HubNotFound,
    MissingChildMapping,
    NoChildren,
    Timeout,
    Unreachable,
)
from processhub.cluster.client import Client
from processhub.cluster.kinds import CHILDREN, HUBS


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def name(product: Live) -> str:
    """A hub of two members that the tests share; each uses ids of its own."""
    return await product.hub("shared")


@pytest_asyncio.fixture
async def hub(product: Live, name: str) -> AsyncIterator[Hub]:
    async with product.connect(name) as client:
        yield client


async def test_started_children_run_and_can_be_looked_up(hub: Hub) -> None:
    result = await hub.start_children(
        sleepers("look-a", "look/b", "näh 🐝"), wait=True, timeout=WAIT, metadata={"k": "v"}, tags=["eu"]
    )

    assert result.ok
    assert set(result.started) == {"look-a", "look/b", "näh 🐝"}
    spec, processes = hub.child_lookup("look/b") or pytest.fail("not on record")
    assert spec["exec"]["command"] == SLEEP["command"]
    assert processes == result.started["look/b"]
    pid = hub.get_pid("look/b")
    assert pid is not None
    assert alive(pid)
    assert hub.get_pids("look/b") == [pid]
    assert set(hub.tag_query("eu")) == set(hub.metadata_query(k="v")) == set(result.started)
    assert hub.metadata_query({"k": "other"}) == {}
    member = processes[0][0]
    assert hub.process_list()["look/b"] == [(member, pid)]
    assert hub.process_list("local", member=member)["look/b"] == pid
    assert hub.registry_dump()["look/b"]["nodes"][0]["state"] == "Running"
    assert hub.nodes() == ["shared-0", "shared-1"]
    assert hub.is_alive("look/b")
    assert not hub.is_locked("look/b")
    assert not hub.is_partitioned()

    stopped = await hub.stop_children(list(result.started), wait=True, timeout=WAIT)

    assert stopped.errors == {}
    assert not alive(pid)
    assert hub.child_lookup("look/b") is None
    assert hub.get_pid("look/b") is None
    assert not hub.is_alive("look/b")


async def test_a_start_without_wait_returns_at_once_and_can_be_awaited(hub: Hub) -> None:
    result = await hub.start_children(sleepers("later-a", "later-b"))
    assert result.started == {"later-a": (), "later-b": ()}

    assert (await result.wait(WAIT)).ok
    assert all(result.started.values())
    assert (await hub.wait_children(["later-a", "later-b"], timeout=WAIT)).ok

    assert (await hub.stop_children(["later-a", "later-b"])).ok


async def test_the_pid_changes_after_a_process_is_killed(hub: Hub) -> None:
    await hub.start_children(sleepers("killed"), wait=True, timeout=WAIT)
    before = hub.get_pid("killed")
    assert before is not None

    os.kill(before, 9)

    async def restarted() -> bool:
        return hub.get_pid("killed") not in (None, before)

    await eventually(restarted, "a new pid in the registry")
    await hub.stop_children(["killed"], wait=True)


async def test_a_bad_call_raises_before_anything_is_written(product: Live, hub: Hub) -> None:
    guided = await product.hub(distribution={"strategy": "Guided"}, ready=False, replicas=1)
    async with product.connect(guided) as client:
        with pytest.raises(MissingChildMapping):
            await client.start_children(sleepers("b1"))
    with pytest.raises(NoChildren):
        await hub.start_children([])
    with pytest.raises(NoChildren):
        await hub.stop_children([])
    with pytest.raises(ChildMappingMismatch):
        await hub.start_children(sleepers("b2"), child_mapping={"b3": ["shared-0"]})
    with pytest.raises(HubError, match="on_failure is 'stop'"):
        await hub.start_children(sleepers("b2"), on_failure="stop")  # type: ignore[arg-type]

    assert not {"b1", "b2"} & {*await product.children(hub.name), *await product.children(guided)}


async def test_guided_children_run_where_the_call_maps_them(product: Live) -> None:
    guided = await product.hub(distribution={"strategy": "Guided"})
    async with product.connect(guided) as client:
        result = await client.start_children(
            sleepers("g1", "g2", "g3"),
            wait=True,
            timeout=WAIT,
            child_mapping={"g1": [f"{guided}-1"], "g2": [f"{guided}-0"], "g3": [f"{guided}-0", f"{guided}-1"]},
        )

        assert result.errors["g3"].reason == "ChildReplicationMismatch"
        assert [result.started[child_id][0][0] for child_id in ("g1", "g2")] == [f"{guided}-1", f"{guided}-0"]


async def test_an_existing_id_is_an_error_or_accepted_if_the_child_is_the_same(product: Live, hub: Hub) -> None:
    await hub.start_children(sleepers("exists"), wait=True, timeout=WAIT)
    pid = hub.get_pid("exists")

    strict = await hub.start_children(sleepers("exists", "exists-new"), wait=True, timeout=WAIT)
    assert strict.errors["exists"].reason == "AlreadyStarted"
    assert set(strict.started) == {"exists-new"}

    same = await hub.start_children(sleepers("exists"), wait=True, timeout=WAIT, check_existing=False)
    assert same.ok
    assert same.started["exists"][0][1] == pid

    other = await hub.start_children([{"id": "exists", "exec": {"command": ["true"]}}], check_existing=False)
    assert "exists with another spec" in other.errors["exists"].message
    await hub.stop_children(["exists", "exists-new"], wait=True)


async def test_a_child_whose_object_has_another_name_is_found_by_its_id(product: Live, hub: Hub) -> None:
    await product.child("object-name", hub.name, id="its/id")
    await hub.wait_children(["its/id"], timeout=WAIT)

    again = await hub.start_children(sleepers("its/id"))
    assert again.errors["its/id"].reason == "AlreadyStarted"
    assert "child/object-name" in again.errors["its/id"].message
    assert len([child for child in (await product.children(hub.name)).values() if child.id == "its/id"]) == 1

    assert (await hub.stop_children(["its/id"], wait=True, timeout=WAIT)).ok
    assert "its/id" not in await product.children(hub.name)


async def test_a_child_gets_another_object_name_if_another_hubs_child_has_that_of_its_id(
    product: Live, hub: Hub
) -> None:
    other = await product.hub(ready=False, replicas=0)
    theirs = await product.child("taken", other)

    result = await hub.start_children(sleepers("taken"), wait=True, timeout=WAIT)
    assert result.ok, result.errors
    assert result.objects["taken"] != "taken"
    again = await hub.start_children(sleepers("taken"))
    assert again.errors["taken"].reason == "AlreadyStarted"
    stopped = await hub.stop_children(["taken"], wait=True, timeout=WAIT)
    assert stopped.ok, stopped.errors
    assert stopped.objects == result.objects
    rolled = await hub.start_children(
        [*sleepers("taken"), {"id": "bad", "exec": {"command": ["/no"]}}],
        wait=True,
        timeout=WAIT,
        on_failure="rollback",
    )
    assert rolled.rollback
    assert set(rolled.rollback.removed) == {"taken", "bad"}
    assert (await product.children(other))["taken"].metadata.uid == theirs.metadata.uid


async def test_a_start_fails_if_both_object_names_of_an_id_are_taken(product: Live, hub: Hub) -> None:
    other = await product.hub(ready=False, replicas=0)
    names = child_object_names(hub.name, "theirs")
    for name in names:
        await product.child(name, other)

    error = (await hub.start_children(sleepers("theirs"))).errors["theirs"]

    assert error.reason == "NameConflict"
    assert error.message.startswith(f"child/{names[0]} and child/{names[1]} exist")


async def test_a_child_that_cannot_start_is_an_error_and_the_others_run(hub: Hub) -> None:
    result = await hub.start_children(
        [*sleepers("fine"), {"id": "no-such", "exec": {"command": ["/no/such/program"]}}], wait=True, timeout=WAIT
    )

    assert set(result.started) == {"fine"}
    assert result.errors["no-such"].reason == "CommandNotFound"
    assert "/no/such/program" in result.errors["no-such"].message
    await hub.stop_children(["fine", "no-such"], wait=True)


async def test_a_rollback_leaves_only_the_children_that_existed_before(product: Live, hub: Hub) -> None:
    await hub.start_children(sleepers("kept"), wait=True, timeout=WAIT)
    others = await product.children(hub.name)

    result = await hub.start_children(
        [*sleepers(*(f"undone-{index}" for index in range(50)), "kept"), {"id": "bad", "exec": {"command": ["/no"]}}],
        wait=True,
        timeout=WAIT,
        on_failure="rollback",
        check_existing=False,
    )

    assert result.errors["bad"].reason == "CommandNotFound"
    assert not result.started
    assert result.rollback is not None
    assert set(result.rollback.removed) == {f"undone-{index}" for index in range(50)} | {"bad"}
    assert not result.rollback.left
    assert (await product.children(hub.name)).keys() == others.keys()
    assert not [child_id for child_id in hub.registry_dump() if child_id.startswith("undone")]
    assert hub.is_alive("kept")
    await hub.stop_children(["kept"], wait=True)


async def test_a_cancelled_start_with_rollback_leaves_no_child(product: Live, hub: Hub) -> None:
    ids = [f"cut-{index}" for index in range(300)]
    call = asyncio.create_task(hub.start_children(sleepers(*ids), wait=True, timeout=60, on_failure="rollback"))

    async def begun() -> bool:
        return len(await product.children(hub.name)) > 20

    await eventually(begun, "some children created", within=30)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert not set(ids) & (await product.children(hub.name)).keys()
    assert not set(ids) & hub.registry_dump().keys()


async def test_a_child_whose_creation_got_no_response_is_rolled_back_too(
    product: Live, name: str, tmp_path: Path
) -> None:
    async with (
        losing_answers(product, "lost", tmp_path) as kubeconfig,
        Hub.connect(name, kubeconfig=kubeconfig) as client,
    ):
        result = await client.start_children(sleepers("heard", "lost"), wait=True, timeout=WAIT, on_failure="rollback")

    assert result.errors["lost"].reason == "Unreachable"
    assert result.rollback is not None
    assert "lost" in result.rollback.removed
    assert not {"heard", "lost"} & (await product.children(name)).keys()


async def test_a_timeout_names_the_pending_children_and_their_reasons(product: Live) -> None:
    full = await product.hub(replicas=1, members={"maxChildren": 1})
    async with product.connect(full) as client:
        result = await client.start_children(sleepers("one", "two"), wait=True, timeout=8)

        assert len(result.started) == 1
        (late,) = result.errors
        assert result.errors[late].reason == "Timeout"
        assert "CapacityExceeded" in result.errors[late].message
        with pytest.raises(Timeout, match="CapacityExceeded") as raised:
            await client.wait_children(["one", "two"], timeout=5)
        assert raised.value.pending == (late,)
        assert raised.value.result is not None
        assert set(raised.value.result.started) == {"one", "two"} - {late}

        # The child is not lost after a timeout: it runs when there is room.
        await client.stop_children(list(result.started), wait=True, timeout=WAIT)
        assert (await client.wait_children([late], timeout=WAIT)).ok


async def test_a_child_that_the_operator_rejects_is_an_error_with_its_reason(product: Live) -> None:
    refused = await product.hub(ready=False, replicas=1, distribution={"strategy": "Nearest"})
    async with product.connect(refused) as client:
        result = await client.start_children(sleepers("refused"), wait=True, timeout=WAIT)

        assert result.errors["refused"].reason == "UnknownStrategy"


async def test_waiting_for_an_unknown_child_fails_at_once(hub: Hub) -> None:
    with pytest.raises(ChildrenFailed, match="no child 'nobody'") as raised:
        await hub.wait_children(["nobody"], timeout=30)

    assert raised.value.result.errors["nobody"].reason == "NotFound"


async def test_deleting_a_child_ends_a_wait_for_it(product: Live) -> None:
    empty = await product.hub(ready=False, replicas=0)
    await product.child("doomed", empty)
    async with product.connect(empty) as client:
        waiting = asyncio.create_task(client.wait_children(["doomed"], timeout=30))
        await asyncio.wait([waiting], timeout=1)
        await product.api.delete(CHILDREN, product.namespace, "doomed")

        with pytest.raises(ChildrenFailed, match=r"was deleted before it ran|no child 'doomed'"):
            await waiting


async def test_a_static_child_cannot_be_stopped(product: Live) -> None:
    name = await product.hub(replicas=1, children=[{"id": "fixed", "exec": SLEEP}])
    async with product.connect(name) as client:
        await client.wait_children(["fixed"], timeout=WAIT)

        stopped = await client.stop_children(["fixed"])

        assert stopped.errors["fixed"].reason == "StaticChild"
        assert "spec.children" in stopped.errors["fixed"].message
        assert client.is_alive("fixed")


async def test_an_id_may_be_started_again_at_once(hub: Hub) -> None:
    for _ in range(3):
        assert (await hub.start_children(sleepers("again"), wait=True, timeout=WAIT)).ok
        assert (await hub.stop_children(["again"])).ok
    await hub.stop_children(["again"], wait=True)


async def test_a_child_started_on_a_member_has_that_member_as_its_origin(
    product: Live, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_NAME", hub.name)
    monkeypatch.setenv("HUB_MEMBER", "shared-1")

    await hub.start_children(sleepers("from-inside"))

    assert (await product.children(hub.name))["from-inside"].spec.origin == "shared-1"
    await hub.stop_children(["from-inside"], wait=True)


async def test_a_client_follows_a_hub_that_is_deleted_and_created_again(product: Live) -> None:
    name = await product.hub(replicas=1)
    async with product.connect(name) as client:
        await client.start_children(sleepers("reborn"), wait=True, timeout=WAIT)
        await product.api.delete(HUBS, product.namespace, name)

        async def forgotten() -> bool:
            return client.child_lookup("reborn") is None

        await eventually(forgotten, "the registry of the deleted hub to empty", within=90)
        with pytest.raises(HubNotFound, match="was deleted"):
            await client.start_children(sleepers("x"))
        await product.hub(name, replicas=1)
        await client.wait_children(["reborn"], timeout=WAIT)
        assert client.is_alive("reborn")


async def test_the_registry_recovers_from_a_failed_update(
    product: Live, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with product.connect(name) as client:
        faults = iter([ZeroDivisionError("a fault of ours")])

        def fail_once(changed: set[str]) -> None:
            for fault in faults:
                raise fault

        client._registry.listen(fail_once)
        await client.start_children(sleepers("healed"), wait=True, timeout=WAIT)

        assert "is read again" in caplog.text
        assert client.is_alive("healed")
        await client.stop_children(["healed"], wait=True)


async def test_the_error_for_an_unknown_hub_lists_the_existing_hubs(product: Live, name: str) -> None:
    with pytest.raises(HubNotFound, match=rf"hub nope not found in namespace {product.namespace}; there are: .*{name}"):
        async with product.connect("nope"):
            pytest.fail("connected")


async def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        '{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}],'
        ' "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}]}'
    )

    with pytest.raises(Unreachable, match="does not answer"):
        async with Hub.connect("h", namespace="n", kubeconfig=str(tmp_path / "config")):
            pytest.fail("connected")


async def test_the_error_of_an_unconnected_client_says_how_to_connect() -> None:
    with pytest.raises(HubError, match=r"async with Hub\.connect"):
        await Hub.connect("h").start_children(sleepers("a"))


async def test_the_blocking_client_has_the_same_calls(product: Live, name: str) -> None:
    def work() -> None:
        with Hub.connect_sync(name, namespace=product.namespace, kubeconfig=product.kubeconfig) as client:
            result = client.start_children(sleepers("sync-a", "sync-b"), tags=["sync"])
            assert result.wait(WAIT).ok
            assert set(client.tag_query("sync")) == {"sync-a", "sync-b"}
            assert client.get_pid("sync-a") in client.get_pids("sync-a")
            assert client.child_lookup("sync-a") is not None
            assert client.process_list("local", member=client.process_list()["sync-a"][0][0])["sync-a"]
            assert client.is_alive("sync-a")
            assert "sync-a" in client.registry_dump()
            assert client.nodes() == ["shared-0", "shared-1"]
            assert client.wait_children(["sync-b"]).ok
            with pytest.raises(NoChildren):
                client.stop_children([])
            with pytest.raises(ChildNotFound):
                client.call("nobody", {})
            with pytest.raises(ChildNotFound):
                client.cast("nobody", {})
            assert client.stop_children(["sync-a", "sync-b"], wait=True).ok
        with pytest.raises(HubError, match="is closed"):
            client.wait_children(["sync-a"])

    await asyncio.to_thread(work)


@pytest.mark.nightly
@pytest.mark.timeout(400)
async def test_children_over_the_size_of_a_slice_are_all_registered(product: Live) -> None:
    name = await product.hub(replicas=1)
    ids = [f"many-{index}" for index in range(1100)]
    async with product.connect(name) as client:
        result = await client.start_children(sleepers(*ids), wait=True, timeout=180)

        assert result.errors == {}
        assert result.started.keys() == set(ids)
        assert client.process_list().keys() == set(ids)
        stopped = await client.stop_children(ids, wait=True, timeout=180)
        assert stopped.errors == {}
        assert set(stopped.stopped) == set(ids)
        assert client.process_list() == {}


def test_the_package_imports_the_client_lazily() -> None:
    assert processhub.Hub is Hub
    assert issubclass(Timeout, processhub.HubError)
