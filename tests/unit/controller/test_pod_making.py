"""The Pods of pod children in hubs that keep copies, against an API server that is slow or rejects requests."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from a_round import a_round
from aiohttp import web

from builders import client_of, make_child, make_hub, make_member, make_slice
from processhub.api.child import Child, PodWorkload, Workload
from processhub.api.hub import HubSpec, RedundancySpec
from processhub.api.kubernetes import Pod
from processhub.api.naming import child_pod_name
from processhub.api.reasons import Reason
from processhub.cluster.client import Client
from processhub.cluster.decoding import WatchEvent
from processhub.controller.execute.podchildren import PodChildren
from processhub.controller.execute.podends import delete_all, read_unwatched_pods
from processhub.controller.memory import HubMemory
from processhub.controller.observe.members import Member
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.round import Requeue
from processhub.controller.store.informers import Store
from processhub.registry.grammar import Assignment, Report
from processhub.registry.workloads import encode_workload

TEMPLATE = {"spec": {"containers": [{"name": "main", "image": "i"}]}}
DIGEST, TEXT = encode_workload(Workload(pod=PodWorkload(template=TEMPLATE)))
STANDBY = HubSpec(redundancy=RedundancySpec(strategy="Replication", replication_model="ActivePassive"))
HUB = make_hub(spec=STANDBY)


class Site:
    """An API server for Pods; ``refuse`` and ``hold`` are its responses by member."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.marks: list[tuple[str, str]] = []  # (member, role) of the Pods that were created and marked
        self.refuse: dict[tuple[str, str], int] = {}  # (method, member) → status
        self.hold: dict[str, asyncio.Event] = {}  # creations for this member wait for it
        self.unknown = ""  # the fields of each Pod that the API server does not know
        self.hangs_up = ""  # creations for this member are not answered
        self.landed = asyncio.Event()
        self.versions = itertools.count(10)

    async def create(self, request: web.Request) -> web.Response:
        pod: dict[str, Any] = await request.json()
        member = pod["metadata"]["labels"]["processhub.dev/member"]
        if status := self.refuse.get(("POST", member)):
            return _no(status)
        if self.unknown and request.query.get("fieldValidation") == "Strict":
            return _no(400, f'Pod in version "v1" cannot be handled as a Pod: strict decoding error: {self.unknown}')
        pod["metadata"] |= {"uid": f"uid-{member}"}
        if member == self.hangs_up:
            self._late = asyncio.create_task(self._land(member, pod))
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if member in self.hold:
            await self.hold[member].wait()
        return self._stored(member, pod)

    async def _land(self, member: str, pod: dict[str, Any]) -> None:
        """Carry out the creation after its client got no response."""
        await self.hold[member].wait()
        self._stored(member, pod)
        self.landed.set()

    async def patch(self, request: web.Request) -> web.Response:
        pod = self.pods[request.match_info["name"]]
        member = pod["metadata"]["labels"]["processhub.dev/member"]
        if status := self.refuse.get(("PATCH", member)):
            return _no(status)
        body: dict[str, Any] = await request.json()
        patch: dict[str, Any] = body["metadata"]
        if patch["resourceVersion"] != pod["metadata"]["resourceVersion"]:
            return _no(409)
        pod["metadata"]["annotations"] |= patch.get("annotations", {})
        pod["metadata"]["labels"] |= patch.get("labels", {})
        if "spec" in body:
            pod["spec"]["schedulingGates"] = body["spec"]["schedulingGates"] or []
        return self._stored(member, pod, marked="annotations" in patch)

    async def get(self, request: web.Request) -> web.Response:
        pod = self.pods.get(request.match_info["name"])
        return _no(404) if pod is None else web.json_response(pod)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete the Pod, which ends later."""
        pod = self.pods[request.match_info["name"]]
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return web.json_response(pod)

    def _stored(self, member: str, pod: dict[str, Any], *, marked: bool = True) -> web.Response:
        pod["metadata"]["resourceVersion"] = str(next(self.versions))
        self.pods[pod["metadata"]["name"]] = pod
        if marked:
            self.marks.append((member, pod["metadata"]["annotations"]["processhub.dev/role"]))
        return web.json_response(pod)


def _no(status: int, message: str = "the policy says no") -> web.Response:
    reasons = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "Conflict"}
    reason = reasons.get(status, "InternalError")
    body = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}
    return web.json_response(body, status=status)


class Round:
    """The state that the rounds of an operator share."""

    def __init__(self, site: Site, client: Client) -> None:
        self.site, self.client = site, client
        self.store = Store(client, (), lambda key: None)
        self.store.put("hubs", HUB)
        self.state, self.memory = self.store.state(HUB.metadata.key), HubMemory("hub-uid", 1)
        self.failed: dict[str, str] = {}  # by step, the reason in the latest round
        self.hub = HUB
        self.requeue = Requeue()  # by the latest round
        self.events = EventRecorder(client, "operator")

    def seen(self, pod: dict[str, Any]) -> None:
        """Deliver a Pod to the watch."""
        pod["metadata"]["resourceVersion"] = str(next(self.site.versions))
        self.store.put("pods", msgspec.convert(pod, Pod))

    def unseen(self, pod: dict[str, Any]) -> None:
        """Remove it from the watch: it was deleted, or has lost a label that is selected by."""
        (informer,) = self.store.informer_of("pods", "ns")
        informer._event(WatchEvent("DELETED", msgspec.convert(pod, Pod)))

    def recorded(self, **entries: Assignment) -> None:
        """Put child ``a`` of these members on record."""
        for name, wanted in entries.items():
            item = member(name, wanted).slices[0].present
            metadata = msgspec.structs.replace(item.metadata, resource_version=str(next(self.site.versions)))
            self.state.put_slice(msgspec.structs.replace(item, metadata=metadata))

    async def follow(self, **entries: Assignment) -> PodChildren:
        """Run one round in which these members have child ``a`` recorded and report that it starts."""
        pods = self.pods()
        await pods.confirm_pods()
        await pods.follow({name: member(name, entry) for name, entry in entries.items()}, owner)
        self.failed = {what: failure.why for what, failure in self.memory.execute.failures.items()}
        self.memory.execute.failures.clear()  # as after the delay before a step is retried
        return pods

    def pods(self) -> PodChildren:
        """Run the steps about the hub's Pods of one round."""
        failures = self.memory.execute.failures
        given = {"client": self.client, "store": self.store, "events": self.events}
        round = a_round(self.hub, failures=failures, now=lambda: 0.0, **given)
        self.requeue = round.requeue
        return PodChildren(round, self.memory.execute)


