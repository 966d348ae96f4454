"""The counterparts of ProcessHub's strategies, and strategies that its users asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agentharness import token_of
from hubcalls import Caller
from hubcli import Cli
from livehub import COUNTER, WAIT, Live, places, sleepers, started
from roles import rows_in
from sharedhubs import at_rest, edited, kill_member, placed_by
from waiting import alive, eventually, until

from localcluster.faults import Faults
from processhub import Hub
from processhub.cluster.kinds import HUBS

# It writes its member and role, one line each, when it starts and at each signal.
TELLS_ITS_ROLE = """
tell() { echo "$HUB_MEMBER $(cat "$HUB_ROLE_FILE")" >> "$LOG"; }
trap tell USR1
tell
while :; do sleep 0.1; done
"""
# It counts the members that it has been on, and writes when it is ready to hand the count over.
COUNTS_ITS_MEMBERS = """
count=$(cat "$HUB_HANDOVER_FILE" 2>/dev/null || echo 0)
count=$((count + 1))
trap 'echo $count > "$HUB_HANDOVER_FILE"; exit 0' TERM
echo "$HUB_MEMBER $count" >> "$LOG"
while :; do sleep 0.1; done
"""


def script(child_id: str, text: str, log: Path, **more: str) -> dict[str, Any]:
    """A child that runs a script with a log file."""
    return {
        "id": child_id,
        "exec": {"command": ["sh", "-c", text], "env": [{"name": "LOG", "value": str(log)}], **more},
    }


def lines(log: Path) -> list[str]:
    """The lines of a child's log."""
    return log.read_text().splitlines() if log.exists() else []


def roles(hub: Hub, child_id: str) -> dict[str, str]:
    """Return the role of each member that runs a copy."""
    nodes = hub.registry_dump()[child_id]["nodes"]
    return {node["name"]: node["role"] for node in nodes if node["state"] == "Running"}


@asynccontextmanager
async def cut_off(product: Live, faults: Faults, member: str) -> AsyncIterator[None]:
    """Cut the member off from the API server."""
    await faults.cut_pod(f"{product.namespace}/{member}")
    try:
        yield
    finally:
        await faults.heal_pod(f"{product.namespace}/{member}")


async def stop_and_be_back(product: Live, quorum: Hub, prefix: str, **spec: Any) -> None:
    """Scale a hub of two members to one, so that it is partitioned, and back; every child must return."""
    ids = [f"{prefix}-{number}" for number in range(4)]
    await started(quorum, sleepers(*ids))
    pids = [quorum.get_pid(child_id) or 0 for child_id in ids]

    async with edited(product, quorum, members={"replicas": 1}, **spec):
        await until(quorum.is_partitioned, "partitioned")
        await until(lambda: not any(map(alive, pids)) and not quorum.process_list(), "all stopped")
        assert set(ids) <= quorum.registry_dump().keys(), "they stay on record"

    assert (await quorum.wait_children(ids, timeout=WAIT)).ok


# distribution


@pytest.mark.row("Strategies: ConsistentHashing (ring)")
async def test_the_hash_spreads_children_and_a_join_moves_the_joiners_share(
    product: Live, placing: Hub, cli: Cli
) -> None:
    ids = [f"hash-{number}" for number in range(16)]
    before = await started(placing, sleepers(*ids))
    pids = {child_id: placing.get_pid(child_id) for child_id in ids}
    assert set(before.values()) == {"placing-0", "placing-1"}
    candidates = (await cli("explain hash-0 --hub placing -o json")).json["candidates"]
    assert candidates[0]["member"] == before["hash-0"], "the highest score"

    joined = {"distribution": {"rebalance": {"onJoin": True}}, "members": {"replicas": 3}}
    async with edited(product, placing, **joined):
        await until(lambda: "placing-2" in places(placing).values(), "the joiner's share")
        await at_rest(product, placing, 3)
        await until(lambda: set(ids) <= places(placing).keys(), "all arrived")
        after = places(placing)

        assert {after[child_id] for child_id in ids if after[child_id] != before[child_id]} == {"placing-2"}
        stayed = [child_id for child_id in ids if after[child_id] == before[child_id]]
        assert all(placing.get_pid(child_id) == pids[child_id] for child_id in stayed)
    await placing.stop_children(ids, wait=True)


@pytest.mark.row("Strategies: Guided")
async def test_a_guided_child_waits_for_its_member(product: Live, guided: Hub, faults: Faults) -> None:
    two = await guided.start_children(sleepers("two-nodes", nodes=["guided-0", "guided-1"]))
    assert two.errors["two-nodes"].reason == "ChildReplicationMismatch", "as many nodes as copies"
    await started(guided, sleepers("bound", nodes=["guided-1"]))
    pid = guided.get_pid("bound")

    await kill_member(
        product, faults, "guided-1"
    )  # spec.migration.onRestart is Move, which other children would follow

    await until(lambda: guided.get_pid("bound") not in (None, pid), "running again")
    assert places(guided)["bound"] == "guided-1"


