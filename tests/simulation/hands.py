"""The acts of users, administrators and chance on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from memoryapi import Json
from memoryrequests import Key

from processhub.api.naming import LABEL_HUB_UID

from .copies import CopyHands, keeps_copies
from .demandhands import DemandHands
from .edits import Edits
from .kubelet import Pod
from .machines import Run
from .naming import CHILDREN, DEMANDED, HUB, LEADER, NODES
from .podhands import PodHands
from .quorumhands import QuorumHands
from .rollouts import RollHands
from .world import Operator, World, add_condition

_WATCHES = tuple(f"watch of {plural}" for plural in ("leases", "pods", "registryslices", "children", "hubs"))

Act = tuple[int, Callable[[], None]]  # with its weight


class Hands:
    """Users, administrators and chance."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self._seed, self._commands = world, seed, 0
        self.rng = Random(f"{seed}/hands")
        # With MajorityQuorum fewer than half of the members stay stopped until somebody resets the quorum.
        strategy = world.server.objects[HUB]["spec"]["partitionTolerance"]["strategy"]
        self._least = 3 if strategy == "MajorityQuorum" else 2
        self.pods, self.edits = PodHands(self, world, seed), Edits(self, world, seed)
        demands = "onDemand" in world.server.objects[HUB]["spec"]
        self._demand = DemandHands(self, world)
        self.all_members = NODES if world.per_node else tuple(f"hub-{ordinal}" for ordinal in range(4))
        self.names = (*CHILDREN, *DEMANDED) if demands else CHILDREN
        acts: tuple[Act, ...] = (
            (8, self._change_weather),
            (3, self._kill_agent),
            (3, self._kill_operator),
            (2, self._stop_operator),
            (3, self._pause_agent),
            (3, self._pause_operator),
            (3, self._cut_member),
            (2, self._cut_operator),
            (3, self._delete_pod),
            (3, self._force_delete_pod),
            (2, self._crash_child),
            (3, self._finish_child),
            (2, self._spoil_object),
            (1, self._set_clock),
            (3, self._stall),
            (2, self._serve_old_lists),
            (1, self._delete_terms),
            (1, self._delete_member),
            (2, self._break_webhooks),
            (2, self._refuse),
            (1, self._compact),
            (2, self._evict_pod),
            (1, self._cordon),
            (1, self._lose_node),
            (6, self._create),
            (5, self._edit),
            (2, self._suspend),
            (6, self._move),
            (2, self._drain),
            (2, self._scale),
            (5, self._delete),
            (3, self._replace_child),
            (3, self._edit_hub),
            (1, self._replace_hub),
            (3, self._change_set),
            *self.pods.acts(),
        )
        if demands:
            acts = (*acts, *self._demand.acts())
        # Half of them in each run, and some often: what needs the same kind of fault twice would be rare otherwise.
        chosen = [(weight * self.rng.choice((1, 1, 4)), act) for weight, act in acts if self.rng.random() < 0.5]
        self._acts = chosen or acts
        if demands:
            self._acts = (*self._acts, (15, self._demand.ask))
        self.shares, self.quorum = CopyHands(self, world, seed), QuorumHands(self, world, seed)
        self.rolls = RollHands(self, world, seed)
        self._acts = (
            *(*self._acts, *self.edits.acts()),
            *(*self.shares.acts(), *self.quorum.acts(), *self.rolls.acts()),
        )
        if self.edits.copies or self.shares.present:
            # Each copy finishes by itself, and one that is added is a new run. While nobody leads, a Pod that is
            # without its labels may lose them for good (docs/protocol.md).
            self._acts = [each for each in self._acts if each[1] not in (self._finish_child, self.pods.take_mark)]

    def act(self, number: int, acts: Sequence[Act] = ()) -> None:
        """Do one of these acts, or any. Its choices depend on its number and the seed, so others can be left out."""
        self.rng, acts = Random(f"{self._seed}/act {number}"), acts or self._acts
        self.rng.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()

    def acts_on_operators(self) -> tuple[Act, ...]:
        """The faults of replicas of the operator."""
        return (
            (2, self._kill_operator),
            (2, self._stop_operator),
            (2, self._pause_operator),
            (2, self._cut_operator),
        )

    def acts_that_move(self, *, suspend: bool) -> tuple[Act, ...]:
        """The acts of users that move and restart children; either they are suspended, or members leave."""
        others = ((4, self._suspend),) if suspend else ((3, self._drain), (2, self._scale))
        return ((4, self._create), (6, self._edit), (8, self._move), (2, self._change_set), *others)

    def acts_in_order(self) -> tuple[Act, ...]:
        """The acts of users that restart children, or members one by one."""
        others = ((4, self._create), (6, self._edit), (4, self._move), (2, self._change_set))
        return (*others, (4, self._replace_in_order))

    def acts_beside_restores(self, *, members: bool) -> tuple[Act, ...]:
        """The acts beside restores of etcd: none that befalls the last replica of the operator.

        ``members``: Pods of members are replaced.
        """
        operator = self.world.operators[0]
        acts: tuple[Act, ...] = (
            (2, self._stall),
            (2, self._cut_member),
            (1, self._pause_agent),
            (1, lambda: self._pause(operator)),
            (1, lambda: self._cut(operator)),
            (2, self._crash_child),
            (3, self._create),
            (3, self._edit),
            (2, self._suspend),
            (4, self._move),
            (3, self._delete),
            (2, self._replace_child),
            (2, self._change_set),
            *(((2, self._delete_pod),) if members else ()),
            *self.shares.acts(),
            *self.pods.acts_beside_restores(),
        )
        return (*acts, (8, self._demand.ask), *self._demand.acts()) if self.names != CHILDREN else acts

    def create(self, name: str) -> None:
        """Create a Child."""
        spec = {"hub": "hub", **self.pods.workload(self.next_command())}
        self.world.server_request(
            "POST", Key("children", "ns", name), {"metadata": {"name": name}, "spec": spec}, "user"
        )

    def next_command(self) -> str:
        """Return a command that no workload has yet."""
        self._commands += 1
        return f"v{self._commands}"

    def after(self, least: float, most: float, what: Callable[[], object]) -> None:
        self.world.loop.later(self.rng.uniform(least, most), what)

    def _pod(self) -> Pod | None:
        pods = list(self.world.running_pods)
        return self.rng.choice(pods) if pods else None

    def _children(self) -> list[str]:
        return [key.name for key in self.world.server.objects if key.plural == "children"]

    # Faults.

    def _change_weather(self) -> None:
        names = ["", *(operator.process.name for operator in self.world.operators)]
        names += [pod.container.process.name for pod in self.world.running_pods]
        name, rate = self.rng.choice(names), self.rng.choice((0.02, 0.1, 0.4, 0.9))
        part = self.rng.choice(("", "write", "write of registryslices", "watch", *_WATCHES))
        self.world.network.weather.rates[name, part] = rate
        self.world.trace.fault(name or "network", f"{rate:.0%} of each {part or 'request'} meet a fault from now on")
        self.after(3.0, 30.0, lambda: self.world.network.weather.rates.pop((name, part), None))

    def _kill_agent(self) -> None:
        if (pod := self._pod()) is not None:
            self.world.trace.fault(pod.container.process.name, "is killed")
            pod.container.kill()

    def _kill_operator(self) -> None:
        operator = self.rng.choice(self.world.operators)
        self.world.trace.fault(operator.process.name, "is killed")
        operator.process.kill()

    def _stop_operator(self) -> None:
        operator = self.rng.choice(self.world.operators)
        self.world.trace.fault(operator.process.name, "gets SIGTERM")
        operator.terminate()

    def _pause_agent(self) -> None:
        if (pod := self._pod()) is not None and pod.container.process.runs:
            self.world.trace.fault(pod.container.process.name, "is paused")
            process = pod.container.process
            process.pause()
            self.after(0.5, 40.0, lambda: process.resume(self.world.loop) if process.paused else None)

    def _pause_operator(self) -> None:
        self._pause(self.rng.choice(self.world.operators))

    def _pause(self, operator: Operator) -> None:
        process = operator.process
        if process.runs:
            self.world.trace.fault(process.name, "is paused")
            process.pause()
            self.after(0.5, 40.0, lambda: process.resume(self.world.loop) if process.paused else None)

    def _cut_member(self) -> None:
        if (pod := self._pod()) is not None:
            with_kubelet = self.rng.random() < 0.5
            self.world.trace.fault(pod.name, f"{'and its kubelet are' if with_kubelet else 'is'} cut off")
            pod.wire.whole.clear()
            pod.reachable = not with_kubelet
            self.after(1.0, 60.0, pod.mend)

    def _cut_operator(self) -> None:
        self._cut(self.rng.choice(self.world.operators))

    def _cut(self, operator: Operator) -> None:
        self.world.trace.fault(operator.name, "is cut off")
        operator.wire.whole.clear()
        self.after(1.0, 40.0, operator.wire.whole.set)

    def _delete_pod(self) -> None:
        if (pod := self._pod()) is not None and pod.key in self.world.server.objects:
            self.world.trace.fault("admin", f"deletes pod {pod.name}")
            self.world.server.end(pod.key)

    def _replace_in_order(self) -> None:
        """Have one pod replaced after the other, or one, while no other is away: an edit in between would take two."""
        if self.world.workloads.whole and (pod := self._pod()) is not None:
            if self.rng.random() < 0.4:
                self.rolls.edit()
            else:
                self.world.trace.fault("admin", f"deletes pod {pod.name}")
                self.world.server.end(pod.key)

    def _is_of_the_hub(self, key: Key) -> bool:
        objects = self.world.server.objects
        pod, hub = objects.get(key), objects.get(Key("hubs", "ns", "hub"))
        return (
            pod is not None and hub is not None and pod["metadata"]["labels"][LABEL_HUB_UID] == hub["metadata"]["uid"]
        )

    def _force_delete_pod(self) -> None:
        """Delete a pod object while its processes run, and none of a hub that is gone: nothing would show them."""
        if (pod := self._pod()) is not None and self._is_of_the_hub(pod.key):
            self.world.trace.fault("admin", f"deletes pod {pod.name} by force")
            self.world.server.end(pod.key, 0)

    def _crash_child(self) -> None:
        if runs := list(self.world.checks.runs):
            run = self.rng.choice(runs)
            self.world.trace.fault(run.member, f"child {run.child_id} crashes")
            run.crash()

    def _finish_child(self) -> None:
        """Have a Child run once, and finish soon. Where a hub keeps copies, each of them ends by itself."""
        hub, names = self.world.server.objects.get(HUB), self._children()
        # The policy of a static child is what its hub says.
        names = [name for name in names if name in self.names]
        own = [run for run in self.world.checks.runs if isinstance(run, Run) and run.child_id in names]
        if hub is None or keeps_copies(hub) or not own:
            return
        run = self.rng.choice(own)
        self.world.edit(Key("children", "ns", run.child_id), {"spec": {"restartPolicy": "Temporary"}})
        self.after(0.2, 5.0, lambda: self._finish(run))

    def _finish(self, run: Run) -> None:
        if run.runs and run.is_temporary and not run.ending:
            self.world.checks.finished.finish(run, seen=True)

    def _spoil_object(self) -> None:
        """Delete a Lease or a slice, or remove one of its labels."""
        objects = [key for key in self.world.server.objects if key.plural in ("leases", "registryslices")]
        if any(act == self._replace_hub for _, act in self._acts):
            # Once its Lease, all slices and the Hub are gone, the term begins at 1 again, and epochs do not rise.
            objects = [key for key in objects if key != LEADER]
        if not objects:
            return
        key = self.rng.choice(objects)
        if self.rng.random() < 0.5:
            self.world.trace.fault("admin", f"deletes {key.plural}/{key.name}")
            self._end(key)
        else:
            label = self.rng.choice(("processhub.dev/hub", "processhub.dev/hub-uid", "processhub.dev/member"))
            self.world.trace.fault("admin", f"takes the label {label} off {key.plural}/{key.name}")
            self.world.edit(key, {"metadata": {"labels": {label: None}}}, "admin")

    def _set_clock(self) -> None:
        if (pod := self._pod()) is not None:
            seconds = self.rng.choice((-3600.0, -30.0, 30.0, 3600.0))
            self.world.trace.fault(pod.node, f"its clock is wrong by {seconds:g} s")
            self.world.skews[pod.node] = pod.container.process.skew = seconds

    def _stall(self) -> None:
        """Let a watch deliver nothing for some time, although it is connected."""
        names = ["operator-", *(pod.name + "/" for pod in self.world.running_pods)]
        kinds = ("leases", "leases", "pods", "registryslices", "children", "hubs")
        name, plural = self.rng.choice(names), self.rng.choice(kinds)
        self.world.trace.fault(name, f"its watches of {plural} stall")
        self.world.network.weather.stall(name, plural)
        self.after(0.5, 20.0, lambda: self.world.network.weather.go_on(name, plural))

    def _serve_old_lists(self) -> None:
        """Let lists be older than what their reader has seen, for a shorter time than after a restore of etcd."""
        names = ["operator-", *(pod.name + "/" for pod in self.world.running_pods)]
        old = (
            self.rng.choice(names),
            self.rng.choice(("registryslices", "registryslices", "leases", "pods", "children")),
        )
        self.world.trace.fault(old[0], f"its lists of {old[1]} are old")
        self.world.network.weather.stale.add(old)
        self.after(0.5, 10.0, lambda: self.world.network.weather.stale.discard(old))

    def _delete_terms(self) -> None:
        """Delete the leader's Lease and all slices: what has the term beside the Hub's status."""
        objects = self.world.server.objects
        slices = [key for key in objects if key.plural == "registryslices"]
        noted = objects[HUB].get("status", {}).get("term", 0) if HUB in objects else 0
        is_noted = all(objects[key]["spec"]["term"] <= noted for key in slices)
        if not is_noted or self.pods.unmarked or any(act == self._replace_hub for _, act in self._acts):
            return
        self.world.trace.fault("admin", "deletes the operator's Lease and all slices")
        for key in (*slices, LEADER):
            if key in objects:
                self._end(key)

    def _end(self, key: Key) -> None:
        """Delete a Lease or a slice."""
        self.world.checks.deleted_by_hand(self.world.server.objects[key])
        self.world.server.end(key)

    def _delete_member(self) -> None:
        """Delete the Lease and all slices of a member, but for where leaseSeconds may just have been lowered."""
        if any(act == self._edit_hub for _, act in self._acts):
            return
        member, objects = self.rng.choice(self.all_members), self.world.server.objects
        self.world.trace.fault("admin", f"deletes the Lease and the slices of {member}")
        for key in list(objects):
            if key.plural in ("leases", "registryslices") and key.name.startswith(f"hub.{member}"):
                self._end(key)

    def _break_webhooks(self) -> None:
        """Let calls of webhooks fail for some time, if the hub has hooks."""
        webhooks, rate = self.world.webhooks, self.rng.choice((0.2, 0.9))
        self.world.trace.fault("webhooks", f"{rate:.0%} of the calls fail from now on")
        webhooks.rate = rate
        self.after(2.0, 40.0, lambda: setattr(webhooks, "rate", 0.0))

    def _refuse(self) -> None:
        """Reject all writes of a kind for some time, as an admission policy or a quota does."""
        plural = self.rng.choice(("registryslices", "leases", "pods", "statefulsets", "children", "hubs", "events"))
        code = self.rng.choice((403, 422))
        self.world.trace.fault("policy", f"writes of {plural} are refused with {code}")
        self.world.network.weather.refused[plural] = code
        self.after(2.0, 60.0, lambda: self.world.network.weather.refused.pop(plural, None))

    def _compact(self) -> None:
        self.world.trace.fault("etcd", "is compacted")
        self.world.server.compact()

    def _evict_pod(self) -> None:
        if (pod := self._pod()) is not None and pod.key in self.world.server.objects:
            self.world.trace.fault("admin", f"evicts pod {pod.name}")
            target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            self.world.server.update(pod.key, lambda item: add_condition(item, target))
            self.world.server.end(pod.key)

    def _cordon(self) -> None:
        node = self.rng.choice(NODES)
        self.world.trace.fault("admin", f"cordons node {node}")
        self.world.cordon(node, unschedulable=True)
        self.after(5.0, 90.0, lambda: self.world.cordon(node, unschedulable=False))

    def _lose_node(self) -> None:
        """Cut a node off from everything. Its Ready condition follows, and its pods are deleted some time later."""
        node, seconds = self.rng.choice(NODES), self.rng.uniform(5.0, 120.0)
        self.world.trace.fault(node, f"is lost for {seconds:.0f} s")
        for pod in self.world.running_pods:
            if pod.node == node:
                pod.cut()
                self.after(seconds, seconds, pod.mend)
        self.world.child_pods.lose(node)
        self.after(seconds, seconds, lambda: self.world.child_pods.lost.discard(node))
        self.after(5.0, 40.0, lambda: self._unheard(node))
        self.after(seconds + 40.0, seconds + 41.0, lambda: self.world.set_ready(node, ready=True))

    def _unheard(self, node: str) -> None:
        if node in self.world.child_pods.lost:
            self.world.set_ready(node, ready=False)

    # Users.

    def _create(self) -> None:
        if absent := [name for name in self.names if name not in self._children()]:
            self.create(self.rng.choice(absent))

    def change_child(self, patch: Json) -> None:
        """Edit any Child."""
        if children := self._children():
            self.world.edit(Key("children", "ns", self.rng.choice(children)), patch)

    def _edit(self) -> None:
        self.change_child({"spec": self.pods.edit(self.next_command())})

    def _suspend(self) -> None:
        self.change_child({"spec": {"suspend": self.rng.random() < 0.4}})

    def _move(self) -> None:
        member = self.rng.choice(self.world.members)
        self.change_child({"metadata": {"annotations": {"processhub.dev/move-to": member}}})

    def _drain(self) -> None:
        drained = self.rng.choice(self.world.members) if self.rng.random() < 0.6 else None
        self.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": drained}}})

    def _scale(self) -> None:
        """Change the number of members, which has no effect where each node has one."""
        self.world.edit(HUB, {"spec": {"members": {"replicas": self.rng.randint(self._least, 4)}}})

    def _delete(self) -> None:
        if children := self._children():
            self.world.server_request("DELETE", Key("children", "ns", self.rng.choice(children)), {}, "user")

    def _replace_child(self) -> None:
        """Delete a Child, and soon create another with its name."""
        if children := [name for name in self._children() if name in self.names]:  # a static child is the hub's
            name = self.rng.choice(children)
            self.world.server_request("DELETE", Key("children", "ns", name), {}, "user")
            self.after(0.0, 3.0, lambda: self.create(name))

    def _edit_hub(self) -> None:
        """Edit fields of the hub that change none of its promises."""
        part, field, values = self.rng.choice(
            (
                ("migration", "onRestart", ("Hold", "Move")),
                ("migration", "holdSeconds", (0, 5, 30)),
                ("timeouts", "leaseSeconds", (6, 9, 15)),
                ("timeouts", "stopSeconds", (2, 10)),
                ("distribution", "strategy", ("ConsistentHashing", "RoundRobin", "LeastLoaded")),
            )
        )
        self.world.edit(HUB, {"spec": {part: {field: self.rng.choice(values)}}})

    def _replace_hub(self) -> None:
        """Delete the Hub with all that it owns, and soon create another with its name.

        Not while a pod runs that was deleted by force, or has lost its labels: nothing would show it to the next Hub,
        and no end of what it runs is promised to that (docs/protocol.md, rules 14 and 23).
        """
        hub = self.world.server.objects.get(HUB)
        if hub is None or self.pods.unmarked or any(pod.hidden for pod in self.world.running_pods):
            return
        body = {"metadata": {"name": HUB.name}, "spec": hub["spec"]}
        self.world.server_request("DELETE", HUB, {}, "user")
        self.after(0.0, 20.0, lambda: self.world.server_request("POST", HUB, body, "user"))

    def _change_set(self) -> None:
        """Create, edit, scale or delete a ChildSet."""
        command = self.next_command()
        key = Key("childsets", "ns", self.rng.choice(("s", "t")))
        spec = {
            "hub": "hub",
            "replicas": self.rng.randint(1, 4),
            "template": self.pods.workload(command),
        }
        if key not in self.world.server.objects:
            self.world.server_request("POST", key, {"metadata": {"name": key.name}, "spec": spec}, "user")
        elif self.rng.random() < 0.3:
            self.world.server_request("DELETE", key, {}, "user")
        else:
            template = {"template": self.pods.edit(command)}
            self.world.edit(key, {"spec": self.rng.choice(({"replicas": spec["replicas"]}, template))})
