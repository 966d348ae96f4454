"""Why members are not ready, as reported by a Hub's condition, its members and the Children that wait for them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from a_round import a_round
from aiohttp import web

from builders import client_of, make_child, make_hub, make_member, make_observation, make_slice
from processhub.api.hub import HubStatus
from processhub.api.kubernetes import Pod
from processhub.api.meta import find_condition
from processhub.api.reasons import Reason
from processhub.cluster.client import Client
from processhub.controller.execute.membertroubles import Looks, member_troubles
from processhub.controller.observe.members import Member
from processhub.controller.report.child import child_status, copies_of
from processhub.controller.report.hub import hub_status
from processhub.controller.report.hubprogress import Work
from processhub.controller.report.memory import ReportMemory
from processhub.controller.report.waiting import with_troubles
from processhub.controller.store.informers import Store
from processhub.core.model.plan import Plan, Unplaced
from processhub.core.model.podtrouble import TEXT_MAX, Trouble, trouble_of
from processhub.registry.grammar import Assignment

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"
HUB = make_hub("shop", {"members": {"replicas": 3}})
PULL = Trouble("ImagePullBackOff", 'container agent: ImagePullBackOff: Back-off pulling image "nowhere/x:1"')
EXITED = {"terminated": {"exitCode": 2, "reason": "Error", "message": "HUB_NAME not set\n"}}


def pod(state: Json | None = None, last: Json | None = None, *, account: str = "", **status: Any) -> Pod:
    """A member's Pod whose agent is in this state."""
    agent = {"name": "agent", "state": state or {}, "lastState": last or {}}
    metadata = {"name": "shop-0", "namespace": "ns", "uid": "pod-uid"}
    spec = {"serviceAccountName": account, "containers": [{"name": "agent"}]}
    return msgspec.convert(
        {"metadata": metadata, "spec": spec, "status": {"containerStatuses": [agent], **status}}, Pod
    )


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("found", "brief", "text"),
    [
        (
            pod(waiting("ErrImagePull", "not found")),
            *("ImagePullBackOff", "container agent: ErrImagePull: not found"),
        ),
        (
            pod(waiting("CreateContainerConfigError", 'configmap "env" not found')),
            *("CreateContainerConfigError", 'container agent: CreateContainerConfigError: configmap "env" not found'),
        ),
        (
            pod(waiting("CrashLoopBackOff", "back-off 10s"), EXITED),
            "CrashLoopBackOff",
            "container agent: exit code 2: HUB_NAME not set; CrashLoopBackOff: back-off 10s",
        ),
        (pod(EXITED), "CrashLoopBackOff", "container agent: exit code 2: HUB_NAME not set"),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]),
            *("Unschedulable", "its pod has no node yet: 0/3 nodes are available"),
        ),
        (
            pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
            *("Evicted", "its pod has ended: The node was low on resource: memory."),
        ),
        (
            pod({"running": {"startedAt": "2026-01-01T00:09:00Z"}}, EXITED),
            "CrashLoopBackOff",
            "container agent: exit code 2: HUB_NAME not set; it runs again and is not ready yet",
        ),
        (pod({"running": {"startedAt": "2026-01-01T00:07:00Z"}}, EXITED), "", ""),
        (pod(waiting("ContainerCreating")), "", ""),
        (pod({"running": {}}), "", ""),
    ],
    ids=["image", "config", "crash loop", "crashed", "no node", "evicted", "again", "long ago", "creating", "running"],
)
def test_the_status_of_a_pod_names_the_cause(found: Pod, brief: str, text: str) -> None:
    assert trouble_of(found, "2026-01-01T00:08:00") == (brief, text)


def test_a_long_message_is_cut() -> None:
    assert len(trouble_of(pod(waiting("ErrImagePull", "x" * 5000))).text) == TEXT_MAX


