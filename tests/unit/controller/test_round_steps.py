"""The steps of a round: a failing step is reported and retried, and no other step waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
import virtualtime
from a_round import a_round
from aiohttp import web
from memoryapi import MemoryApi, MemoryClient, Wire
from slicesite import SliceSite, rounds_on, two_members

from builders import client_of, known_slice, make_hub, make_member, make_slice
from processhub.api.child import Child, ChildSpec
from processhub.api.hub import HubSpec
from processhub.api.naming import ANNOTATION_MOVE_TO
from processhub.api.reasons import Reason
from processhub.cluster.client import Client
from processhub.cluster.errors import (
    ConnectionFailedError,
    ForbiddenError,
    InvalidError,
    NamespaceTerminatingError,
    api_error,
)
from processhub.controller.execute.staticchildren import sync_static_children
from processhub.controller.observe.members import Member, proven_members
from processhub.controller.observe.ownership import is_asleep
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.round import Requeue
from processhub.controller.rounds.steps import Failures, Steps
from processhub.controller.store.informers import Store
from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import OnRecord
from processhub.registry.grammar import Assignment

HUB = make_hub(generation=1)
QUOTA = ForbiddenError(403, "Forbidden", "exceeded quota: few")


class Hubs:
    """The rounds of one hub with these steps, until ``seconds`` are over; what was posted meanwhile."""

    def __init__(self, **work: Callable[[], None]) -> None:
        self.hub, self.work, self.failures = HUB, work, Failures()
        self.tries: dict[str, list[float]] = {what: [] for what in work}
        self.events = EventRecorder(cast(Client, None), "operator")
        self.trouble: list[tuple[str, str] | None] = []  # by round

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            requeue = Requeue()
            steps = Steps(self.failures, self.events, self.hub, requeue.again_in)
            for what, work in self.work.items():
                await steps.take(what, lambda what=what, work=work: self._take(what, work))  # type: ignore[misc]
            steps.end()
            self.trouble.append(steps.trouble())
            await asyncio.sleep(requeue.after or 1.0)

    async def _take(self, what: str, work: Callable[[], None]) -> None:
        self.tries[what].append(asyncio.get_running_loop().time())
        work()

    @property
    def posted(self) -> list[str]:
        """Return the messages of the Events that are to be posted."""
        return [cast(Any, item[1])["message"] for item in cast(Any, self.events)._queue._queue]


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_a_rejected_step_backs_off_and_delays_no_other() -> None:
    hubs = Hubs(refused=raising(QUOTA), fine=lambda: None)

    virtualtime.run(hubs.run(100))

    assert hubs.tries["refused"] == [0, 1, 3, 7, 15, 31, 61, 91]
    assert len(hubs.tries["fine"]) >= 8
    assert hubs.trouble[-1] == ("Refused", "refused: exceeded quota: few")
    assert hubs.posted == ["refused: exceeded quota: few"], "once, as long as it is the same"


def test_an_edit_of_the_hub_retries_a_rejected_step_at_once() -> None:
    hubs = Hubs(refused=raising(QUOTA))

    async def main() -> None:
        await hubs.run(20)
        before = len(hubs.tries["refused"])
        hubs.hub = msgspec.structs.replace(HUB, metadata=msgspec.structs.replace(HUB.metadata, generation=2))
        edited = asyncio.get_running_loop().time()
        await hubs.run(2.5)
        assert [at - edited for at in hubs.tries["refused"][before:]] == [0, 1]

    virtualtime.run(main())


def test_a_step_that_succeeds_at_last_is_not_reported_any_more() -> None:
    outcomes: list[Exception] = [QUOTA, QUOTA]

    def work() -> None:
        if outcomes:
            raise outcomes.pop()

    hubs = Hubs(made=work)

    virtualtime.run(hubs.run(10))

    assert hubs.failures == {}
    assert hubs.trouble[0] == ("Refused", "made: exceeded quota: few")
    assert hubs.trouble[-1] is None


def test_an_api_server_that_does_not_answer_is_reported_only_after_seconds() -> None:
    hubs = Hubs(asked=raising(ConnectionFailedError("the connection broke")))

    virtualtime.run(hubs.run(4.5))
    assert set(hubs.trouble) == {None}
    assert hubs.posted == []

    hubs = Hubs(asked=raising(ConnectionFailedError("the connection broke")))
    virtualtime.run(hubs.run(60))
    assert hubs.trouble[-1] == ("Unavailable", "asked: the connection broke")
    assert hubs.posted == ["asked: the connection broke"]
    assert max(
        after - before for before, after in zip(hubs.tries["asked"], hubs.tries["asked"][1:], strict=False)
    ) == pytest.approx(5)


def test_a_bug_in_a_step_is_reported_and_logged_and_blocks_no_other(caplog: pytest.LogCaptureFixture) -> None:
    hubs = Hubs(broken=raising(KeyError("spec")), fine=lambda: None)

    virtualtime.run(hubs.run(1.5))

    assert len(hubs.tries["fine"]) == 2
    assert hubs.posted == ["broken: the operator has a bug, see its log: KeyError: 'spec'"]
    assert "Traceback" in caplog.text


def test_no_step_is_tried_in_a_namespace_being_deleted() -> None:
    hubs = Hubs(made=raising(NamespaceTerminatingError(403, "Forbidden", "it is being terminated")), after=lambda: None)

    with pytest.raises(NamespaceTerminatingError):
        virtualtime.run(hubs.run(1))

    assert hubs.tries["after"] == []


@pytest.mark.parametrize(
    "message",
    [
        "failed to create typed patch object (ns/hub; apps/v1): .spec.x: field not declared in schema",
        "failed to convert new object (ns/hub; apps/v1, Kind=StatefulSet) to proper version: quantities must match",
    ],
)
def test_a_body_that_server_side_apply_cannot_read_counts_as_invalid_despite_a_500(message: str) -> None:
    error = api_error(500, msgspec.json.encode({"reason": "InternalError", "message": message}))

    assert isinstance(error, InvalidError)


async def test_a_rejected_slice_blocks_no_other_member_and_its_children_report_why() -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a", "b")
        site.ways = ["refused"]

        _, planned = await rounds.round()

    (refused,) = [name for name, changes in planned.entries.items() if set(changes) - set(placed(site))]
    (missing,) = planned.entries[refused]
    assert len(placed(site)) == 1
    assert set(rounds.executed.plan.entries) == {"hub-0", "hub-1"} - {refused}, "what is not on record is not reported"
    why = rounds.executed.unplaced[missing]
    assert why.reason is Reason.WAITING
    assert (
        why.message == f"waiting to be placed on {refused}: the slices of member {refused} can't be written: Forbidden"
    )


def placed(site: SliceSite) -> list[str]:
    return [child_id for item in site.slices.values() for child_id in item["spec"]["entries"]]


async def test_a_move_whose_write_is_rejected_is_not_reported_and_starts_again() -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a")
        await rounds.round()
        (item,) = [item for item in site.slices.values() if item["spec"]["entries"]]
        target = "hub-1" if item["spec"]["member"] == "hub-0" else "hub-0"
        child = rounds.state.children["a"].child
        metadata = msgspec.structs.replace(child.metadata, annotations={ANNOTATION_MOVE_TO: target}, generation=2)
        rounds.state.put_child(cast(Child, msgspec.structs.replace(child, metadata=metadata)))
        site.ways = ["refused"]

        _, planned = await rounds.round()
        written = rounds.executed.plan
        await rounds.round()

    assert [move.target for move in planned.moves] == [target]
    assert (written.moves, written.entries, written.move_results) == ((), {}, {}), (
        "it is not reported, nor the request taken off"
    )
    assert f"hub.{target}.0" in site.owners("a"), "it is carried out by the next round"


async def test_children_of_a_member_that_seems_gone_stay_recorded_until_its_lease_is_read() -> None:
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a")
        await rounds.round()
        before = site.owners("a")
        rounds.gone = {"hub-0", "hub-1"} & {site.slices[name]["spec"]["member"] for name in before}
        site.lease_code = 503

        await rounds.round()
        while_unread, came_back = site.owners("a"), rounds.requeue.after == 0.0
        site.lease_code = 404
        await rounds.round()

    assert while_unread == before
    assert not came_back, "no other round is asked for at once: the step is tried again by its own time"
    assert len(site.owners("a")) == 1
    assert site.owners("a") != before, "it is gone: read or not there"


async def test_children_of_a_member_whose_lease_cannot_get_its_label_back_stay() -> None:
    """Somebody removed the label, so no watch shows its renewals."""
    site = two_members()
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        rounds.want("a")
        await rounds.round()
        before = site.owners("a")
        owner = site.slices[before[0]]["spec"]["member"]
        rounds.gone = {owner}
        spec = {"holderIdentity": f"{owner}/n", "renewTime": "2026-01-01T00:00:00.000000Z"}
        site.leases[f"hub.{owner}"] = {
            "metadata": {"name": f"hub.{owner}", "namespace": "ns", "uid": "l"},
            "spec": spec,
        }

        for _ in range(3):
            await rounds.round()
            assert site.owners("a") == before


@pytest.mark.parametrize("code", [403, 422, 500])
async def test_a_slice_that_cannot_be_written_is_reported_whatever_the_response(code: int) -> None:
    site = SliceSite()
    site.add("hub.hub-0.0", "hub-0")
    async with rounds_on(site, "hub-0") as rounds:
        rounds.want("a")
        site.refuses = {"hub.hub-0.0": code}
        await rounds.round()

    (failure,) = rounds.failures.values()
    assert failure.sentence == "the slices of member hub-0 can't be written: Refused"


def test_the_failure_of_a_step_that_is_not_needed_any_more_is_not_reported() -> None:
    hubs = Hubs(order=raising(QUOTA), fine=lambda: None)

    async def main() -> None:
        await hubs.run(1)
        del hubs.work["order"]
        await hubs.run(1)

    virtualtime.run(main())

    assert hubs.trouble[-1] is None


def asleep_or_not(**members: tuple[int, bool]) -> list[OnRecord]:
    return [
        OnRecord(name, Assignment(uid="u", epoch=epoch, workload="w", wait=asleep, asleep=asleep))
        for name, (epoch, asleep) in members.items()
    ]


def test_the_newest_entry_decides_whether_a_child_is_suspended() -> None:
    """One copy can't be resumed before its member returns; the others, which run, must not be suspended again."""
    assert not is_asleep(asleep_or_not(one=(9, False), two=(7, True)))
    assert is_asleep(asleep_or_not(one=(6, False), two=(7, True)))
    assert not is_asleep([])


