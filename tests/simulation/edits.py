"""Users who edit what runs: the Hub's switches, strategies and limits, bound children, and edits that are rejected."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from memoryapi import Json
from memoryrequests import Key

from .naming import HUB, taking
from .webhooks import hooked
from .world import World

if TYPE_CHECKING:
    from .hands import Act, Hands

_STATIC = tuple(f"e{number}" for number in range(3))  # the ids of static children
_IDS = ("u-a", "u-b", "s-0", "c0", "c1")  # of the ChildSet that has a list of them; some are of others too
_UNFIT = ("Nearest", "Mirror", "Raft", "Guided")  # strategies that this hub can't have
_GONE_SECONDS = 30.0  # a deleted Hub is made again within this time


def edits(seed: int) -> bool:
    """Whether users of this seed do these edits. Its remainder by 4 says whether it has demands and pods."""
    return seed % 5 == 3


class Edits:
    """Users who edit. ``copies``: they also change how many copies the hub keeps of a child."""

    def __init__(self, hands: Hands, world: World, seed: int) -> None:
        self._hands, self._world = hands, world
        self._rng = Random(f"{seed}/edits")
        self._began_with: str = world.server.objects[HUB]["spec"]["partitionTolerance"]["strategy"]
        self.present = edits(seed)
        self._fit: dict[str, str] = {}  # a part of the spec → the strategy that it had before one that does not fit
        self.copies = self.present and self._rng.random() < 0.4

    def acts(self) -> tuple[Act, ...]:
        """The acts of this seed, with their weights: half of them, and some often."""
        acts: tuple[Act, ...] = (
            (3, self._suspend_hub),
            (2, self._pause_hub),
            (3, self._pin),
            (2, self._describe),
            (2, self._weigh),
            (2, self._limit),
            (2, self._rebalance),
            (3, self._drain_by_force),
            (2, self._scale_by_force),
            (2, self._change_migration),
            (2, self._change_quorum),
            (2, self._distribute),
            (2, self._change_hooks),
            (3, self._reject_child),
            (3, self._reject_hub),
            (1, self._guide),
            (3, self._change_static),
            (3, self._change_ids),
            (3, self._change_templates),
        )
        if not self.present:
            return ()
        chosen = [(weight * self._rng.choice((1, 1, 4)), act) for weight, act in acts if self._rng.random() < 0.5]
        return (*chosen, *([(3, self._change_copies)] if self.copies else []))

    def quiet_acts(self) -> tuple[Act, ...]:
        """The acts that affect no process of a child."""
        return (
            (2, self._pause_hub),
            (2, self._bind),
            (2, self._describe),
            (2, self._slow_down),
            (1, self._change_hooks),
            (2, self._reject_nodes),
            (2, self._reject_hub),
        )

    async def mend(self) -> None:
        """Undo what keeps a hub from its rest, or children from their members."""
        if not self.present:
            return
        if HUB not in self._world.server.objects:
            await asyncio.sleep(_GONE_SECONDS)
        self._annotate("paused", None)
        self._correct()
        self._edit_hub({"members": {"maxChildren": None}})
        hub = self._world.server.objects.get(HUB)
        if hub is not None and not taking(hub):
            self._edit_hub({"members": {"weights": None}})
            self._annotate("drained", None)
        for key, item in list(self._world.server.objects.items()):
            if key.plural == "childsets" and item["spec"]["template"].get("nodes"):
                self._world.edit(key, {"spec": {"template": {"nodes": None}}})

    def restore(self) -> bool:
        """Resume the hub and correct rejected edits of Children, after a rest; returns whether there were any."""
        hub, changed = self._world.server.objects.get(HUB), False
        if self.present and hub is not None and hub["spec"].get("suspend"):
            self._edit_hub({"suspend": False})
            changed = True
        for key, item in list(self._world.server.objects.items()):
            if key.plural == "children" and item["spec"].get("nodes"):
                self._world.edit(key, {"spec": {"nodes": None}})
                changed = True
        return changed

    def _edit_hub(self, spec: Json) -> None:
        self._world.edit(HUB, {"spec": spec})

    def _annotate(self, name: str, value: str | None) -> None:
        self._world.edit(HUB, {"metadata": {"annotations": {f"processhub.dev/{name}": value}}})

    # Switches of the Hub.

    def _suspend_hub(self) -> None:
        """Suspend the hub for a while, or until it was at rest."""
        self._edit_hub({"suspend": True})
        if self._hands.rng.random() < 0.7:
            self._hands.after(0.5, 30.0, lambda: self._edit_hub({"suspend": False}))

    def _pause_hub(self) -> None:
        self._annotate("paused", "true")
        self._hands.after(0.5, 20.0, lambda: self._annotate("paused", None))

    def _drain_by_force(self) -> None:
        rng = self._hands.rng
        names = rng.sample(self._hands.all_members, rng.choice((0, 1, 1, 2)))
        ways = [name + rng.choice(("=force", "=force", "")) for name in names]
        self._annotate("drained", ",".join(ways) or None)

    def _scale_by_force(self) -> None:
        self._annotate("force-scale-down", self._hands.rng.choice(("true", None)))

    # Fields of the Hub that may change while children run.

    def _weigh(self) -> None:
        rng = self._hands.rng
        weights = {rng.choice(self._hands.all_members): rng.choice((0, 1, 3, None))}
        self._edit_hub({"members": {"weights": weights}})

    def _limit(self) -> None:
        self._edit_hub({"members": {"maxChildren": self._hands.rng.choice((2, 4, 1000))}})

    def _rebalance(self) -> None:
        rng = self._hands.rng
        rebalance = {"onJoin": rng.random() < 0.5, "maxMovesPerSecond": rng.choice((1, 500))}
        self._edit_hub({"distribution": {"rebalance": rebalance}})

    def _slow_down(self) -> None:
        """Edit what holds for the next moves, restarts and requests."""
        rng = self._hands.rng
        edits: tuple[Json, ...] = (
            {"distribution": {"rebalance": {"maxMovesPerSecond": rng.choice((1, 500))}}},
            {"migration": {"handoverTimeoutSeconds": rng.choice((3, 15)), "holdSeconds": rng.choice((0, 5, 30))}},
            {"timeouts": {"stopSeconds": rng.choice((2, 10)), "leaseSeconds": rng.choice((6, 9, 15))}},
        )
        self._edit_hub(rng.choice(edits))

    def _change_migration(self) -> None:
        changes: tuple[Json, ...] = (
            {"strategy": "HotSwap", "onRestart": None},
            {"strategy": "ColdSwap"},
            {"handoverTimeoutSeconds": self._hands.rng.choice((3, 15))},
        )
        self._edit_hub({"migration": self._hands.rng.choice(changes)})

    def _change_quorum(self) -> None:
        """Change the quorum to one that a smaller hub has too. Only a hub that began without fencing may lose it."""
        quorums: tuple[Json, ...] = (
            {"strategy": "StaticQuorum", "quorumSize": 1},
            {"strategy": "StaticQuorum", "quorumSize": 2},
            {"strategy": "DynamicQuorum", "thresholdSeconds": 20},
        )
        if self._began_with == "Divergence":
            quorums = (*quorums, {"strategy": "Divergence"})
        hub = self._world.server.objects.get(HUB)
        local = hub is not None and (hub["spec"].get("onDemand") or {}).get("onOwnerLost") == "Local"
        if self._began_with != "MajorityQuorum" and not local:
            self._edit_hub({"partitionTolerance": self._hands.rng.choice(quorums)})

    def _distribute(self) -> None:
        strategy = self._hands.rng.choice(("ConsistentHashing", "Modulo", "NotLocal", "RoundRobin"))
        self._edit_hub({"distribution": {"strategy": strategy}})

    def _change_hooks(self) -> None:
        spec: Json = {"hooks": None}
        if self._hands.rng.random() < 0.6:
            hooked(spec, self._hands.rng)
        self._edit_hub(spec)

    def _change_copies(self) -> None:
        factor = self._hands.rng.choice((2, 2, 3, "ClusterSize"))
        kept = {"strategy": "Replication", "replicationFactor": factor, "replicationModel": "ActivePassive"}
        self._edit_hub({"redundancy": self._hands.rng.choice((kept, {"strategy": "Singularity"}))})

    # Edits that are rejected.

    def _reject_hub(self) -> None:
        """Make an edit that the operator rejects, alone or with another, and soon correct it."""
        unfit: tuple[tuple[str, str, Json], ...] = (
            ("distribution", "Nearest", {}),
            ("redundancy", "Mirror", {"suspend": True}),
            ("partitionTolerance", "Raft", {}),
        )
        self._use(*self._hands.rng.choice(unfit))

    def _guide(self) -> None:
        """Make the hub a guided one for a while: it rejects all Children that name no member, or is rejected."""
        self._use("distribution", "Guided", {})

    def _use(self, part: str, strategy: str, others: Json) -> None:
        """Name a strategy that does not fit, and soon the former one again."""
        if (hub := self._world.server.objects.get(HUB)) is None:
            return
        before = hub["spec"].get(part, {}).get("strategy", "Singularity")
        if before not in _UNFIT:
            self._fit[part] = before
            self._edit_hub({part: {"strategy": strategy}, **others})
            self._hands.after(0.5, 30.0, self._correct)

    def _correct(self) -> None:
        hub = self._world.server.objects.get(HUB)
        for part, strategy in self._fit.items():
            if hub is not None and hub["spec"].get(part, {}).get("strategy") in _UNFIT:
                others = {"suspend": False} if part == "redundancy" else {}
                self._edit_hub({part: {"strategy": strategy}, **others})

    def _reject_nodes(self) -> None:
        """Edit a Child so that the operator rejects it, or correct that."""
        rng = self._hands.rng
        nodes = [rng.choice(self._hands.all_members)] if rng.random() < 0.6 else None
        self._hands.change_child({"spec": {"nodes": nodes}})

    def _reject_child(self) -> None:
        """Edit a Child so that the operator rejects it, also with another workload, or correct that."""
        hands = self._hands
        workload = hands.pods.edit(hands.next_command()) if hands.rng.random() < 0.5 else {}
        nodes = [hands.rng.choice(hands.all_members)] if hands.rng.random() < 0.6 else None
        hands.change_child({"spec": {"nodes": nodes, **workload}})

    # Children and ChildSets.

    def _bind(self) -> None:
        self._hands.change_child({"spec": {"pinned": True}})

    def _pin(self) -> None:
        self._hands.change_child({"spec": {"pinned": self._hands.rng.random() < 0.6}})

    def _describe(self) -> None:
        """Edit what changes nothing of a process: tags, metadata, or the policy by which it is restarted."""
        rng = self._hands.rng
        number = rng.randint(0, 9)
        self._hands.change_child({"spec": {"tags": [f"t{number}"], "metadata": {"number": str(number)}}})
        lasting = [
            key
            for key, item in self._world.server.objects.items()
            if key.plural == "children" and item["spec"].get("restartPolicy") != "Temporary"
        ]
        if lasting:
            self._world.edit(rng.choice(lasting), {"spec": {"restartPolicy": rng.choice(("Permanent", "Transient"))}})

    def _change_static(self) -> None:
        rng, hands = self._hands.rng, self._hands
        children = [{"id": name, **hands.pods.workload(hands.next_command())} for name in _STATIC if rng.random() < 0.6]
        self._edit_hub({"children": children})

    def _change_ids(self) -> None:
        """Create, edit or delete a ChildSet with a list of ids."""
        rng, key = self._hands.rng, Key("childsets", "ns", "u")
        ids = rng.sample(_IDS, rng.randint(1, 4))
        if key not in self._world.server.objects:
            spec = {"hub": "hub", "ids": ids, "template": self._hands.pods.workload(self._hands.next_command())}
            self._world.server_request("POST", key, {"metadata": {"name": key.name}, "spec": spec}, "user")
        elif rng.random() < 0.2:
            self._world.server_request("DELETE", key, {}, "user")
        else:
            self._world.edit(key, {"spec": {"ids": ids}})

    def _change_templates(self) -> None:
        """Suspend, resume or pin the children of a ChildSet, or edit its template so that the operator rejects it."""
        rng, sets = self._hands.rng, [key for key in self._world.server.objects if key.plural == "childsets"]
        changes: tuple[Json, ...] = (
            {"suspend": True},
            {"suspend": None},
            {"pinned": rng.random() < 0.6},
            {"nodes": [rng.choice(self._hands.all_members)]},
            {"nodes": None},
        )
        if sets:
            self._world.edit(rng.choice(sets), {"spec": {"template": rng.choice(changes)}})