class Site:
    """An API server with Events about objects, and the rights of one account."""

    def __init__(self) -> None:
        self.events: list[Json] = []
        self.allowed: set[tuple[str, str]] = {
            ("list", "registryslices"),
            ("update", "registryslices/status"),
            ("update", "leases"),
        }
        self.reads: list[str] = []
        self.refused = False
        self.answers = asyncio.Event()
        self.answers.set()

    def warn(self, reason: str, message: str, at: str = "2026-01-01T00:00:01Z", **about: str) -> None:
        event = {"metadata": {"name": f"e{len(self.events)}", "namespace": "ns"}, "type": "Warning", "reason": reason}
        self.events.append({**event, "message": message, "lastTimestamp": at, "involvedObject": about})

    async def list(self, request: web.Request) -> web.Response:
        self.reads.append(request.query["fieldSelector"])
        await self.answers.wait()
        if self.refused:
            return web.json_response({"kind": "Status", "message": "may not list events"}, status=403)
        wanted = dict(part.split("=", 1) for part in request.query["fieldSelector"].split(","))
        about = {key.removeprefix("involvedObject."): value for key, value in wanted.items() if key != "type"}
        found = [event for event in self.events if about.items() <= event["involvedObject"].items()]
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": found})

    async def review(self, request: web.Request) -> web.Response:
        spec = (await request.json())["spec"]
        asked = spec["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        assert spec["user"] == "system:serviceaccount:ns:s3"
        return web.json_response({"status": {"allowed": (asked["verb"], resource) in self.allowed}})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/ns/events", self.list)
        app.router.add_post("/apis/authorization.k8s.io/v1/subjectaccessreviews", self.review)
        return app


async def looked_up(site: Site, *members: Member, at: tuple[float, ...] = (0.0, 2.0)) -> Mapping[str, Trouble]:
    """Return the troubles of these members after rounds at these times."""
    looks: Looks = {}
    found: Mapping[str, Trouble] = {}
    async with client_of(site.app()) as client:
        for now in at:
            found = await troubles_at(client, looks, now, *members)
    return found


async def troubles_at(client: Client, looks: Looks, now: float, *members: Member) -> Mapping[str, Trouble]:
    store = Store(client, (), lambda key: None)
    round = a_round(HUB, client=client, store=store, now=lambda: now)
    return await member_troubles(round, looks, {member.name: member for member in members})


async def test_the_rejection_of_a_pod_by_a_quota_is_found_among_the_events_of_the_statefulset() -> None:
    site, about = Site(), {"kind": "StatefulSet", "name": "shop", "uid": "s"}
    refusal = 'create Pod {0} in StatefulSet shop failed error: pods "{0}" is forbidden: exceeded quota: two'
    site.warn("FailedCreate", refusal.format("shop-2"), **about)
    site.warn("FailedCreate", refusal.format("shop-1"), "2026-01-01T00:00:09Z", **about)
    site.warn("FailedCreate", "of another one", "2026-01-01T00:00:10Z", **{**about, "name": "other"})

    found = await looked_up(site, make_member("shop-2"))

    assert found == {"shop-2": Trouble("FailedCreate", f"it has no pod: FailedCreate: {refusal.format('shop-2')}")}


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("FailedMount", 'MountVolume.SetUp failed for volume "python" : configmap "code" not found'),
        ("FailedCreatePodSandBox", "(combined from similar events): no network"),
    ],
)
async def test_what_the_kubelet_reports_of_a_pod_is_found_among_its_events(reason: str, message: str) -> None:
    site = Site()
    site.warn("BackOff", "an older one", "2026-01-01T00:00:00Z", uid="pod-uid")
    site.warn(reason, message, uid="pod-uid")

    found = await looked_up(site, make_member("shop-0", pod=pod(waiting("ContainerCreating"))))

    assert found == {"shop-0": Trouble(reason, f"{reason}: {message.removeprefix('(combined from similar events): ')}")}