@pytest.fixture
async def round_() -> AsyncIterator[Round]:
    site = Site()
    app = web.Application()
    pods, pod = "/api/v1/namespaces/ns/pods", "/api/v1/namespaces/ns/pods/{name}"
    app.add_routes([web.post(pods, site.create), web.get(pod, site.get)])
    app.add_routes([web.patch(pod, site.patch), web.delete(pod, site.delete)])
    async with client_of(app) as client:
        yield Round(site, client)


async def deleted_all(round_: Round) -> float | None:
    """Run a round without the hub; return the seconds until the next look at its Pods."""
    requeue = Requeue()
    await delete_all(round_.client, round_.store, round_.state, requeue)
    return requeue.after


def owner(child_id: str, uid: str) -> Child:
    return make_child(child_id, uid=uid)


def entry(epoch: int, role: str, run: int = 0) -> Assignment:
    return Assignment(uid="u", epoch=epoch, role=role, run=run, workload=DIGEST)


def member(name: str, wanted: Assignment) -> Member:
    report = Report(uid=wanted.uid, epoch=wanted.epoch, role=wanted.role, state="Starting")
    item = make_slice({"a": wanted}, {"a": report}, member=name, workloads={DIGEST: TEXT})
    pod = msgspec.convert({"metadata": {"name": name}, "spec": {"nodeName": f"node-{name}"}}, Pod)
    return make_member(name, item, pod=pod)


async def test_fields_that_the_api_server_does_not_know_are_named_and_refuse_nothing(round_: Round) -> None:
    round_.site.unknown = 'unknown field "spec.containers[0].commnd"'

    await round_.follow(one=entry(5, "Active"))
    assert len(round_.site.pods) == 1

    _, event = round_.events._queue.get_nowait()
    assert (event["involvedObject"]["name"], event["reason"], event["message"]) == (
        "a",
        "FieldsIgnored",
        "the pod template has fields that the API server does not know, and that have no effect:"
        ' unknown field "spec.containers[0].commnd"',
    )


