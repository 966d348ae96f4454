"""Every stored version of an object, by the rules of kstatus: no object is Current before its latest edit is done.

Argo CD's health of each version is that of docs/how-to/argocd-cm.yaml.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import virtualtime
from memoryapi import Json, Key
from onethread import Cluster, running_hub

from argohealth import health, scripts
from builders import make_child, make_hub
from kstatus import kstatus
from processhub.api.hub import HubStatus
from processhub.api.meta import condition_of
from processhub.controller.hooks.hubevent import CloudEventText
from processhub.controller.report.child import MemberCopy, child_status
from processhub.controller.report.hub import stalled_status
from processhub.core.model.membership import Judgement, Phase
from processhub.core.model.snapshot import desired_child
from processhub.registry.grammar import Report

EXEC = {"exec": {"command": ["x"]}}
OTHER = {"exec": {"command": ["y"]}}
STEADY = Judgement(Phase.LIVE, draining=False, restarting=False, recheck_seconds=None, why="")
HEALTH = {"Current": {"Healthy"}, "Failed": {"Degraded"}, "InProgress": {"Progressing", "Suspended"}}


class Story:
    """The results for one object, in order."""

    def __init__(self, cluster: Cluster, plural: str, name: str) -> None:
        self.cluster, self.key, self._told = cluster, Key(plural, "ns", name), 0

    def spec(self, **fields: Any) -> None:
        """Edit the spec."""
        self.cluster.api.update(self.key, lambda item: item["spec"].update(fields))

    async def until(self, *results: str) -> None:
        """Wait for the last of these results, which are, in this order, all results since the last call."""
        await self.cluster.until(lambda: self._results()[-1:] == [results[-1]], f"{self.key.name}: {self._now()}")
        assert self._results() == list(results), self._now()
        self._told = len(self.cluster.api.changes)

    @property
    def conditions(self) -> dict[str, str]:
        """Return the reasons of the conditions that are True, by type."""
        conditions = self.cluster.api.objects[self.key]["status"]["conditions"]
        return {found["type"]: found["reason"] for found in conditions if found["status"] == "True"}

    def _results(self) -> list[str]:
        items = [item for _, _, key, item in self.cluster.api.changes[self._told :] if key == self.key]
        for item in map(as_read, items):
            assert health(item)[0] in HEALTH[kstatus(item)], (health(item), self._conditions(item))
        return [result for result, _ in groupby(kstatus(as_read(item)) for item in items)]

    def _now(self) -> Any:
        return self._results(), self._conditions(self.cluster.api.objects[self.key])

    def _conditions(self, item: Json) -> Any:
        return item.get("status", {}).get("conditions")


def as_read(item: Json) -> Json:
    """Return the object with the default that the API server sets."""
    return {"status": {"observedGeneration": -1}, **item}


def in_hub(folder: Path, test: Callable[[Cluster], Awaitable[None]], **spec: Any) -> None:
    async def main() -> None:
        async with running_hub(folder, **spec) as cluster:
            await test(cluster)

    virtualtime.run(main())


def starts(cluster: Cluster, child_id: str) -> int:
    return sum(begins and started == child_id for _, started, _, begins in cluster.log)


def test_a_hub_that_is_scaled_to_zero_is_current_unless_a_child_waits(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.create("hubs", {"metadata": {"name": "empty"}, "spec": {"members": {"replicas": 0}}})
        hub = Story(cluster, "hubs", "empty")
        await hub.until("InProgress", "Current")
        assert message_of(cluster, hub.key, "Ready") == "the hub has no members: spec.members.replicas is 0"

        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "empty", **EXEC}})
        await hub.until("InProgress")
        cluster.api.delete("children", "a")
        await hub.until("Current")

    in_hub(tmp_path, test)


def test_a_child_is_current_when_it_runs_with_its_latest_spec(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", **EXEC}})
        child = Story(cluster, "children", "a")
        await child.until("InProgress", "Current")
        assert starts(cluster, "a") == 1

        child.spec(**OTHER)
        await child.until("InProgress", "Current")
        assert starts(cluster, "a") == 2

        child.spec(tags=["eu"])
        await child.until("InProgress", "Current")

        child.spec(nodes=["hub-0"])
        await child.until("InProgress", "Failed")
        assert child.conditions["Ready"] == "Started", "the last good one runs on"
        assert child.conditions["Stalled"] == "InvalidChildMapping"

        cluster.api.update(child.key, lambda item: item["spec"].pop("nodes"))
        await child.until("InProgress", "Current")
        child.spec(suspend=True)
        await child.until("InProgress")
        await cluster.until(lambda: not cluster.runs_on()["a"], "it is stopped")
        await cluster.until(lambda: health(cluster.api.objects[child.key])[0] == "Suspended", "and is said to be")
        child.spec(suspend=False)
        await child.until("InProgress", "Current")
        assert starts(cluster, "a") == 3

    in_hub(tmp_path, test)


REFUSED = {"pod": {"template": {"spec": {"containers": [{"name": "main", "image": "bad"}]}}}}
GOOD_POD = {"pod": {"template": {"spec": {"containers": [{"name": "main", "image": "good"}]}}}}


def test_a_pod_child_whose_pod_is_refused_waits_for_its_user(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.policy = no_bad_image
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", **REFUSED}})
        child = Story(cluster, "children", "a")
        await child.until("InProgress", "Failed")
        assert child.conditions == {"Accepted": "Accepted", "Stalled": "Invalid"}
        status = cluster.api.objects[child.key]["status"]["conditions"]
        said = {found["message"] for found in status if found["type"] in ("Placed", "Ready", "Stalled")}
        assert said == {"its pod is refused: no such image here"}

        child.spec(suspend=True)
        await child.until("InProgress")
        await cluster.until(lambda: health(cluster.api.objects[child.key])[0] == "Suspended", "it is suspended")
        child.spec(suspend=False)
        await child.until("InProgress", "Failed")

        child.spec(**GOOD_POD)
        await cluster.until(lambda: pods_of_children(cluster) != [], "its pod is made")
        run_pods(cluster)
        await child.until("InProgress", "Current")

    in_hub(tmp_path, test)


async def running_pod_child(cluster: Cluster) -> Story:
    """A pod child whose Pod runs."""
    cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", **GOOD_POD}})
    child = Story(cluster, "children", "a")
    await cluster.until(lambda: pods_of_children(cluster) != [], "its pod is made")
    run_pods(cluster)
    await child.until("InProgress", "Current")
    return child


def test_a_pod_runs_on_when_the_edited_template_is_refused(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.policy = no_bad_image
        child = await running_pod_child(cluster)
        before = uids_of(cluster)

        child.spec(**REFUSED)
        await child.until("InProgress", "Failed")
        assert child.conditions == {"Placed": "Placed", "Ready": "Started", "Stalled": "Invalid"}
        assert said_of(child) == {"the pod of the edited template is refused: no such image here"}

        await cluster.change_leader()
        child.spec(tags=["eu"])
        await cluster.until(lambda: cluster.api.objects[child.key]["status"]["observedGeneration"] == 3, "it is seen")
        assert kstatus(as_read(cluster.api.objects[child.key])) == "Failed", "the next leader checks it too"
        assert uids_of(cluster) == before, "the pod runs on"

        cluster.api.policy = lambda key, item: ""
        await cluster.until(lambda: uids_of(cluster) not in (before, []), "the edit is carried out without another")
        run_pods(cluster)
        await cluster.until(lambda: kstatus(as_read(cluster.api.objects[child.key])) == "Current", "it runs")

    in_hub(tmp_path, test)


def test_an_edit_during_the_check_of_the_one_before_is_checked_too(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        child = await running_pod_child(cluster)
        before, edits = uids_of(cluster), iter(range(1, 20))

        def edited_meanwhile(key: Key, item: Json) -> str:
            if why := no_bad_image(key, item):
                if number := next(edits, 0):
                    child.spec(pod={**REFUSED["pod"], "port": 8000 + number})
                return why
            return ""

        cluster.api.policy = edited_meanwhile
        child.spec(**REFUSED)
        await child.until("InProgress", "Failed")

        assert next(edits, 0) == 0, "each edit was checked"
        assert uids_of(cluster) == before, "the pod runs on"

    in_hub(tmp_path, test)


def test_a_slow_check_of_an_edit_delays_no_other_child(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.policy = no_bad_image
        child = await running_pod_child(cluster)
        before = uids_of(cluster)

        cluster.api.dry_run_seconds = 4.0
        child.spec(**REFUSED)
        for number in range(10):
            other = f"b-{number}"
            cluster.api.create("children", {"metadata": {"name": other}, "spec": {"hub": "hub", **EXEC}})
            await cluster.until(lambda name=other: bool(cluster.runs_on()[name]), "another child starts", 1.5)  # type: ignore[misc]
        await child.until("InProgress", "Failed")

        await asyncio.sleep(30.0)  # it is checked again and again
        assert child._results() == []
        assert uids_of(cluster) == before
        cluster.api.policy = lambda key, item: ""
        await cluster.until(lambda: uids_of(cluster) not in (before, []), "the edit is carried out", 20.0)

    in_hub(tmp_path, test)


def test_a_quota_that_the_pod_itself_uses_up_stops_no_edit(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        def one_pod(key: Key, item: Json) -> str:
            full = key.plural == "pods" and "processhub.dev/child" in item["metadata"]["labels"]
            return "exceeded quota: few, requested: pods=1" if full and pods_of_children(cluster) else ""

        cluster.api.policy = one_pod
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", **REFUSED}})
        await cluster.until(lambda: pods_of_children(cluster) != [], "its pod is made")
        before = uids_of(cluster)

        Story(cluster, "children", "a").spec(**GOOD_POD)
        await cluster.until(lambda: uids_of(cluster) not in (before, []), "another pod has replaced it")

    in_hub(tmp_path, test)


def test_a_quota_that_the_edited_template_does_not_fit_stops_the_edit(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        def needs_limits(key: Key, item: Json) -> str:
            return "failed quota: few: must specify limits.cpu" if no_bad_image(key, item) else ""

        cluster.api.policy = needs_limits
        child = await running_pod_child(cluster)
        before = uids_of(cluster)

        child.spec(**REFUSED)
        await child.until("InProgress", "Failed")
        assert uids_of(cluster) == before, "the pod runs on"

    in_hub(tmp_path, test)


def uids_of(cluster: Cluster) -> list[str]:
    return [cluster.api.objects[key]["metadata"]["uid"] for key in pods_of_children(cluster)]


def said_of(story: Story) -> set[str]:
    """The messages of its conditions Accepted and Stalled."""
    conditions = story.cluster.api.objects[story.key]["status"]["conditions"]
    return {found["message"] for found in conditions if found["type"] in ("Accepted", "Stalled")}


def test_a_child_set_runs_on_when_the_pods_of_its_edited_template_are_refused(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.policy = no_bad_image
        spec = {"hub": "hub", "replicas": 3, "template": GOOD_POD, "minReadySeconds": 0}
        cluster.api.create("childsets", {"metadata": {"name": "web"}, "spec": spec})
        web = Story(cluster, "childsets", "web")
        await cluster.until(lambda: len(pods_of_children(cluster)) == 3, "its pods are made")
        run_pods(cluster)
        await web.until("InProgress", "Current")
        before = uids_of(cluster)

        cluster.api.create("childsets", {"metadata": {"name": "other"}, "spec": {**spec, "replicas": 0}})
        web.spec(template=REFUSED)
        await web.until("InProgress", "Failed")
        assert cluster.api.get("childsets", "other")["metadata"]["generation"] == 1
        assert web.conditions == {"Ready": "Started", "Stalled": "Invalid"}
        assert "the pod of the edited template is refused: no such image here" in said_of(web)

        await cluster.change_leader()
        web.spec(minReadySeconds=1)
        await cluster.until(lambda: cluster.api.objects[web.key]["status"]["observedGeneration"] == 3, "it is seen")
        assert kstatus(as_read(cluster.api.objects[web.key])) == "Failed", "the next leader checks it too"
        assert uids_of(cluster) == before, "all pods run on"

        cluster.api.policy = lambda key, item: ""
        await cluster.until(lambda: uids_of(cluster) != before, "the edit is carried out without another", 30.0)

    in_hub(tmp_path, test)


def test_a_child_set_whose_first_pods_are_refused_waits_for_its_user(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.policy = no_bad_image
        spec = {"hub": "hub", "replicas": 3, "template": REFUSED, "minReadySeconds": 0}
        cluster.api.create("childsets", {"metadata": {"name": "web"}, "spec": spec})
        web = Story(cluster, "childsets", "web")
        await web.until("InProgress", "Failed")
        assert web.conditions == {"Accepted": "Accepted", "Stalled": "Invalid"}
        (stalled,) = [it for it in cluster.api.objects[web.key]["status"]["conditions"] if it["type"] == "Stalled"]
        assert stalled["message"].startswith("3 of 3 children are refused, such as web-")

    in_hub(tmp_path, test)


async def three_on_demand(cluster: Cluster) -> list[str]:
    """Have three pod children started by requests; returns the uids of their Pods."""
    await cluster.until(lambda: all(agent._parts.slices.settings.on_demand for agent in cluster.agents.values()), "set")
    for child_id in ("a", "b", "c"):
        cluster.ask(child_id)
    await cluster.until(lambda: len(pods_of_children(cluster)) == 3, "their pods are made")
    run_pods(cluster)
    await Story(cluster, "hubs", "hub").until("InProgress", "Current")
    return uids_of(cluster)


def test_children_on_demand_run_on_when_the_pods_of_an_edited_template_are_refused(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.policy = no_bad_image
        before = await three_on_demand(cluster)
        hub = Story(cluster, "hubs", "hub")

        hub.spec(onDemand=REFUSED)
        await cluster.until(lambda: hub.conditions.get("Stalled") == "Invalid", "the hub says it")
        await asyncio.sleep(30.0)  # it is checked again and again
        assert uids_of(cluster) == before, "all pods run on"
        assert message_of(cluster, hub.key, "Stalled") == (
            "children on demand run on with the former spec.onDemand: "
            "the pod of the edited template is refused: no such image here"
        )
        assert rejections(cluster) == ["Invalid: the pod of the edited template is refused: no such image here"]

        cluster.api.policy = lambda key, item: ""
        await cluster.until(lambda: uids_of(cluster) != before, "the edit is carried out without another", 30.0)

    in_hub(tmp_path, test, onDemand=GOOD_POD)


class DeniesBad:
    """A hook that denies the start of every child with the image ``bad``."""

    def refusal(self, spec: object) -> None: ...

    async def call(self, hub: object, hook: object, event: CloudEventText) -> Any:
        return {"allow": b'"bad"' not in event.body, "reason": "this image is not approved"}

    async def close(self) -> None: ...


def test_a_hub_reports_that_a_hook_denies_the_edited_template_of_its_children_on_demand(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        before = await three_on_demand(cluster)
        hub = Story(cluster, "hubs", "hub")

        hub.spec(onDemand=REFUSED)
        await cluster.until(lambda: hub.conditions.get("Stalled") == "HookDenied", "the hub says it")
        await asyncio.sleep(30.0)
        said = message_of(cluster, hub.key, "Stalled")
        assert said.startswith("children on demand run on with the former spec.onDemand, such as ")
        assert said.endswith(": hook approve: this image is not approved")
        assert uids_of(cluster) == before, "all pods run on"
        (event,) = rejections(cluster)
        assert event.startswith("the edited spec.onDemand is denied, and the former one runs on: ")
        assert event.endswith(": HookDenied: hook approve: this image is not approved")

        hub.spec(onDemand=GOOD_POD)
        await cluster.until(lambda: "Stalled" not in hub.conditions, "it is mended")
        assert uids_of(cluster) == before

    hook = {"name": "approve", "event": "PreChildStart", "webhook": {"url": "http://approve"}}
    in_hub(tmp_path, test, receivers=DeniesBad, onDemand=GOOD_POD, hooks=[hook])


def message_of(cluster: Cluster, key: Key, kind: str) -> str:
    conditions = cluster.api.objects[key]["status"]["conditions"]
    return next(str(found["message"]) for found in conditions if found["type"] == kind)


def rejections(cluster: Cluster) -> list[str]:
    events = [item for key, item in cluster.api.objects.items() if key.plural == "events"]
    return [event["message"] for event in events if event["reason"] == "Rejected"]


def test_a_hub_does_not_wait_for_a_static_child_whose_pod_is_refused(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        hub = Story(cluster, "hubs", "hub")
        await hub.until("InProgress", "Current")

        cluster.api.policy = no_bad_image
        hub.spec(children=[{"id": "a", **REFUSED}])
        await cluster.until(lambda: Key("children", "ns", "a") in cluster.api.objects, "the Child is made")
        await Story(cluster, "children", "a").until("InProgress", "Failed")
        await hub.until("InProgress", "Current")

    in_hub(tmp_path, test)


def no_bad_image(key: Key, item: Json) -> str:
    bad = key.plural == "pods" and any(container["image"] == "bad" for container in item["spec"]["containers"])
    return "no such image here" if bad else ""


def pods_of_children(cluster: Cluster) -> list[Key]:
    return [key for key, item in cluster.api.objects.items()
            if key.plural == "pods" and "processhub.dev/child" in item["metadata"]["labels"]]  # fmt: skip


def run_pods(cluster: Cluster) -> None:
    """Do the work of the kubelet for the Pods of children."""
    ready = {"phase": "Running", "podIP": "10.0.0.2", "conditions": [{"type": "Ready", "status": "True"}]}
    for key in pods_of_children(cluster):
        cluster.api.update(key, lambda item: item.update(status=ready))


def test_a_child_without_its_hub_waits_for_it(tmp_path: Path) -> None:
    """A tool that applies both at once must not fail because of their order."""

    async def test(cluster: Cluster) -> None:
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "other", **EXEC}})
        child = Story(cluster, "children", "a")
        await cluster.until(lambda: "conditions" in cluster.api.objects[child.key]["status"], "it is seen")
        await child.until("InProgress")
        assert child.conditions == {"Reconciling": "HubNotFound"}

    in_hub(tmp_path, test)


def test_a_child_of_a_guided_hub_is_current_on_its_member(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", "nodes": ["hub-0"], **EXEC}})
        child = Story(cluster, "children", "a")
        await child.until("InProgress", "Current")

        child.spec(nodes=["hub-1"])
        await child.until("InProgress", "Current")
        assert cluster.runs_on()["a"] == {"hub-1"}

    in_hub(tmp_path, test, distribution={"strategy": "Guided"})


def test_a_child_set_is_current_when_it_has_exactly_the_children_of_its_latest_spec(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        spec = {"hub": "hub", "replicas": 4, "template": EXEC}
        cluster.api.create("childsets", {"metadata": {"name": "web"}, "spec": spec})
        web = Story(cluster, "childsets", "web")
        await web.until("InProgress", "Current")
        assert len(cluster.runs_on()) == 4

        web.spec(replicas=6)
        await web.until("InProgress", "Current")
        assert len(cluster.runs_on()) == 6

        web.spec(template=OTHER)
        await web.until("InProgress", "Current")
        assert [starts(cluster, f"web-{number}") for number in range(6)] == [2] * 6

        web.spec(replicas=2)
        await web.until("InProgress", "Current")
        assert {child_id for child_id, members in cluster.runs_on().items() if members} == {"web-0", "web-1"}

        web.spec(template={"nodes": ["hub-0"], **OTHER})
        await web.until("InProgress", "Failed")
        assert web.conditions["Stalled"] == "InvalidChildMapping"

    in_hub(tmp_path, test)


def test_a_hub_is_current_when_its_members_and_static_children_match_its_latest_spec(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        hub = Story(cluster, "hubs", "hub")
        await hub.until("InProgress", "Current")

        hub.spec(children=[{"id": "a", **EXEC}])
        await hub.until("InProgress", "Current")
        assert starts(cluster, "a") == 1
        hub.spec(children=[{"id": "a", **OTHER}])
        await hub.until("InProgress", "Current")
        assert starts(cluster, "a") == 2

        hub.spec(members={"replicas": 4})
        await hub.until("InProgress", "Current")
        assert cluster.api.objects[hub.key]["status"]["readyReplicas"] == 4

        hub.spec(distribution={"strategy": "Nearest"})
        await hub.until("InProgress", "Failed")
        assert hub.conditions["Stalled"] == "UnknownStrategy"
        hub.spec(distribution={"strategy": "ConsistentHashing"})
        await hub.until("InProgress", "Current")

    in_hub(tmp_path, test)


def test_a_hub_is_not_current_while_a_member_has_the_former_template(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        hub = Story(cluster, "hubs", "hub")
        await hub.until("InProgress", "Current")

        hub.spec(members={"replicas": 3, "template": {"metadata": {"labels": {"tier": "gold"}}}})
        workload = Key("statefulsets", "ns", "hub")
        template = cluster.api.objects[workload]["spec"]["template"]["metadata"]
        await cluster.until(lambda: hub.conditions.get("Reconciling") == "Updating", "it is seen")
        assert template["annotations"] != cluster.api.objects[workload]["spec"]["template"]["metadata"]["annotations"]

        for number in range(3):  # as the controller of StatefulSets does, with new pods
            await hub.until("InProgress")
            marks = cluster.api.objects[workload]["spec"]["template"]["metadata"]["annotations"]
            pod = Key("pods", "ns", f"hub-{number}")
            cluster.api.update(pod, lambda item, marks=marks: item["metadata"].update(annotations=marks))
        await hub.until("Current")

    in_hub(tmp_path, test)


@pytest.mark.parametrize(
    ("policy", "state", "reason", "restarts", "status", "shown"),
    [
        ("Permanent", "Failed", "Exited", 4, "InProgress", "Degraded"),
        ("Permanent", "Failed", "RestartsExceeded", 4, "Failed", "Degraded"),
        ("Temporary", "Failed", "Exited", 0, "Failed", "Degraded"),
        ("Temporary", "Stopped", "Completed", 0, "InProgress", "Healthy"),
        ("Permanent", "Starting", "", 0, "InProgress", "Progressing"),
    ],
)
def test_a_child_that_ended_is_current_or_failed(
    policy: Any, state: str, reason: str, restarts: int, status: str, shown: str
) -> None:
    """A tool that waits stops waiting when nothing happens by itself any more."""
    item = make_child("a", {**EXEC, "restartPolicy": policy}, generation=1)
    wanted = desired_child(item.spec, "a", "u", "w")
    report = Report(uid="u", epoch=1, state=state, reason=reason, restarts=restarts, message="exit code 1")
    copy = MemberCopy("hub-0", wanted.entry(1), report, SimpleNamespace(pod=None, judgement=STEADY))

    found = msgspec.structs.replace(item, status=child_status(item, [copy], None, None, "now", "", wanted))

    plain = msgspec.json.decode(msgspec.json.encode(found))
    assert (kstatus(plain), health(plain)[0]) == (status, shown)


@pytest.mark.parametrize(("trouble", "status"), [(None, "InProgress"), (("Refused", "no rights"), "Failed")])
def test_a_hub_that_cannot_be_reconciled_is_not_current(trouble: tuple[str, str] | None, status: str) -> None:
    ready = condition_of("Ready", True, "MembersReady", "", 1)
    hub = make_hub(generation=2, status=HubStatus(conditions=(ready,), observed_generation=1))

    found = msgspec.structs.replace(hub, status=stalled_status(hub, trouble, "now"))

    assert kstatus(msgspec.json.decode(msgspec.json.encode(found))) == status


def test_each_kind_has_the_same_script() -> None:
    assert scripts().keys() == {"Hub", "Child", "ChildSet"}
    assert len(set(scripts().values())) == 1