@pytest.mark.parametrize("node", ["", "node-0"])
async def test_a_pod_that_no_scheduler_looks_at_is_reported_with_the_schedulers_name(node: str) -> None:
    metadata = {"name": "shop-0", "namespace": "ns", "uid": "pod-uid"}
    spec = {"schedulerName": "volcano", "nodeName": node}
    unseen = msgspec.convert({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}, Pod)

    found = await looked_up(Site(), make_member("shop-0", pod=unseen))

    why = Trouble("Unschedulable", "its pod has no node yet: no scheduler 'volcano' answers")
    assert found == {"shop-0": Trouble() if node else why}


@pytest.mark.parametrize("missing", ["update leases", "update registryslices/status", ""])
async def test_a_right_that_the_account_lacks_is_named_before_the_probe_that_fails(missing: str) -> None:
    site = Site()
    site.warn("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503", uid="pod-uid")
    verb, _, resource = missing.partition(" ")
    site.allowed -= {(verb, resource)}

    found = await looked_up(site, make_member("shop-0", pod=pod({"running": {}}, account="s3")))

    assert found["shop-0"] == (
        Trouble("Forbidden", f"its account s3 may not {missing} in namespace ns")
        if missing
        else Trouble("Unhealthy", "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 503")
    )


async def test_events_are_read_after_some_seconds_and_then_with_back_off() -> None:
    site, members = Site(), [make_member(f"shop-{number}") for number in range(9)]

    await looked_up(site, *members, at=(0.0, 1.0))
    assert site.reads == [], "they just start"
    await looked_up(site, *members, at=(0.0, *(2.0 + number / 10 for number in range(40))))
    assert len(site.reads) == 5, "of some members, which mostly have the same cause"
    site.reads.clear()
    await looked_up(site, members[0], at=tuple(map(float, range(300))))
    assert len(site.reads) < 12


async def test_a_slow_api_server_delays_no_round_and_known_causes_are_kept() -> None:
    site, member, looks = Site(), make_member("shop-0"), Looks()
    site.warn("FailedCreate", "exceeded quota: two", kind="StatefulSet", name="shop")
    async with client_of(site.app()) as client:
        await troubles_at(client, looks, 0.0, member)
        found = await troubles_at(client, looks, 2.0, member)
        assert found["shop-0"].brief == "FailedCreate"
        site.answers.clear()
        async with asyncio.timeout(20):
            assert await troubles_at(client, looks, 100.0, member) == found
        site.answers.set()


async def test_an_operator_that_may_not_read_events_works_without_them() -> None:
    site = Site()
    site.refused = True

    assert await looked_up(site, make_member("shop-0")) == {"shop-0": Trouble()}


def status(troubles: Mapping[str, Trouble]) -> HubStatus:
    """Return the status of the hub while none of its members is ready."""
    observation = make_observation(HUB.spec, {name: make_member(name) for name in ("shop-0", "shop-1", "shop-2")})
    return hub_status(HUB, Work(observation, Plan(entries={}, unplaced={}, next_epoch=1)), NOW, troubles=troubles)


def test_ready_names_each_cause_once_with_its_members() -> None:
    quota = Trouble("FailedCreate", "it has no pod: FailedCreate: exceeded quota: two")
    found = status({"shop-0": PULL, "shop-1": PULL, "shop-2": quota})

    ready = find_condition(found.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "MembersNotReady")
    assert ready.message == (f"0 of 3 members ready; not ready: shop-0, shop-1: {PULL.text}; shop-2: {quota.text}")
    assert [member.message for member in found.members] == [PULL.text, PULL.text, quota.text]


def test_ready_without_a_known_cause_names_the_members() -> None:
    ready = find_condition(status({"shop-0": Trouble()}).conditions, "Ready")

    assert ready is not None
    assert ready.message == "0 of 3 members ready; not ready: shop-0, shop-1, shop-2"


