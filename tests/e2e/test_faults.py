"""Nodes are killed or drained, operators and members are restarted: no child is lost and none runs twice."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter

from kube import LEASE_SECONDS, SYSTEM, Kube, Measured, Release, World, docker, moved, settles

IDS = [f"c{number}" for number in range(24)]


def test_children_of_a_killed_node_run_elsewhere_and_the_node_gets_its_share_back(
    kube: Kube, release: Release, world: World, measured: Measured
) -> None:
    world.hub()
    world.children(*IDS)
    before = world.running(IDS)
    places = world.nodes_of()
    leader = kube.get("lease", "processhub-operator", "-n", SYSTEM)["spec"]["holderIdentity"].rpartition("_")[0]
    leaders_node = kube.get("pod", leader, "-n", SYSTEM)["spec"]["nodeName"]
    member, node = next((name, node) for name, node in places.items() if node != leaders_node)
    victims = {child_id for child_id, place in before.items() if place == member}
    assert victims

    killed = time.clock_gettime(time.CLOCK_BOOTTIME)
    docker("kill", node)
    dead = time.clock_gettime(time.CLOCK_BOOTTIME)  # the command may take long
    try:

        def elsewhere() -> None:
            live = world.watch.live()
            assert {child_id for child_id in IDS if [run.member for run in live.get(child_id, [])] == [member]} == set()
            assert live.keys() == set(IDS)

        settles(elsewhere, within=LEASE_SECONDS + 30)
        replaced = [world.watch.live()[child_id][0].started for child_id in victims]
        measured("docker kill of a node, until its children run elsewhere", max(replaced) - killed)
        assert max(replaced) - dead <= LEASE_SECONDS + 5
        after = world.running(IDS)
        assert moved(before, after) == victims
    finally:
        docker("start", node)
    started = time.monotonic()
    kube("wait", f"node/{node}", "--for=condition=Ready", "--timeout=120s", timeout=130)
    world.hub_ready(timeout=180)

    def share_taken() -> None:
        now = world.running(IDS)
        assert member in now.values()
        assert {now[child_id] for child_id in moved(after, now)} == {member}

    settles(share_taken)
    measured("docker start of it, until its member has its share again", time.monotonic() - started)
    assert world.watch.overlaps() == []
    release.ready()


def test_a_drained_node_is_emptied_one_member_at_a_time(
    kube: Kube, release: Release, world: World, measured: Measured
) -> None:
    world.hub(members={"replicas": 6})  # two on each node
    world.children(*IDS)
    before = world.running(IDS)
    places = world.nodes_of()
    node = kube.workers()[0]
    drained = {member for member, place in places.items() if place == node}
    assert len(drained) == 2
    begun = time.monotonic()
    try:
        said = kube("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s", timeout=160)
        # The budget allows one disruption: the second is evicted only when the first is ready elsewhere.
        assert all(f"pod/{member} evicted" in said for member in drained)

        def gone() -> None:
            assert node not in world.nodes_of().values()

        settles(gone)
        world.hub_ready(timeout=180)
        after = world.running(IDS)
        measured("kubectl drain of a node with 2 of 6 members, until all are ready elsewhere", time.monotonic() - begun)
        # Children move off the drained members, or onto them: these come back empty, elsewhere, and take their share.
        assert {c for c in moved(before, after) if not {before[c], after[c]} & drained} == set()
        stayed = {child_id for child_id in IDS if before[child_id] not in drained} - moved(before, after)
        assert {world.starts()[child_id] for child_id in stayed} == {1}
    finally:
        kube("uncordon", node)
    assert world.watch.overlaps() == []
    release.ready()


def test_members_follow_a_node_that_leaves_and_one_that_joins(
    kube: Kube, release: Release, world: World, measured: Measured
) -> None:
    world.hub(members={"mode": "PerNode"}, migration={"holdSeconds": 1})
    world.children(*IDS)
    before = world.running(IDS)
    node = kube.workers()[-1]
    assert node in before.values()
    try:
        kube("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s", timeout=160)
        docker("stop", node)
        kube("delete", "node", node)

        def left() -> dict[str, str]:
            assert set(world.nodes_of()) == set(before.values()) - {node}
            after = world.running(IDS)
            assert node not in after.values()
            assert {before[child_id] for child_id in moved(before, after)} == {node}
            return after

        without = settles(left, within=120)
    finally:
        docker("start", node)
    begun = time.monotonic()

    def joined() -> None:
        after = world.running(IDS)
        assert {after[child_id] for child_id in moved(without, after)} == {node}

    settles(joined, within=180)
    measured("a node that joins the cluster, until its member has its share", time.monotonic() - begun)
    assert not kube.get("node", node)["spec"].get("unschedulable"), "it is another node object than the drained one"
    assert world.watch.overlaps() == []
    world.hub_ready(timeout=180)
    release.ready()


def test_a_rollout_restart_of_operator_and_members_loses_no_child(
    kube: Kube, release: Release, world: World, measured: Measured
) -> None:
    world.hub()
    world.children(*IDS)
    before = world.running(IDS)

    begun = time.monotonic()
    kube("-n", SYSTEM, "rollout", "restart", "deployment/processhub-operator")
    release.ready()
    measured("rollout restart of the operator", time.monotonic() - begun)
    assert world.running(IDS) == before
    assert set(world.starts().values()) == {1}

    begun = time.monotonic()
    world.kubectl("rollout", "restart", "statefulset/hub")
    world.kubectl("rollout", "status", "statefulset/hub", "--timeout=180s", timeout=190)
    world.hub_ready()
    assert world.running(IDS) == before
    measured("rollout restart of 3 members, until all children run again in place", time.monotonic() - begun)
    assert set(world.starts().values()) == {2}
    assert world.watch.overlaps() == []


def test_while_operators_are_killed_for_a_minute_children_start_and_stop(
    kube: Kube, release: Release, world: World
) -> None:
    world.hub(members={"replicas": 3})
    names = [f"n{number}" for number in range(200)]
    waves = [names[start : start + 20] for start in range(0, 200, 20)]
    deadline = time.monotonic() + 60
    kept: set[str] = set()
    kills = 0
    for wave in itertools.chain(waves, itertools.repeat([])):
        if wave:
            world.children(*wave)
            stopped = wave[::2]
            world.kubectl("delete", "children", *stopped, "--wait=false")
            kept |= set(wave) - set(stopped)
        victim = settles(lambda: release.operators()[kills % 2])  # noqa: B023 called at once
        kube("-n", SYSTEM, "delete", "pod", victim, "--grace-period=0", "--force")
        kills += 1
        if not wave and time.monotonic() > deadline:
            break
    assert kills >= len(waves)
    release.ready()

    places = world.running(kept, within=120)

    assert set(Counter(places.values())) == {"hub-0", "hub-1", "hub-2"}
    assert world.watch.overlaps() == []
    assert {child_id: count for child_id, count in world.starts().items() if count > 1} == {}
    children = json.loads(world.kubectl("get", "children", "-o", "json"))["items"]
    assert {item["metadata"]["name"] for item in children} == kept