@pytest.mark.parametrize(
    ("hub", "sentence"),
    [
        (
            "other",
            "child/worker and child/hub-worker-38cf678d5f exist and have another id or hub; delete or rename one",
        ),
        ("hub", "child/worker has this id and was not made by the hub; delete it, or give the entry another id"),
    ],
)
async def test_a_static_child_whose_name_another_child_has_is_reported(hub: str, sentence: str) -> None:
    there = {"metadata": {"name": "worker", "namespace": "ns", "uid": "w"}, "spec": {"hub": hub}}

    async def create(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "reason": "AlreadyExists", "message": "it is there"}, status=409)

    async def get(_: web.Request) -> web.Response:
        return web.json_response(there)

    app = web.Application()
    base = "/apis/processhub.dev/v1alpha1/namespaces/ns/children"
    app.add_routes([web.post(base, create), web.get(base + "/{name}", get)])
    spec = HubSpec(children=(ChildSpec(id="worker"),))
    async with client_of(app) as client:
        failures, store = Failures(), Store(client, (), lambda key: None)
        await sync_static_children(a_round(make_hub(spec=spec), client=client, store=store, failures=failures))

    (failure,) = failures.values()
    assert failure.why == sentence


@pytest.mark.parametrize(
    "spec", [{"hub": "other"}, {"hub": "hub", "id": "another"}], ids=["of another hub", "of another id"]
)
async def test_a_static_child_whose_name_another_child_has_gets_another_name(spec: dict[str, str]) -> None:
    api = MemoryApi()
    api.create("children", {"metadata": {"name": "worker"}, "spec": spec})
    hub = make_hub(spec=HubSpec(children=(ChildSpec(id="worker"),)))
    client, failures = MemoryClient(api, Wire()), Failures()
    store = Store(client, (), lambda key: None)

    for _ in range(2):
        await sync_static_children(a_round(hub, client=client, store=store, failures=failures))

    assert not failures
    assert {key.name: (item["spec"]["hub"], item["spec"].get("id", "")) for key, item in api.objects.items()} == {
        "worker": (spec["hub"], spec.get("id", "")),
        "hub-worker-38cf678d5f": ("hub", "worker"),
    }