def test_a_hundred_causes_are_counted() -> None:
    members = {f"shop-{number}": make_member(f"shop-{number}") for number in range(100)}
    troubles = {name: Trouble("Crash", f"{name} {'x' * 390}") for name in members}
    work = Work(make_observation(HUB.spec, members), Plan(entries={}, unplaced={}, next_epoch=1))
    found = hub_status(HUB, work, NOW, troubles=troubles)

    ready = find_condition(found.conditions, "Ready")
    assert ready is not None
    assert ready.message.endswith("; and 96 more")
    assert len(ready.message) < 2000


def test_children_that_wait_for_members_name_the_cause_in_one_word() -> None:
    """Thousands of them have it, and a changing message would be written thousands of times."""
    nobody = Unplaced(Reason.NO_MEMBERS, "no member of the hub is ready; placed when one is")
    bound = Unplaced(Reason.MEMBER_UNAVAILABLE, "member shop-1 is not ready; started when it is")
    elsewhere = Unplaced(Reason.MEMBER_UNAVAILABLE, "member shop-10 is not ready; started when it is")
    full = Unplaced(Reason.CAPACITY_EXCEEDED, "full")

    said = with_troubles({"a": nobody, "b": bound, "c": elsewhere, "d": full}, {"shop-0": Trouble(), "shop-1": PULL})

    cause = "(shop-1: ImagePullBackOff; the Hub's condition Ready has the cause)"
    assert said["a"].message == f"{nobody.message} {cause}"
    assert said["b"].message == f"{bound.message} {cause}"
    assert (said["c"], said["d"]) == (elsewhere, full)


def test_children_of_a_hub_whose_members_cannot_be_created_name_the_condition_with_the_cause() -> None:
    nobody = Unplaced(Reason.NO_MEMBERS, "no member of the hub is ready; placed when one is")

    said = with_troubles({"a": nobody}, {"shop-0": Trouble()}, "Invalid")

    assert said["a"].message == f"{nobody.message} (Invalid; the Hub's condition Stalled has the cause)"


def test_a_child_recorded_on_a_member_that_is_not_ready_names_the_cause() -> None:
    item = make_slice({"a": Assignment(uid="u", epoch=1, workload="w")}, member="shop-0")
    copies = copies_of("a", {"shop-0": make_member("shop-0", item)})

    found = child_status(make_child("a"), copies, None, None, NOW, troubles={"shop-0": PULL})

    ready = find_condition(found.conditions, "Ready")
    assert ready is not None
    assert ready.message == (
        "waiting for member shop-0 to start it, which is not ready: ImagePullBackOff; the Hub's condition Ready has the"
        " cause"
    )


def test_a_child_whose_member_is_emptied_by_force_is_not_ready_for_that_reason() -> None:
    item = make_slice({"a": Assignment(uid="u", epoch=1, workload="w", wait=True)}, member="shop-0")
    copies = copies_of("a", {"shop-0": make_member("shop-0", item)})
    bound = Unplaced(Reason.MEMBER_UNAVAILABLE, "member shop-0 is drained by force; started when it is undrained")

    found = child_status(make_child("a"), copies, None, bound, NOW)

    conditions = {each.type: (each.status, each.reason, each.message) for each in found.conditions}
    assert conditions["Placed"] == ("False", bound.reason, bound.message)
    assert conditions["Ready"] == conditions["Placed"]


def test_the_status_of_children_is_written_again_only_when_the_word_changes() -> None:
    memory = ReportMemory()
    memory.take_troubles({"shop-0": Trouble("CrashLoopBackOff", "back-off 10s")})
    assert memory.troubled == {"shop-0"}
    memory.take_troubles({"shop-0": Trouble("CrashLoopBackOff", "back-off 20s")})
    assert memory.troubled == set()
    memory.take_troubles({})
    assert memory.troubled == {"shop-0"}


def test_the_word_for_a_cause_does_not_change_all_the_time() -> None:
    for reason in ("ErrImagePull", "ImagePullBackOff"):
        assert trouble_of(pod(waiting(reason, "x"))).brief == "ImagePullBackOff"
    assert not re.search(r"\d", trouble_of(pod(waiting("CrashLoopBackOff", "back-off 10s"), EXITED)).brief)