async def test_the_active_copys_pod_is_marked_active_once_it_exists(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"), two=entry(6, "Passive"))

    assert sorted(round_.site.marks) == [("one", "Active"), ("one", "Passive"), ("two", "Passive")]
    assert round_.site.marks.index(("one", "Passive")) < round_.site.marks.index(("one", "Active"))


async def test_a_round_that_fails_leaves_no_creation_behind(round_: Round) -> None:
    round_.site.refuse["POST", "two"] = 500
    lands = round_.site.hold["one"] = asyncio.Event()
    failing = asyncio.create_task(round_.follow(one=entry(5, "Active"), two=entry(6, "Passive")))
    await asyncio.sleep(0.05)
    assert not failing.done(), "it waits for what is under way"
    lands.set()

    await failing
    assert list(round_.failed) == ["the pod of child 'a' on two can't be made"]
    assert len(round_.state.child_pods) == 1, "what came of the other is known"


async def test_a_pod_whose_annotations_cannot_be_written_is_named_and_blocks_nothing(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"), two=entry(6, "Passive"))
    round_.site.refuse["PATCH", "two"] = 403
    round_.recorded(two=entry(9, "Active", run=6))

    pods = await round_.follow(two=entry(9, "Active", run=6), three=entry(10, "Passive"))

    assert ("three", "Passive") in round_.site.marks
    said = pods.unplaced()["a"]
    assert said.reason is Reason.INVALID
    assert "could not be given its role and epoch: the policy says no" in said.message

    round_.site.refuse.clear()
    round_.memory.execute.refused_pods.clear()  # as after its delay
    pods = await round_.follow(two=entry(9, "Active", run=6), three=entry(10, "Passive"))
    assert round_.site.marks[-1] == ("two", "Active")
    assert pods.unplaced() == {}


async def test_what_was_said_about_the_pod_of_an_earlier_template_is_not_said_of_an_edited_one(round_: Round) -> None:
    round_.hub = SINGLE
    round_.site.refuse["POST", "one"] = 403
    round_.recorded(one=entry(5, "Active"))
    pods = await round_.follow(one=entry(5, "Active"))
    assert pods.unplaced()["a"].message == "its pod is refused: the policy says no"

    round_.recorded(one=entry(9, "Active"))

    assert pods.unplaced() == {}


async def test_a_leader_that_was_stopped_does_not_change_a_pod_that_was_changed_since(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"), two=entry(6, "Passive"))
    passive = next(pod for pod in round_.site.pods.values() if pod["metadata"]["uid"] == "uid-two")
    passive["metadata"]["resourceVersion"] = str(next(round_.site.versions))  # by the next leader

    await round_.follow(two=entry(9, "Active", run=6))

    assert ("two", "Active") not in round_.site.marks
    assert round_.requeue.after is not None, "if it still leads it has its say once it has seen the change"
    round_.seen(passive)
    await round_.follow(two=entry(9, "Active", run=6))
    assert round_.site.marks[-1] == ("two", "Active")


@pytest.mark.parametrize("let_go", [False, True])
async def test_of_two_pods_of_an_incarnation_only_one_may_start(round_: Round, let_go: bool) -> None:
    round_.hub, site = SINGLE, round_.site
    site.hangs_up, site.hold["one"] = "one", asyncio.Event()
    await round_.follow(one=entry(5, "Active"))
    assert list(round_.failed) == ["the pod of child 'a' on one can't be made"]
    lands = site.hold.pop("one")
    # The hub keeps copies now, and new Pods have other names; its leader may not have allowed this one.
    round_.hub, site.hangs_up = HUB, ""
    if not let_go:
        site.refuse["PATCH", "one"] = 409
    await round_.follow(one=entry(5, "Active"))
    site.refuse.clear()
    lands.set()
    await site.landed.wait()
    late = next(pod for name, pod in site.pods.items() if name == child_pod_name("hub", "hub-uid", "a", ""))
    late["metadata"]["uid"] = "uid-late"

    for pod in site.pods.values():
        round_.seen(pod)
    await round_.follow(one=entry(5, "Active"))
    assert late["metadata"]["deletionTimestamp"]
    del site.pods[late["metadata"]["name"]]  # it had no node
    round_.unseen(late)
    await round_.follow(one=entry(5, "Active"))

    assert [may_start(pod) for pod in site.pods.values()] == [True]


async def test_an_earlier_pod_that_blocks_a_new_one_is_reported(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"))
    (name,) = round_.site.pods

    pods = await round_.follow(one=entry(9, "Active"))

    assert f"its pod {name} on no node yet is still there" in pods.unplaced()["a"].message
    assert round_.site.pods[name]["metadata"]["deletionTimestamp"]
    assert len(round_.site.marks) == 2, "no other was made"


async def test_labels_and_annotations_removed_from_a_pod_are_restored(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"))
    (pod,) = round_.site.pods.values()
    before = dict(pod["metadata"]["labels"]), dict(pod["metadata"]["annotations"])
    del pod["metadata"]["annotations"]["processhub.dev/child-id"]
    round_.seen(pod)

    pods = await round_.follow(one=entry(5, "Active"))

    assert (pod["metadata"]["labels"], pod["metadata"]["annotations"]) == before
    assert "deletionTimestamp" not in pod["metadata"], "it is known which one it is"
    ((changed, text),) = pods.changed
    assert changed.metadata.name == pod["metadata"]["name"]
    assert "somebody changed processhub.dev/child-id of pod" in text
    assert (await round_.follow(one=entry(5, "Active"))).changed == []


async def test_a_pod_that_lost_its_hubs_label_is_not_taken_for_gone(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"))
    (pod,) = round_.site.pods.values()
    del pod["metadata"]["labels"]["processhub.dev/hub"]
    round_.unseen(pod)

    pods = await round_.follow(one=entry(5, "Active"))

    assert pod["metadata"]["labels"]["processhub.dev/hub"] == "hub"
    assert len(pods.changed) == 1
    assert [member for member, _ in round_.site.marks].count("one") == 3, "made, marked, put back; no other was made"

    round_.unseen(pod)
    round_.site.pods.clear()
    await round_.follow()
    assert round_.state.child_pods == {}


async def test_the_search_for_a_pod_ends_when_another_takes_its_name(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"))
    (pod,) = round_.site.pods.values()
    round_.unseen(pod)
    other = {**pod, "metadata": {**pod["metadata"], "uid": "another", "labels": {"processhub.dev/hub": "hub"}}}
    asyncio.get_running_loop().call_soon(round_.seen, other)  # before the first one is read

    await read_unwatched_pods(round_.client, round_.store, round_.state, asyncio.Semaphore(16))

    assert round_.state.child_pods == {}


async def test_a_new_leader_identifies_a_pod_without_labels_by_its_name_and_owner(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"))
    (pod,) = round_.site.pods.values()
    for annotation in ("child-id", "run", "epoch"):
        del pod["metadata"]["annotations"][f"processhub.dev/{annotation}"]
    copy = {**pod, "metadata": {**pod["metadata"], "name": "my-copy"}}
    leader = Round(round_.site, round_.client)
    leader.state.put_child(owner("a", "u"))
    leader.state.put_slice(member("one", entry(5, "Active")).slices[0].present)
    for item in (pod, copy):
        leader.seen(item)

    pods = await leader.follow(one=entry(5, "Active"))

    assert set(leader.state.child_pods) == {pod["metadata"]["name"]}
    assert pod["metadata"]["deletionTimestamp"], "which run it is nobody can say"
    assert "is still there" in pods.unplaced()["a"].message


async def test_the_pod_of_a_deleted_hub_is_searched_for_until_it_is_gone(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"))
    (pod,) = round_.site.pods.values()
    round_.unseen(pod)

    assert await deleted_all(round_) is not None
    assert pod["metadata"]["deletionTimestamp"]
    round_.site.pods.clear()

    assert await deleted_all(round_) is None
    assert round_.state.child_pods == {}


def _without(pod: dict[str, Any], *marks: str) -> None:
    for given in (pod["metadata"]["labels"], pod["metadata"]["annotations"]):
        for mark in marks:
            given.pop(mark, None)


@pytest.mark.parametrize("marks", [("processhub.dev/child-id",), ("processhub.dev/child",), ("processhub.dev/member",)])
async def test_a_pod_without_labels_that_a_new_leader_finds_is_deleted_with_its_hub(
    round_: Round, marks: tuple[str, ...]
) -> None:
    round_.hub = SINGLE
    await round_.follow(one=entry(5, "Active"))
    (pod,) = round_.site.pods.values()
    _without(pod, *marks)
    copy = {**pod, "metadata": {**pod["metadata"], "name": "my-copy", "uid": "another"}}
    leader = Round(round_.site, round_.client)
    leader.state.put_child(owner("a", "u"))
    for item in (pod, copy):
        leader.seen(item)

    await deleted_all(leader)

    assert pod["metadata"]["deletionTimestamp"]
    assert "deletionTimestamp" not in copy["metadata"]


async def test_a_new_leader_searches_for_a_pod_without_its_hubs_label(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"), two=entry(6, "Passive"))
    pod, _ = round_.site.pods.values()
    _without(pod, "processhub.dev/hub")
    leader = Round(round_.site, round_.client)
    leader.state.put_child(owner("a", "u"))
    leader.state.put_slice(member("one", entry(5, "Active")).slices[0].present)
    leader.state.put_slice(member("two", entry(6, "Passive")).slices[0].present)
    pods = leader.pods()

    await pods.confirm_pods()

    assert pod["metadata"]["name"] in leader.state.child_pods, "else the other is made active beside it"
    await leader.follow(one=entry(5, "Active"), two=entry(6, "Passive"))
    assert pod["metadata"]["labels"]["processhub.dev/hub"] == "hub"


async def test_a_pod_without_labels_of_an_earlier_hub_is_still_its_childs(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"))
    (pod,) = round_.site.pods.values()
    _without(pod, "processhub.dev/child-id")
    leader = Round(round_.site, round_.client)
    leader.hub = make_hub(uid="another", spec=STANDBY)
    leader.state.put_child(owner("a", "u"))
    leader.seen(pod)

    await leader.follow()

    assert set(leader.state.child_pods) == {pod["metadata"]["name"]}, "it holds its child's next Pod up"
    assert pod["metadata"]["deletionTimestamp"]


async def test_a_pod_without_its_childs_labels_is_identified_by_its_owner(round_: Round) -> None:
    await round_.follow(one=entry(5, "Active"))
    (pod,) = round_.site.pods.values()
    _without(pod, "processhub.dev/child", "app.kubernetes.io/component")
    leader = Round(round_.site, round_.client)
    leader.state.put_child(owner("a", "u"))
    leader.state.put_slice(member("one", entry(5, "Active")).slices[0].present)
    leader.seen(pod)

    assert leader.state.pods == {}, "it is no member's"
    await leader.follow()

    assert set(leader.state.child_pods) == {pod["metadata"]["name"]}
    assert pod["metadata"]["deletionTimestamp"], "it is on record no more"


EACH = make_hub(spec={"distribution": {"strategy": "ForEach"}})
SINGLE = make_hub()


def may_start(pod: dict[str, Any]) -> bool:
    return not pod["spec"]["schedulingGates"] and "deletionTimestamp" not in pod["metadata"]


async def test_a_pod_whose_creation_takes_effect_after_the_hub_keeps_one_copy_never_starts(round_: Round) -> None:
    round_.hub, site = EACH, round_.site
    site.hold["two"] = lands = asyncio.Event()
    site.hangs_up = "two"
    await round_.follow(one=entry(5, "Active"), two=entry(6, "Active"))
    assert list(round_.failed) == ["the pod of child 'a' on two can't be made"]
    assert [may_start(pod) for pod in site.pods.values()] == [True], "that of the other was answered"

    round_.hub = SINGLE
    await round_.follow(one=entry(5, "Active"))
    lands.set()
    await site.landed.wait()
    late = next(pod for pod in site.pods.values() if pod["metadata"]["uid"] == "uid-two")
    assert not may_start(late)
    round_.seen(late)
    await round_.follow(one=entry(5, "Active"))

    assert late["metadata"]["deletionTimestamp"]
    assert late["spec"]["schedulingGates"], "nothing of it has run"
    assert len(site.pods) == 2


async def test_a_pod_that_its_leader_did_not_release_is_released_by_the_next(round_: Round) -> None:
    round_.hub, site = SINGLE, round_.site
    site.refuse["PATCH", "one"] = 500
    await round_.follow(one=entry(5, "Active"))
    assert list(round_.failed.values()) == ["the policy says no"]
    (pod,) = site.pods.values()
    assert not may_start(pod)

    site.refuse.clear()
    leader = Round(site, round_.client)
    leader.hub = SINGLE
    leader.seen(pod)
    await leader.follow(one=entry(5, "Active"))

    assert may_start(pod)
    assert len(site.pods) == 1


async def test_a_pod_is_not_released_while_its_childs_other_pod_exists(round_: Round) -> None:
    round_.hub, site = EACH, round_.site
    await round_.follow(two=entry(4, "Active"))
    round_.hub = SINGLE
    (other,) = site.pods.values()
    twin = {**other, "metadata": {**other["metadata"], "name": child_pod_name("hub", "hub-uid", "a"), "uid": "twin"}}
    twin["spec"] = {**other["spec"], "schedulingGates": [{"name": "processhub.dev/sole"}, {"name": "user.dev/later"}]}
    site.pods[twin["metadata"]["name"]] = twin
    round_.seen(twin)

    await round_.follow(two=entry(4, "Active"))
    assert len(twin["spec"]["schedulingGates"]) == 2

    del site.pods[other["metadata"]["name"]]
    round_.unseen(other)
    await round_.follow(two=entry(4, "Active"))
    assert twin["spec"]["schedulingGates"] == [{"name": "user.dev/later"}], "its user's stays"
