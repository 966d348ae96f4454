"""The counterparts of ProcessHub's calls: methods of the client and verbs of the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from hookreceiver import Json, Receiver
from hubcli import Cli
from livehub import COUNTER, SLEEP, WAIT, Live, places, sleepers, started
from sharedhubs import at_rest, edited, without_quorum
from waiting import alive, eventually, until

from processhub import Hub, HubError
from processhub.api.registeredhooks import parse_registered_hooks
from processhub.client.errors import InvalidHook
from processhub.cluster.kinds import HUBS


@pytest.mark.row("Calls: start_children, start_child")
async def test_one_call_starts_one_child_or_many(product: Live, plain: Hub, cli: Cli) -> None:
    ids = [f"start-{number}" for number in range(20)]
    bad = {"id": "start-bad", "exec": {"command": ["/no/such/program"]}}

    result = await plain.start_children([*sleepers(*ids), bad], wait=True, timeout=WAIT)
    by_command = await cli("start start-hub --wait --exec -- sleep 1000")
    await product.apply("Child", "start-applied", hub="plain", exec=SLEEP)

    assert set(result.started) == set(ids)
    assert result.errors.keys() == {"start-bad"}
    assert by_command.code == 0, by_command.err
    assert (await plain.wait_children(["start-hub", "start-applied"], timeout=WAIT)).ok
    await plain.stop_children([*ids, "start-bad"], wait=True)


@pytest.mark.row("Calls: stop_children, stop_child")
async def test_children_are_stopped_by_id_or_in_their_declaration(product: Live, plain: Hub, cli: Cli) -> None:
    await product.apply("ChildSet", "stop-set", hub="plain", replicas=1, template={"exec": SLEEP})
    await started(plain, sleepers("stop-a", "stop-b", "stop-c"))
    await plain.wait_children(["stop-set-0", "fixed"], timeout=WAIT)
    pids = [plain.get_pid(child_id) for child_id in ("stop-a", "stop-b", "stop-c", "stop-set-0")]

    by_client = await plain.stop_children(["stop-a", "stop-set-0", "fixed"], wait=True, timeout=WAIT)
    by_command = await cli("stop stop-b --wait")
    await product.kubectl("delete", "child/stop-c", "childset/stop-set")

    assert by_client.stopped == ["stop-a"]
    reasons = {child_id: error.reason for child_id, error in by_client.errors.items()}
    assert reasons == {"stop-set-0": "ChildSet", "fixed": "StaticChild"}
    assert by_command.code == 0, by_command.err
    await until(lambda: not any(alive(pid or 0) for pid in pids), "all of them ended")
    assert plain.is_alive("fixed")


@pytest.mark.row("Calls: await")
async def test_a_start_can_be_awaited_in_the_call_and_after_it(product: Live, plain: Hub, cli: Cli) -> None:
    result = await plain.start_children(sleepers("await-a", "await-b"))

    assert (await result.wait(WAIT)).ok
    assert (await plain.wait_children(["await-a", "await-b"], timeout=WAIT)).ok
    assert (await plain.start_children(sleepers("await-c"), wait=True, timeout=WAIT)).started["await-c"]
    assert (await cli("await await-a await-b")).code == 0
    await product.kubectl("wait", "--for=condition=Ready", "child/await-a", "--timeout=40s")


@pytest.mark.row("Calls: child_lookup")
async def test_a_look_up_gives_spec_and_processes(plain: Hub, cli: Cli) -> None:
    member = (await started(plain, sleepers("looked-up")))["looked-up"]

    spec, processes = plain.child_lookup("looked-up") or pytest.fail("not on record")
    by_command = (await cli("lookup looked-up -o json")).json

    assert spec["exec"]["command"] == by_command["spec"]["exec"]["command"] == SLEEP["command"]
    assert processes == [(member, plain.get_pid("looked-up"))]
    assert (by_command["nodes"][0]["name"], by_command["nodes"][0]["pid"]) == processes[0]
    assert plain.child_lookup("nobody") is None


@pytest.mark.row("Calls: get_pid, get_pids")
async def test_pids_are_the_pids_on_the_node(copies: Hub, cli: Cli) -> None:
    await started(copies, sleepers("pids"))
    await until(lambda: len(copies.get_pids("pids")) == 2, "the passive copy, which is not waited for, runs too")

    pids = copies.get_pids("pids")
    by_command = (await cli("where pids --hub copies -o json")).json

    assert len(pids) == 2
    assert all(map(alive, pids))
    assert copies.get_pid("pids") == pids[0], "the active one's"
    assert [node["pid"] for node in by_command["nodes"]] == pids


@pytest.mark.row("Calls: process_list")
async def test_processes_are_listed_for_the_hub_or_one_member(plain: Hub, cli: Cli) -> None:
    members = await started(plain, sleepers("list-a", "list-b", "list-c"))

    everywhere, rows = plain.process_list("global"), (await cli("list")).rows

    by_command = {row[0]: row[4] for row in rows}
    for child_id, member in members.items():
        pid = plain.get_pid(child_id)
        assert everywhere[child_id] == [(member, pid)]
        assert plain.process_list("local", member=member)[child_id] == pid
        assert by_command[child_id] == str(pid)
        (other,) = set(plain.nodes()) - {member}
        assert child_id not in plain.process_list("local", member=other)


@pytest.mark.row("Calls: registry_dump")
async def test_the_whole_registry_can_be_dumped(plain: Hub, cli: Cli) -> None:
    await started(plain, sleepers("dumped"))

    async def both() -> tuple[Json, Json] | None:
        """Compare both views, once the children that other tests stopped have ended."""
        by_command, dump = (await cli("dump")).json, plain.registry_dump()
        return (dump, by_command) if dump.keys() == by_command.keys() else None

    dump, by_command = await eventually(both, "the same ids")
    assert dump["dumped"]["nodes"][0]["state"] == by_command["dumped"]["nodes"][0]["state"] == "Running"
    assert dump.keys() >= plain.process_list().keys()


@pytest.mark.row("Calls: tag_query, metadata_query")
async def test_children_are_found_by_tags_and_metadata_also_edited_ones(product: Live, plain: Hub) -> None:
    await started(plain, sleepers("tagged", tags=["first"], metadata={"plan": "gold"}))
    pid = plain.get_pid("tagged")
    assert set(plain.tag_query("first")) == set(plain.metadata_query(plan="gold")) == {"tagged"}

    edit = {"spec": {"tags": ["second"], "metadata": {"plan": "silver"}}}
    await product.kubectl("patch", "child", "tagged", "--type=merge", "-p", json.dumps(edit))

    await until(lambda: "tagged" in plain.tag_query("second"), "the edited tag")
    assert set(plain.metadata_query(plan="silver")) == {"tagged"}
    assert not plain.tag_query("first")
    assert plain.get_pid("tagged") == pid


@pytest.mark.row("Calls: nodes")
async def test_members_are_listed_by_name(plain: Hub, cli: Cli) -> None:
    assert plain.nodes() == [row[0] for row in (await cli("members")).rows] == ["plain-0", "plain-1"]


@pytest.mark.row("Calls: is_alive?")
async def test_a_child_is_alive_while_it_runs(plain: Hub, cli: Cli) -> None:
    await started(plain, sleepers("living"))

    assert plain.is_alive("living")
    assert (await cli("where living")).rows[0][5] == "Running"

    await plain.stop_children(["living"], wait=True)
    assert not plain.is_alive("living")
    assert (await cli("where living")).code == 1


@pytest.mark.row("Calls: is_locked?")
async def test_a_child_that_changes_its_owner_is_locked_and_a_pinned_one_stays(plain: Hub, cli: Cli) -> None:
    before = await started(plain, [*sleepers("locked"), *sleepers("pinned", pinned=True)])
    other = {child_id: (set(plain.nodes()) - {member}).pop() for child_id, member in before.items()}
    pid = plain.get_pid("locked") or pytest.fail("no process")
    assert not plain.is_locked("locked")

    os.kill(pid, signal.SIGSTOP)  # it ends only when the test allows it
    await plain.migrate_child("locked", other["locked"])
    await until(lambda: plain.is_locked("locked"), "locked")
    explained = await cli("explain locked")
    os.kill(pid, signal.SIGCONT)

    assert f"{other['locked']} starts it as soon as what ran for it before has ended" in explained.out
    await until(lambda: places(plain).get("locked") == other["locked"] and not plain.is_locked("locked"), "moved")
    with pytest.raises(HubError, match="pinned"):
        await plain.migrate_child("pinned", other["pinned"])


@pytest.mark.row("Calls: is_partitioned?")
async def test_a_hub_without_a_quorum_says_so(product: Live, quorum: Hub) -> None:
    column = ("get", "hub", "quorum", "-o", "jsonpath={.status.conditions[?(@.type=='Quorate')].status}")
    assert not quorum.is_partitioned()
    assert await product.kubectl(*column) == "True"

    async with without_quorum(product, quorum):
        assert quorum.is_partitioned()
        assert await product.kubectl(*column) == "False"


@pytest.mark.row("Calls: register_hook_handlers, cancel_hook_handlers")
async def test_hooks_are_registered_edited_and_cancelled(product: Live, plain: Hub, cli: Cli, ears: Receiver) -> None:
    audit = ears.hook("audit", "ChildStarted", priority=7)

    await plain.register_hook_handlers([audit])
    await started(plain, sleepers("audited"))
    await ears.once("ChildStarted", "audit", child="audited")
    with pytest.raises(InvalidHook, match="has a hook audit already"):
        await plain.register_hook_handlers([audit])

    editor = """sed -i 's/"priority":7/"priority":9/'"""
    edit = await cli.begin("-n", product.namespace, "edit", "hub", "plain", program=("kubectl",), KUBE_EDITOR=editor)
    _, said = await edit.communicate()
    assert edit.returncode == 0, said
    stored = await product.api.get(HUBS, product.namespace, "plain")
    assert [hook.priority for hook in parse_registered_hooks(stored.metadata).registered] == [9]
    assert stored.spec.hooks == ()

    await plain.cancel_hook_handlers(["audit"])
    await started(plain, sleepers("unaudited"))
    assert not ears.received("audit", child="unaudited")


@pytest.mark.row("Calls: MajorityQuorum.reset_cluster_size")
async def test_after_a_reset_the_remaining_members_are_the_whole_hub(product: Live, quorum: Hub, cli: Cli) -> None:
    await started(quorum, sleepers("reset"))
    majority = {"strategy": "MajorityQuorum"}

    async with edited(product, quorum, partitionTolerance=majority, members={"replicas": 1}):
        await until(quorum.is_partitioned, "partitioned: one member of two is no majority")

        answer = await cli("quorum reset --wait --hub quorum")

        assert answer.code == 0, answer.err
        await until(lambda: not quorum.is_partitioned(), "a quorum")
        assert (await quorum.wait_children(["reset"], timeout=WAIT)).ok


@pytest.mark.row("Calls: drain")
async def test_a_drained_member_loses_its_children_and_gets_them_back(product: Live, hot: Hub, cli: Cli) -> None:
    ids = [f"drain-{number}" for number in range(6)]
    before = await started(hot, [{"id": child_id, "python": COUNTER} for child_id in ids])
    there = {child_id for child_id, member in before.items() if member == "hot-1"}
    assert there
    for number, child_id in enumerate(ids):
        await hot.cast(child_id, {"op": "add", "by": number})

    async def empty() -> None:
        await until(lambda: "hot-1" not in places(hot).values(), "hot-1 empty")

    async def back() -> None:
        await until(lambda: there == {child_id for child_id in ids if places(hot).get(child_id) == "hot-1"}, "back")
        await at_rest(product, hot)

    assert (await hot.drain("hot-1", wait=True, timeout=WAIT)).left == ()
    await empty()
    assert await hot.undrain("hot-1")
    await back()

    assert (await cli("drain hot-1 --wait --hub hot")).code == 0
    await empty()
    assert (await cli("undrain hot-1 --hub hot")).code == 0
    await back()

    pod = json.loads(await product.kubectl("get", "pod", "hot-1", "-o", "json"))
    node, uid = pod["spec"]["nodeName"], pod["metadata"]["uid"]
    only = "--pod-selector=statefulset.kubernetes.io/pod-name=hot-1"
    try:
        await product.kubectl("drain", node, only, "--force", "--delete-emptydir-data", "--timeout=100s", timeout=110)
        assert (
            await product.kubectl("get", "pod", "hot-1", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}") != uid
        )
    finally:
        await product.kubectl("uncordon", node)
    await back()
    assert [await hot.call(child_id, {}) for child_id in ids] == list(range(6)), "each took its state along"


@pytest.mark.row("Calls: migrate_child")
async def test_a_child_is_moved_by_hand(plain: Hub, cli: Cli) -> None:
    first = (await started(plain, sleepers("migrant")))["migrant"]
    (other,) = set(plain.nodes()) - {first}

    await plain.migrate_child("migrant", other, wait=True, timeout=WAIT)
    assert places(plain)["migrant"] == other

    moved = await cli(f"move migrant {first} --wait")
    assert moved.code == 0, moved.err
    await until(lambda: places(plain).get("migrant") == first, "this client sees it too")


@pytest.mark.row("Calls: migration_ready")
async def test_a_child_decides_whether_and_when_it_is_moved(hot: Hub, ears: Receiver) -> None:
    def mover(child_id: str, *ready: float) -> dict[str, object]:
        return {"id": child_id, "python": {"target": "sample_actors:Mover", "args": {"ready": ready}}}

    before = await started(hot, [mover("soon", 0.1, True), mover("never", False)])
    other = {child_id: (set(hot.nodes()) - {member}).pop() for child_id, member in before.items()}

    await hot.migrate_child("soon", other["soon"], wait=True, timeout=WAIT)
    await hot.migrate_child("never", other["never"])

    await ears.once("MigrationDeferred", "hot", child="never", reason="Kept")
    await hot.wait_children(["never"], timeout=WAIT)
    assert places(hot)["never"] == before["never"]
    await hot.stop_children(["never"], wait=True)


@pytest.mark.row("Calls: a message to a pid")
async def test_a_child_gets_calls_and_casts_by_id_one_at_a_time(plain: Hub, cli: Cli) -> None:
    await started(plain, [{"id": "asked", "python": COUNTER}])

    answers = await asyncio.gather(*(plain.call("asked", {"op": "add"}) for _ in range(20)))
    await plain.cast("asked", {"op": "add"})
    told = await cli("cast asked", '{"op":"add"}')
    asked = await cli("call asked", '{"op":"add"}')

    assert sorted(answers) == list(range(1, 21))
    assert (told.code, asked.out) == (0, "23\n"), (told.err, asked.err)