class Leases:
    """A member that is judged gone, although its Lease can't be read or shows the contrary."""

    def __init__(self, answer: bool | None) -> None:
        self.answer, self.looks = answer, 0
        self.phase = Phase.GONE
        self.slices = [known_slice(make_slice({"a": Assignment(uid="u", epoch=1, workload="w")}))]

    def look(self) -> dict[str, Member]:
        self.looks += 1
        return {"hub-0": make_member("hub-0", *self.slices, phase=self.phase, holder="")}

    async def confirm_gone(self, member: Member) -> bool | None:
        if self.answer is False:
            self.phase = Phase.LIVE  # the read updated the store
        return self.answer


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize(("answer", "phase"), [(True, Phase.GONE), (False, Phase.LIVE), (None, Phase.HELD)])
async def test_a_member_is_gone_only_with_a_live_read_of_its_lease(
    answer: bool | None, phase: Phase, *, unseen: bool
) -> None:
    """Also a member that has no slices and may run something nevertheless."""
    leases = Leases(answer)
    if unseen:
        leases.slices.clear()

    members = await proven_members(leases.look, leases.confirm_gone, lambda _: unseen, copies=False)

    assert members["hub-0"].phase is phase


async def test_a_member_that_seems_gone_only_by_the_second_look_is_held_until_its_lease_is_read() -> None:
    leases = Leases(True)
    leases.phase = Phase.LIVE
    other = Leases(False)

    def look() -> dict[str, Member]:
        first = leases.look()["hub-0"]
        second = other.look()["hub-0"]
        leases.phase = Phase.GONE  # its Lease expires
        return {"hub-0": first, "hub-1": msgspec.structs.replace(second, name="hub-1")}

    members = await proven_members(look, other.confirm_gone, lambda _: False, copies=False)

    assert members["hub-0"].phase is Phase.HELD
