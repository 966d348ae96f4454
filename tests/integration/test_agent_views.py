"""Children that members start by themselves, by the view in their slices (docs/protocol.md, rules 26 to 33)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agentharness import Agent, Member, actor, new_member, until
from hubcalls import Caller

from localcluster.cluster import Cluster
from processhub.api.slice import Activation, SliceSpec, ViewMember
from processhub.registry.grammar import Assignment, Report, format_assignment
from processhub.registry.workloads import encode_workload

VIEW = 7


@pytest.fixture
async def member(cluster: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[Member]:
    settings = {"lease_seconds": 6, "request_seconds": 5, "on_demand": True}
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, **settings) as member:
        yield member


@pytest.fixture
async def caller(member: Member) -> AsyncIterator[Caller]:
    async with Caller(member.token) as caller:
        yield caller


async def holder(member: Member) -> str:
    """The holder of the member's Lease, once an agent holds it and has reported that."""

    async def look() -> str:
        now, lease = await member.slice(), await member.lease()
        return now.status.holder if now.status.holder == lease.spec.holder_identity else ""

    return await until(look, what="a holder")


async def open_view(members: list[Member], file: Path, **changes: Any) -> None:
    """Write a view of these members into the slices 0 of all, as an operator would."""
    digest, workload = encode_workload(actor("sample_actors:Worker", starts=str(file)))
    for index, member in enumerate(members):
        order = Activation(
            view=VIEW,
            phase="Open",
            members=tuple(ViewMember(name=other.name, weight=1) for other in members),
            holder=await holder(member),
            first_epoch=1000 * (index + 1),
            last_epoch=1000 * (index + 1) + 999,
            entry=format_assignment(Assignment(uid=member.hub_uid, epoch=0, workload=digest, on_demand=True)),
            workload=workload,
        )
        await write(member, msgspec.structs.replace(order, **changes))


async def write(member: Member, order: Activation) -> None:
    """Write this into the member's slice 0 and wait until it has acted on it."""

    def change(spec: SliceSpec) -> SliceSpec:
        return msgspec.structs.replace(spec, activation=order)

    await member.acknowledged(await member.update(change))


async def close_view(member: Member) -> dict[str, Report]:
    """Close the view; returns what the member reports when it has acknowledged that."""
    order = (await member.slice()).spec.activation
    assert isinstance(order, Activation)
    await write(member, msgspec.structs.replace(order, phase="Closing"))
    return await member.reports()


async def test_one_member_starts_the_child_of_all_callers_and_it_runs_on_when_it_is_put_on_record(
    member: Member, caller: Caller, tmp_path: Path
) -> None:
    """Without the operator and without a Child, which these members may not create."""
    other = await member.peer()
    agents, starts = [member.start_agent(), other.start_agent()], tmp_path / "starts"
    await open_view([member, other], starts)

    replies = await asyncio.gather(*(caller.call(agents[n % 2].ip, "cart", {"n": n}) for n in range(200)))
    more = await asyncio.gather(*(caller.call(agents[0].ip, f"cart-{n}", {"n": n}) for n in range(20)))

    assert {reply.status for reply in (*replies, *more)} == {200}, replies
    (name,) = {reply.value["member"] for reply in replies}
    assert {reply.value["member"] for reply in more} == {member.name, other.name}
    owner = member if name == member.name else other
    pid = await owner.running("cart")
    closed = {**(await close_view(member)), **(await close_view(other))}
    assert closed.keys() == {"cart", *(f"cart-{n}" for n in range(20))}
    assert {report.view for report in closed.values()} == {VIEW}
    assert len({report.epoch for report in closed.values()}) == len(closed)

    lines = [line.split() for line in starts.read_text().splitlines()]
    assert sorted((child, int(epoch)) for child, _, epoch in lines) == sorted(
        (child, report.epoch) for child, report in closed.items()
    )

    late = await caller.call(agents[0].ip, "late", {})
    assert (late.status, late.code) == (503, "no_owner")  # no member may start it now, and none may create a Child

    report = closed["cart"]
    workload = actor("sample_actors:Worker", starts=str(starts))
    await owner.write({"cart": workload}, epoch=report.epoch, uid=report.uid)
    on_record = await owner.report("cart", lambda report: not report.view)
    assert (on_record.pid, on_record.restarts, on_record.epoch) == (pid, 0, report.epoch)
    assert (await caller.call(agents[0].ip, "cart", {"n": 1})).status == 200


async def test_a_member_that_lost_its_lease_ends_what_it_started_where_the_view_was_closed_meanwhile(
    member: Member, caller: Caller, tmp_path: Path
) -> None:
    cable, starts = await member.through_a_cable(), tmp_path / "starts"
    agent: Agent = member.start_agent()
    await open_view([member], starts)
    assert (await caller.call(agent.ip, "cart", {"n": 1})).status == 200
    await member.report("cart", lambda report: report.state == "Running" and report.view == VIEW)

    await cable.cut()
    order = (await member.slice()).spec.activation
    assert isinstance(order, Activation)

    def change(spec: SliceSpec) -> SliceSpec:
        return msgspec.structs.replace(spec, activation=msgspec.structs.replace(order, phase="Closing"))

    async def lost() -> bool:
        return (await caller.get(f"http://{agent.ip}:8080/readyz")).status == 503

    await until(lost, what="the end of the Lease")
    item = await member.update(change)
    await cable.mend()

    now = await member.acknowledged(item)
    assert now.status.reports == {} or now.status.reports["cart"].split()[3] == "Stopping"
    await until(lambda: _is_empty(member), what="the end of the child")
    assert starts.read_text().count("\n") == 1


async def _is_empty(member: Member) -> bool:
    return not (await member.slice()).status.reports
