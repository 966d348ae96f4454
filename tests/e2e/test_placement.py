"""Where members and children run: the examples, members spread or one a node, guided children, users' images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import GO, MUSL, NODE, PLAIN, PYTHON
from kube import SLEEP, Json, Kube, World, docker, moved, settles

EXAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "examples"
DENIED = "without-plan"  # manifests/examples/30-hooks.yaml: its hook denies it
IDS = [f"c{number}" for number in range(12)]


# In order of their numbers: all at once, their members would request more than small nodes have.
@pytest.mark.parametrize(("number", "least"), [("0[1-8]", 8), ("09|1[0-2]", 4), ("1[3-9]", 2), ("2", 5), ("[34]", 2)])
def test_all_examples_become_ready(world: World, images: None, number: str, least: int) -> None:
    for path in sorted(EXAMPLES.glob("*.yaml")):
        if re.match(number, path.name):
            world.kubectl("apply", "-f", str(path))

    assert world.kube.items("hubs", "-n", world.namespace)
    world.kubectl("wait", "hubs", "--all", "--for=condition=Ready", "--timeout=180s", timeout=200)
    running = [
        item["metadata"]["name"]
        for item in world.kube.items("children", "-n", world.namespace)
        if not item["spec"].get("suspend") and item["metadata"]["name"] != DENIED
    ]
    assert len(running) >= least
    world.children_ready(*running, timeout=120)


def test_members_are_spread_over_the_nodes(world: World) -> None:
    world.hub()
    world.children(*IDS)
    world.running(IDS)

    assert sorted(world.nodes_of().values()) == sorted(world.kube.workers())


@pytest.fixture
def labelled(kube: Kube) -> Iterator[list[str]]:
    """Set the label e2e=on on two of the workers during the test."""
    chosen = kube.workers()[:2]
    kube("label", "node", *chosen, "e2e=on")
    yield chosen
    kube("label", "node", "--all", "e2e-")


def test_one_member_a_node_follows_the_nodes(world: World, labelled: list[str]) -> None:
    template = {"spec": {"nodeSelector": {"e2e": "on"}}}
    world.hub(members={"mode": "PerNode", "template": template}, migration={"holdSeconds": 1})
    world.children(*IDS)
    before = world.running(IDS)
    assert set(before.values()) == set(labelled) == set(world.nodes_of())

    third = next(node for node in world.kube.workers() if node not in labelled)
    world.kube("label", "node", third, "e2e=on")

    def joined() -> dict[str, str]:
        after = world.running(IDS)
        assert third in after.values()
        assert {after[child_id] for child_id in moved(before, after)} == {third}
        return after

    with_three = settles(joined)
    world.kube("label", "node", third, "e2e-")

    def left() -> None:
        after = world.running(IDS)
        assert set(after.values()) == set(labelled)
        assert moved(with_three, after) == {child_id for child_id, node in with_three.items() if node == third}

    settles(left)
    assert world.watch.overlaps() == []


def test_guided_children_run_on_the_member_or_node_that_they_name(world: World) -> None:
    workers = world.kube.workers()
    guided = {"distribution": {"strategy": "Guided"}}
    world.hub("pods", **guided)
    world.hub("nodes", members={"mode": "PerNode"}, **guided)

    world.children("on-member", hub="pods", nodes=["pods-1"])
    world.children("on-node", hub="nodes", nodes=[workers[-1]])

    assert world.running(["on-member"], "pods") == {"on-member": "pods-1"}
    assert world.running(["on-node"], "nodes") == {"on-node": workers[-1]}
    assert world.nodes_of("nodes") == {node: node for node in workers}


def test_programs_of_an_image_without_python_run_with_the_injected_agent(world: World, images: None) -> None:
    world.hub(members={"replicas": 2, "image": PLAIN})
    world.children(*IDS, exec={"command": SLEEP})
    places = world.running(IDS)
    show = ("--", "sh", "-c", "echo $HUB_CHILD_ID on $HUB_MEMBER; cat")

    assert world.cli("exec", "c3", *show) == f"c3 on {places['c3']}\n"
    assert world.cli("exec", "-i", "c3", *show, stdin="what is sent\n") == f"c3 on {places['c3']}\nwhat is sent\n"
    assert "python" not in docker("run", "--rm", "--network=none", "--entrypoint=/bin/ls", PLAIN, "/usr/bin")
    assert world.get("pod", "hub-0")["spec"]["containers"][0]["image"] == PLAIN


@pytest.mark.parametrize(
    ("image", "command", "language"),
    [(GO, ["/counter"], "go"), (MUSL, ["counter"], "c"), (NODE, ["node", "/srv/counter.mjs"], "node")],
    ids=["scratch", "musl", "distroless"],
)
def test_programs_of_bare_images_are_called_moved_with_their_state_and_stopped(
    world: World, images: None, image: str, command: list[str], language: str
) -> None:
    """The members run as any user, with a read-only root, without a shell and without any file of Debian."""
    security = {"runAsUser": 1_234_567_890, "runAsGroup": 0, "fsGroup": 0}
    read_only = {"name": "agent", "securityContext": {"readOnlyRootFilesystem": True}}
    world.hub(
        members={
            "replicas": 2,
            "image": image,
            "template": {"spec": {"securityContext": security, "containers": [read_only]}},
        },
        migration={"strategy": "HotSwap"},
    )
    world.children("a", "b", exec={"command": command})
    places = world.running(["a", "b"])

    def ask() -> Json:
        return dict(json.loads(world.cli("call", "a", "{}", "-o", "json")))

    assert [ask()["count"], ask()["count"]] == [1, 2]
    (target,) = {"hub-0", "hub-1"} - {places["a"]}
    world.cli("move", "a", target, "--wait")
    assert ask() == {"count": 3, "user": 1_234_567_890, "in": language}

    world.kubectl("delete", "child", "a")
    world.running(["b"])


def test_actors_come_from_a_package_in_the_users_image(world: World, images: None) -> None:
    world.hub(members={"replicas": 1, "image": PYTHON})
    world.children("a", python={"target": "greeter:Greeter"})
    world.children_ready("a")

    def said() -> None:
        assert "hello from the package greeter" in world.kubectl("logs", "hub-0")

    settles(said)


def pod() -> Json:
    """The workload of a pod child that sleeps."""
    security = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "main", "image": PLAIN, "command": SLEEP, "securityContext": security}
    return {"template": {"spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}}


def test_pod_children_are_pods_on_their_members_node(world: World, images: None) -> None:
    world.hub()
    world.children("p", "q", pod=pod())
    world.children_ready("p", "q")

    def pods() -> dict[str, Json]:
        found = world.kube.items("pods", "-n", world.namespace, "-l", "app.kubernetes.io/component=child")
        return {item["metadata"]["annotations"]["processhub.dev/child-id"]: item for item in found}

    def placed() -> dict[str, str]:
        found = world.registry()  # Hub.status follows the Children's status, at most twice a second
        assert found.keys() == {"p", "q"}
        return found

    registry, nodes, first = settles(placed), world.nodes_of(), pods()
    assert registry.keys() == first.keys()
    assert {child_id: pod["spec"]["nodeName"] for child_id, pod in first.items()} == {
        child_id: nodes[member] for child_id, member in registry.items()
    }

    world.kubectl("delete", "pod", first["p"]["metadata"]["name"])

    def replaced() -> None:
        now = pods()
        assert now["p"]["metadata"]["uid"] != first["p"]["metadata"]["uid"]
        assert now["q"]["metadata"]["uid"] == first["q"]["metadata"]["uid"]
        assert world.registry() == registry

    settles(replaced)
    world.kubectl("delete", "child", "p", "--wait=false")

    def gone() -> None:
        assert pods().keys() == {"q"}
        assert world.registry().keys() == {"q"}

    settles(gone)
    assert world.watch.overlaps() == []


def test_copies_of_a_pod_child_are_pods_and_the_passive_one_takes_over(world: World, images: None) -> None:
    world.hub(redundancy={"strategy": "Replication", "replicationModel": "ActivePassive"})
    world.children("p", pod=pod())

    def by_role() -> dict[str, Json]:
        found = world.kube.items("pods", "-n", world.namespace, "-l", "app.kubernetes.io/component=child")
        assert len(found) == 2
        roles = {item["metadata"]["annotations"]["processhub.dev/role"]: item for item in found}
        assert roles.keys() == {"Active", "Passive"}
        assert all(is_ready(item) for item in found)
        return roles

    before = settles(by_role)
    assert before["Active"]["spec"]["nodeName"] != before["Passive"]["spec"]["nodeName"]
    member = before["Active"]["metadata"]["labels"]["processhub.dev/member"]
    world.kubectl("annotate", "hub", "hub", f"processhub.dev/drained={member}")

    def taken_over() -> None:
        now = by_role()
        assert now["Active"]["metadata"]["uid"] == before["Passive"]["metadata"]["uid"], "it runs on"
        assert now["Passive"]["metadata"]["labels"]["processhub.dev/member"] != member

    settles(taken_over)


def is_ready(item: Json) -> bool:
    conditions = {entry["type"]: entry["status"] for entry in item["status"].get("conditions", ())}
    return conditions.get("Ready") == "True"
