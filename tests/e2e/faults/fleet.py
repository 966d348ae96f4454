"""One hub for each partition strategy and one that keeps copies, each with 60 children that write rows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asking import Asked, pod
from images import WRITER
from kube import Json, Kube, World, settles
from nodes import clock
from rows import Findings, Ledger, first_after

from kind.layout import SHARED, SHARED_IN_NODE

CHILDREN = 60
COPIES = "copies"
QUORATE: dict[str, Json] = {
    "static": {"strategy": "StaticQuorum", "quorumSize": 2},
    "dynamic": {"strategy": "DynamicQuorum", "quorumPercent": 60, "thresholdSeconds": 60},
    "majority": {"strategy": "MajorityQuorum"},
    COPIES: {"strategy": "MajorityQuorum"},
}
STRATEGIES: dict[str, Json] = {"divergence": {"strategy": "Divergence"}, **QUORATE}
_REDUNDANCY = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"}
_FRESH_SECONDS = 2.0  # a child writes ten rows a second, so its last row is at most this old
_ASKED_OF_A_HUB = 10
_PRIVILEGED = {"pod-security.kubernetes.io/enforce": "privileged"}  # for the folder of the node


@dataclass(frozen=True)
class Owner:
    """The writer of a child's active rows."""

    member: str
    writer: str


Owners = dict[str, dict[str, Owner]]  # by hub and child


@dataclass(frozen=True)
class Hit:
    """The node of a fault, with its members and the children that are active on them, by hub."""

    node: str
    before: Owners
    members: dict[str, frozenset[str]]
    lost: dict[str, set[str]]


class Fleet:
    """The hubs and their namespace."""

    def __init__(self, kube: Kube) -> None:
        self.world = World(kube, _PRIVILEGED)
        self.folder = SHARED / self.world.namespace
        self.folder.mkdir()
        self.folder.chmod(0o1777)  # members run as an arbitrary user

    def close(self) -> None:
        """Delete the namespace and the rows."""
        self.world.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create(self, **spec: Any) -> None:
        """Create the hubs with children on all nodes, and wait until each child writes."""
        # After a fault Kubernetes keeps members off a node for a while; two members of a hub would then share a node.
        settles(self._nodes_are_free, within=180, every=1)
        for hub, tolerance in STRATEGIES.items():
            more = {"redundancy": _REDUNDANCY} if hub == COPIES else {}
            self._apply(
                _object("Hub", hub, {"partitionTolerance": tolerance, "members": self._members(), **more, **spec})
            )
        for hub in STRATEGIES:
            self.world.hub_ready(hub, timeout=180)
        for hub in STRATEGIES:
            self._apply(*(_child(hub, number) for number in range(CHILDREN)))
        settles(self.owners, within=180, every=1)

    def _nodes_are_free(self) -> None:
        tainted = {item["metadata"]["name"] for item in self.world.kube.items("nodes") if item["spec"].get("taints")}
        assert tainted.isdisjoint(self.world.kube.workers()), tainted

    def _apply(self, *objects: Json) -> None:
        self.world.kube.apply(*objects, namespace=self.world.namespace)

    def _members(self) -> Json:
        mounts, volumes = self._rows()
        template = {"spec": {"containers": [{"name": "agent", "volumeMounts": mounts}], "volumes": volumes}}
        return {"replicas": 3, "image": WRITER, "template": template}

    def _rows(self) -> tuple[list[Json], list[Json]]:
        """The volume mounts of a container and the volumes of its pod: the folder as /rows."""
        folder = {"path": f"{SHARED_IN_NODE}/{self.world.namespace}", "type": "Directory"}
        return [{"name": "rows", "mountPath": "/rows"}], [{"name": "rows", "hostPath": folder}]

    def owners(self) -> Owners:
        """Return the one active writer of each child, which is on the recorded member; else raise AssertionError."""
        return {hub: self._owners(hub) for hub in STRATEGIES}

    def _owners(self, hub: str) -> dict[str, Owner]:
        found = {}
        on_record = self._on_record(hub)
        now = clock()
        for child_id, last in Ledger(self.folder, hub).last().items():
            fresh = [row for row in last if row.role == "Active" and row.time > now - _FRESH_SECONDS]
            assert len({row.writer for row in fresh}) == 1, f"{hub}: active writers of {child_id} now: {fresh}"
            found[child_id] = Owner(fresh[-1].member, fresh[-1].writer)
        assert len(found) == CHILDREN, f"{hub}: {len(found)} of {CHILDREN} write"
        assert {child_id: owner.member for child_id, owner in found.items()} == on_record, hub
        return found

    def _on_record(self, hub: str) -> dict[str, str]:
        found = {}
        for entry in self.world.get("hub", hub)["status"].get("registry") or []:
            active = [node for node in entry["nodes"] if node["role"] == "Active" and node["state"] == "Running"]
            assert len(active) == 1, f"{hub}: {entry}"
            found[entry["id"]] = active[0]["name"]
        return found

    def hit(self, leaders_node: str) -> Hit:
        """Choose a node without the operator's leader, and list what runs on it."""
        before = self.owners()
        node = min(set(self.world.nodes_of("divergence").values()) - {leaders_node})
        members = {
            hub: frozenset(member for member, place in self.world.nodes_of(hub).items() if place == node)
            for hub in STRATEGIES
        }
        lost = {
            hub: {child_id for child_id, owner in before[hub].items() if owner.member in members[hub]}
            for hub in STRATEGIES
        }
        assert all(len(found) == 1 for found in members.values()), f"each hub has one member on {node}: {members}"
        assert all(lost.values()), "each hub has active children there"
        return Hit(node, before, members, lost)

    def taken_over(self, hit: Hit, since: float) -> dict[str, float]:
        """Return the seconds, by hub, from ``since`` until all children of the node were active elsewhere."""
        return {hub: self._taken_over(hub, hit, since) for hub in STRATEGIES}

    def _taken_over(self, hub: str, hit: Hit, since: float) -> float:
        last = since
        rows = Ledger(self.folder, hub).rows()
        for child_id in hit.lost[hub]:
            row = first_after(rows[child_id], since, not_by=hit.members[hub])
            assert row is not None, f"{hub}: {child_id} is active nowhere else yet"
            last = max(last, row.time)
        return last - since

    def findings(self, hub: str) -> dict[str, Findings]:
        """Return what is wrong with each child of a hub, by all of its rows."""
        return Ledger(self.folder, hub).examine()

    def ask(self, node: str) -> Asked:
        """Start a pod on ``node`` that calls actors of each hub."""
        shutil.copy2(Path(__file__).with_name("asker.py"), self.folder)
        actors = [f"c{number}" for number in range(CHILDREN) if not _is_exec(number)][:_ASKED_OF_A_HUB]
        self._apply(*pod(node, actors, [*STRATEGIES], *self._rows()))
        return Asked(self.folder, self.world)


def _is_exec(number: int) -> bool:
    return number % 3 == 0


def _child(hub: str, number: int) -> Json:
    workload: Json = {"python": {"target": "actor:Writer"}}
    if _is_exec(number):
        workload = {"exec": {"command": ["python3", "/srv/packages/writer.py"]}}
    return _object("Child", f"{hub}-{number}", {"hub": hub, "id": f"c{number}", **workload})


def _object(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": "processhub.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