@pytest.mark.row("Strategies: CentralizedLoadBalancer")
async def test_the_least_loaded_member_gets_the_next_child(product: Live, placing: Hub) -> None:
    even = ["0", "2", "4", "6"]
    async with edited(product, placing, distribution={"strategy": "Modulo"}):
        assert set((await started(placing, sleepers(*even))).values()) == {"placing-0"}

    levelled = await placed_by(product, placing, "LeastLoaded", sleepers("light-a", "light-b"))

    assert set(levelled.values()) == {"placing-1"}
    await placing.stop_children(even, wait=True)


@pytest.mark.row("Strategies: requested by its users")
async def test_children_are_placed_by_turns_number_origin_on_each_member_or_by_a_users_strategy(
    product: Live, placing: Hub
) -> None:
    here, there = "placing-0", "placing-1"

    turns = await placed_by(product, placing, "RoundRobin", sleepers("turn-a", "turn-b", "turn-c", "turn-d"))
    assert sorted(turns.values()) == [here, here, there, there]

    numbers = await placed_by(product, placing, "Modulo", sleepers("6", "7", "8"))
    assert numbers == {"6": here, "7": there, "8": here}

    local = await placed_by(product, placing, "Local", sleepers("near-a", "near-b", origin=there))
    assert set(local.values()) == {there}

    away = await placed_by(product, placing, "NotLocal", sleepers("far-a", "far-b", origin=there))
    assert set(away.values()) == {here}

    own = await placed_by(product, placing, "ByRegion", sleepers("ann", "zoe"))
    assert own == {"ann": here, "zoe": there}

    async with edited(product, placing, distribution={"strategy": "ForEach"}):
        await started(placing, sleepers("everywhere"))
        await until(lambda: roles(placing, "everywhere") == {here: "Active", there: "Active"}, "one on each")
        await placing.stop_children(["everywhere"], wait=True)


# redundancy


@pytest.mark.row("Strategies: Singularity")
async def test_a_child_has_one_process_by_default(plain: Hub) -> None:
    member = (await started(plain, sleepers("single")))["single"]

    assert roles(plain, "single") == {member: "Active"}
    assert len(plain.get_pids("single")) == 1


@pytest.mark.row("Strategies: Replication: factor or cluster_size")
async def test_a_child_has_as_many_copies_as_the_factor_or_the_hub_has_members(product: Live, copies: Hub) -> None:
    async def counted(factor: int | str, count: int) -> None:
        async with edited(product, copies, redundancy={"replicationFactor": factor}):
            await until(lambda: len(copies.get_pids("copied")) == count, f"{factor}: {count} copies")

    await started(copies, sleepers("copied"))  # this child waits for the active copy only
    await until(lambda: len(copies.get_pids("copied")) == 2, "both copies")

    await counted(1, 1)
    await counted("ClusterSize", 2)


@pytest.mark.row("Strategies: active_active, active_passive")
async def test_one_copy_is_active_and_another_takes_over_or_all_copies_are_active(
    product: Live, copies: Hub, faults: Faults
) -> None:
    await started(copies, sleepers("standby"))  # this child waits for the active copy only
    await until(lambda: len(copies.get_pids("standby")) == 2, "both copies")
    first, second = (node["name"] for node in copies.registry_dump()["standby"]["nodes"])
    pids = copies.get_pids("standby")
    assert roles(copies, "standby") == {first: "Active", second: "Passive"}

    await kill_member(product, faults, first)

    await until(lambda: roles(copies, "standby") == {first: "Passive", second: "Active"}, "the other one is active")
    assert copies.get_pid("standby") == pids[1], "it ran on"

    async with edited(product, copies, redundancy={"replicationModel": "ActiveActive"}):
        await until(lambda: roles(copies, "standby") == {first: "Active", second: "Active"}, "both are active")


@pytest.mark.row("Strategies: redundancy_signal")
async def test_copies_are_notified_of_their_roles_at_start_and_on_change(
    product: Live, copies: Hub, faults: Faults, tmp_path: Path
) -> None:
    log, folder = tmp_path / "log", tmp_path / "rows"
    folder.mkdir()
    python = {"target": "roles_worker:Worker", "args": {"folder": str(folder)}}

    def all_told() -> bool:
        by_script = dict(line.split() for line in lines(log))
        by_actor = {row.member: row.told for row in rows_in(folder)}
        return by_script == roles(copies, "tells") and by_actor == roles(copies, "told")

    await started(
        copies, [script("tells", TELLS_ITS_ROLE, log, roleSignal="SIGUSR1"), {"id": "told", "python": python}]
    )
    await until(all_told, "each copy's role on start")
    active = places(copies)["tells"]

    await kill_member(product, faults, active)

    await until(lambda: roles(copies, "tells").get(active) == "Passive", "the roles changed")
    await until(all_told, "each copy's role on change")


# migration


@pytest.mark.row("Strategies: ColdSwap")
async def test_a_moved_child_starts_afresh(plain: Hub) -> None:
    first = (await started(plain, [{"id": "cold", "python": COUNTER}]))["cold"]
    (other,) = set(plain.nodes()) - {first}
    assert await plain.call("cold", {"op": "add", "by": 5}) == 5

    await plain.migrate_child("cold", other, wait=True, timeout=WAIT)

    assert await plain.call("cold", {}) == 0


@pytest.mark.row("Strategies: HotSwap: prepare_handover_state, alter_handover_state")
async def test_a_moved_child_keeps_its_state(hot: Hub, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = await started(hot, [{"id": "counter", "python": COUNTER}, script("file", COUNTS_ITS_MEMBERS, log)])
    other = {child_id: (set(hot.nodes()) - {member}).pop() for child_id, member in first.items()}
    assert await hot.call("counter", {"op": "add", "by": 5}) == 5
    await until(lambda: lines(log) == [f"{first['file']} 1"], "the script at work")

    for child_id, member in other.items():
        await hot.migrate_child(child_id, member, wait=True, timeout=WAIT)

    assert await hot.call("counter", {}) == 5
    await until(lambda: lines(log)[1:] == [f"{other['file']} 2"], "the file handed over")


# synchronisation


@pytest.mark.row("Strategies: PubSub, Gossip")
async def test_all_clients_and_members_see_a_change_without_any_setting(product: Live, plain: Hub) -> None:
    found = await product.api.get(HUBS, product.namespace, "plain")
    token = await token_of(product.api, product.namespace, "processhub-plain")

    async with product.connect("plain") as other, Caller(token) as caller:
        await started(plain, sleepers("seen"))
        pid = plain.get_pid("seen")

        await until(lambda: other.get_pid("seen") == pid, "another client")
        for member in found.status.members:

            async def sees(ip: str = member.pod_ip) -> bool:
                reply = await caller.get(f"http://{ip}:8080/v1/children/seen")
                return reply.status == 200 and reply.value["nodes"][0]["pid"] == pid

            await eventually(sees, f"member {member.name}")


# partition


@pytest.mark.row("Strategies: Divergence")
async def test_with_divergence_children_that_are_cut_off_keep_running_until_one_copy_remains(
    product: Live, quorum: Hub, faults: Faults
) -> None:
    ids = [f"diverge-{number}" for number in range(4)]
    async with edited(product, quorum, partitionTolerance={"strategy": "Divergence"}):
        before = await started(quorum, sleepers(*ids))
        away = [child_id for child_id in ids if before[child_id] == "quorum-1"]
        pids = [quorum.get_pid(child_id) or 0 for child_id in away]
        assert away

        async with cut_off(product, faults, "quorum-1"):
            await until(lambda: {places(quorum).get(child_id) for child_id in away} == {"quorum-0"}, "taken over")
            assert all(map(alive, pids)), "they run on"
            assert not quorum.is_partitioned()

        await until(lambda: not any(map(alive, pids)), "one copy left")
    assert (await quorum.wait_children(ids, timeout=WAIT)).ok


@pytest.mark.row("Strategies: StaticQuorum")
async def test_with_a_static_quorum_children_stop_below_it_and_return(product: Live, quorum: Hub) -> None:
    await stop_and_be_back(product, quorum, "static")  # quorumSize is 2


@pytest.mark.row("Strategies: DynamicQuorum")
async def test_with_a_dynamic_quorum_children_stop_below_the_share_of_recent_members_and_return(
    product: Live, quorum: Hub, faults: Faults
) -> None:
    ids = [f"dynamic-{number}" for number in range(4)]
    dynamic = {"strategy": "DynamicQuorum", "quorumPercent": 60, "thresholdSeconds": 60}
    async with edited(product, quorum, partitionTolerance=dynamic):
        await started(quorum, sleepers(*ids))

        async with cut_off(product, faults, "quorum-1"):
            await until(quorum.is_partitioned, "partitioned: one of two is less than 60 %")

        await until(lambda: not quorum.is_partitioned(), "a quorum again")
        assert (await quorum.wait_children(ids, timeout=WAIT)).ok


@pytest.mark.row("Strategies: MajorityQuorum")
async def test_with_a_majority_quorum_children_stop_without_a_majority_and_return(product: Live, quorum: Hub) -> None:
    await stop_and_be_back(product, quorum, "majority", partitionTolerance={"strategy": "MajorityQuorum"})
