"""How an agent and its watchdog end, the agent's Lease, and who may run children when."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from agentharness import SLEEP, Agent, Member, actor, new_member, shell, until
from waiting import alive

from localcluster.cluster import Cluster
from processhub.agent.env import Environment
from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.watchdog.client import Feed
from processhub.agent.watchdog.fence import FEED
from processhub.api.naming import slice_name
from processhub.api.slice import Settings
from processhub.cluster.errors import ConflictError
from processhub.cluster.kinds import LEASES, SLICES
from processhub.registry.grammar import Report, parse_report


@pytest.fixture
async def member(cluster: Cluster, namespace: str, tmp_path: Path):
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, lease_seconds=6, stop_seconds=2) as member:
        yield member


@pytest.fixture
async def fenced(cluster: Cluster, namespace: str, tmp_path: Path):
    async with new_member(
        tmp_path, str(cluster.kubeconfig), namespace, lease_seconds=6, stop_seconds=60, fence=True
    ) as member:
        yield member


def seconds(time_of_a_lease: str | None) -> float:
    """Return a Lease's time as seconds of time.time()."""
    assert time_of_a_lease is not None
    return datetime.fromisoformat(time_of_a_lease).timestamp()


async def stop_after_a_renewal(member: Member, agent: Agent) -> tuple[float, float]:
    """Stop the agent with SIGSTOP; return when its last acknowledged renewal was sent, and its last renewal at all."""
    first = (await member.lease()).spec.renew_time

    async def renewed() -> bool:
        return (await member.lease()).spec.renew_time != first

    await until(renewed)
    agent.signal(signal.SIGSTOP)
    return seconds(first), seconds((await member.lease()).spec.renew_time)


async def start_family(member: Member, folder: Path) -> list[int]:
    """Start a shell with a grandchild in its own session, and an actor; return the pids of all."""
    note = folder / "grandchild"
    script = f"setsid sh -c 'trap \"\" TERM; echo $$ > {note}; sleep 1000' & sleep 1000"
    await member.write({"a": shell(script), "p": actor("processhub.examples:Counter")})
    pids = [await member.running("a"), await member.running("p")]
    pids.append(int(await until(lambda: note.exists() and note.read_text().strip())))
    return pids


async def test_kill_9_of_the_agent_ends_every_process(member: Member, tmp_path: Path) -> None:
    agent = member.start_agent()
    pids = [*await start_family(member, tmp_path), agent.watchdog_pid]

    agent.kill()

    await until(lambda: not any(map(alive, pids)), what=f"the end of the processes {pids}")


async def test_kill_9_of_the_watchdog_ends_every_process_and_the_agent(member: Member, tmp_path: Path) -> None:
    agent = member.start_agent()
    pids = await start_family(member, tmp_path)

    os.kill(agent.watchdog_pid, signal.SIGKILL)

    assert await agent.exit_code() == 70
    assert not any(map(alive, pids))


async def test_sigterm_stops_children_reports_that_and_releases_the_lease(member: Member, tmp_path: Path) -> None:
    agent = member.start_agent()
    pids = await start_family(member, tmp_path)
    item = await member.slice()

    agent.signal(signal.SIGTERM)

    assert await agent.exit_code() == 0
    assert not any(map(alive, pids))
    after = await member.slice()
    assert after.status.reports == {}
    assert after.status.observed_generation == item.metadata.generation
    assert (await member.lease()).spec.holder_identity == ""


async def test_a_pods_short_grace_period_limits_stop_seconds(fenced: Member, tmp_path: Path) -> None:
    """stopSeconds is 60; half of the pod's 6 s are for the children, the rest for the report and the Lease."""
    agent = fenced.start_agent(TERMINATION_GRACE_SECONDS="6")
    mark = tmp_path / "mark"
    traps = {"heeds": f"'sleep 1; echo done > {mark}; exit 0'", "deaf": "''"}
    scripts = {
        name: f"trap {trap} TERM; touch {tmp_path}/{name}; while :; do sleep 0.1; done" for name, trap in traps.items()
    }
    await fenced.write({name: shell(script) for name, script in scripts.items()})
    for child_id in scripts:
        await fenced.running(child_id)
        await until((tmp_path / child_id).exists)
    began = time.monotonic()

    agent.signal(signal.SIGTERM)

    assert await agent.exit_code() == 0
    assert time.monotonic() - began < 6
    assert mark.read_text() == "done\n"
    assert (await fenced.slice()).status.reports == {}
    assert (await fenced.lease()).spec.holder_identity == ""


async def test_the_lease_is_renewed_and_names_the_pod(member: Member) -> None:
    agent = member.start_agent("pod-a")

    async def held() -> str | None:
        return (await member.lease()).spec.holder_identity

    holder = await until(held)
    first = (await member.lease()).spec.renew_time

    async def renewed() -> bool:
        return (await member.lease()).spec.renew_time != first

    await until(renewed)
    assert holder.startswith(f"pod-a-{member.hub}/")
    assert agent.process.poll() is None


async def test_a_new_pod_waits_until_the_old_pods_lease_has_expired(member: Member) -> None:
    old = member.start_agent("pod-a")
    await member.write({"a": SLEEP})
    first = await member.running("a")
    new = member.start_agent("pod-b")
    await until(lambda: "waiting until it is released" in new.log())
    _, renewed = await stop_after_a_renewal(member, old)  # it renews no more, but its child keeps running: no fencing

    async def taken() -> float | None:
        spec = (await member.lease()).spec
        return seconds(spec.acquire_time) if (spec.holder_identity or "").startswith("pod-b") else None

    assert await until(taken) - renewed > 6 + 1 - 0.1
    second = await member.report("a", lambda report: report.state == "Running" and report.pid != first)

    old.signal(signal.SIGCONT)
    assert await old.exit_code() == 75
    assert not alive(first)
    assert alive(second.pid)


async def test_the_next_agent_of_the_same_pod_takes_over_at_once(member: Member) -> None:
    old = member.start_agent("pod-a")
    await member.write({"a": SLEEP})
    first = await member.running("a")
    old.kill()

    new = member.start_agent("pod-a")
    await member.report("a", lambda report: report.state == "Running" and report.pid != first and alive(report.pid))

    assert "waiting until it is released" not in new.log()


async def test_all_children_end_at_once_if_the_lease_has_another_holder(member: Member, tmp_path: Path) -> None:
    agent = member.start_agent()
    pids = await start_family(member, tmp_path)

    while True:
        lease = await member.lease()
        spec = msgspec.structs.replace(lease.spec, holder_identity="thief/1")
        try:
            await member.client.replace(
                LEASES, member.namespace, lease.metadata.name, msgspec.structs.replace(lease, spec=spec)
            )
            break
        except Exception:  # noqa: BLE001 the agent has renewed in between
            continue

    assert await agent.exit_code() == 75
    assert not any(map(alive, pids))
    assert (await member.lease()).spec.holder_identity == "thief/1"


async def test_a_stalled_agents_children_are_killed_before_its_lease_ends(fenced: Member, tmp_path: Path) -> None:
    agent = fenced.start_agent()
    # They ignore the stop signal: SIGKILL must come although stopSeconds is long.
    note = tmp_path / "grandchild"
    script = f"trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > {note}; sleep 1000' & while :; do sleep 0.1; done"
    await fenced.write({"a": shell(script), "p": actor("sample_actors:Sleeper")})
    pids = [await fenced.running("a"), await fenced.running("p")]
    pids.append(int(await until(lambda: note.exists() and note.read_text().strip())))

    known, last = await stop_after_a_renewal(fenced, agent)
    seen = time.time()

    def ended() -> bool:
        nonlocal seen
        now = time.time()
        if any(map(alive, pids)):
            seen = now
            return False
        return True

    await until(ended)

    # leaseSeconds - 1 after the last acknowledged renewal, and never after the Lease's end.
    assert time.time() > known + 6 - 1 - 0.1
    assert seen < last + 6

    agent.signal(signal.SIGCONT)
    report = await fenced.report("a", lambda report: report.state == "Running" and report.pid != pids[0])
    assert alive(report.pid)
    assert report.restarts == 0  # the child did not fail


async def test_children_get_the_stop_signal_before_they_are_killed(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    # From the signal on it has a third of leaseSeconds - 1 to record it.
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, lease_seconds=12, fence=True) as fenced:
        agent = fenced.start_agent()
        note, ready = tmp_path / "note", tmp_path / "ready"
        script = f"trap 'touch {note}; exit' TERM; touch {ready}; while :; do sleep 0.05; done"
        await fenced.write({"a": shell(script)})
        pid = await fenced.running("a")
        await until(ready.exists)

        known, _ = await stop_after_a_renewal(fenced, agent)
        await until(lambda: not alive(pid))

        assert time.time() > known + 8 - 0.1
        assert note.exists(), "it was told to stop"
        agent.signal(signal.SIGCONT)


async def test_with_divergence_children_keep_running_while_the_agent_is_stalled(member: Member, tmp_path: Path) -> None:
    agent = member.start_agent()
    pids = await start_family(member, tmp_path)

    agent.signal(signal.SIGSTOP)
    await asyncio.sleep(8)  # longer than the Lease: nothing may happen, so there is no condition to wait for
    assert all(map(alive, pids))
    agent.signal(signal.SIGCONT)

    await until(lambda: agent.log().count("holding the member's Lease") == 2)
    assert all(map(alive, pids))
    assert agent.process.poll() is None


async def test_fencing_set_on_a_running_hub_takes_effect(member: Member) -> None:
    agent = member.start_agent()
    await member.write({"a": SLEEP})
    pid = await member.running("a")

    settings = msgspec.structs.replace(member.settings, fence=True)
    await member.acknowledged(await member.update(lambda spec: msgspec.structs.replace(spec, settings=settings)))
    await stop_after_a_renewal(member, agent)

    await until(lambda: not alive(pid))
    agent.signal(signal.SIGCONT)


async def test_a_longer_lease_counts_from_the_first_renewal_with_that_duration(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", member.admin_kubeconfig)
    feed_end, feed = os.pipe()
    pod = {"pod": member.name, "pod_uid": "pod-a", "pod_ip": "127.0.0.1", "node": "node"}
    env = Environment(hub=member.hub, namespace=member.namespace, hub_uid=member.hub_uid, member=member.name, **pod)
    keeper = LeaseKeeper(env, Settings(lease_seconds=6, fence=True), Feed(feed))
    keeper.start()
    await until(lambda: keeper.session)

    keeper.apply(Settings(lease_seconds=60, fence=True))
    await until(lambda: keeper.renewals > 1)
    await keeper.release()

    fed = list(FEED.iter_unpack(os.read(feed_end, 4096)))
    # SIGKILL comes a second before the Lease's end, so its time shows from which renewal the Lease is counted.
    short = {round(kill_at - 5, 3) for stop_at, kill_at in fed if kill_at - stop_at < 2}
    long = {round(kill_at - 59, 3) for stop_at, kill_at in fed if kill_at - stop_at > 2}
    assert short
    assert long
    assert not short & long
    os.close(feed_end)
    os.close(feed)


async def test_an_agent_without_its_environment_names_what_is_missing(member: Member) -> None:
    agent = member.start_agent(HUB_UID="")

    assert await agent.exit_code() == 2
    assert "HUB_UID not set" in agent.log()


async def test_with_divergence_children_run_and_restart_during_an_outage_of_the_api_server(member: Member) -> None:
    cable = await member.through_a_cable()
    agent = member.start_agent()
    await member.write({"a": SLEEP, "b": SLEEP})
    first, second = await member.running("a"), await member.running("b")

    await cable.cut()
    await until(lambda: "could not be renewed" in agent.log())
    os.kill(first, signal.SIGKILL)
    await asyncio.sleep(7)  # past the Lease's end
    assert alive(second)
    await cable.mend()

    report = await member.report("a", lambda report: report.state == "Running" and report.pid != first)
    assert report.restarts == 1
    assert alive(report.pid)
    assert (await member.reports())["b"].pid == second


async def test_with_fencing_children_end_in_an_outage_and_start_again_after_it(fenced: Member) -> None:
    cable = await fenced.through_a_cable()
    agent = fenced.start_agent()
    await fenced.write({"a": SLEEP, "p": actor("processhub.examples:Counter")})
    pids = [await fenced.running("a"), await fenced.running("p")]

    await cable.cut()
    await until(lambda: not any(map(alive, pids)))
    await fenced.write({"a": None, "new": SLEEP})  # the operator has changed the entry in the meantime
    await cable.mend()

    assert await fenced.running("new")
    report = await fenced.report("p", lambda report: report.state == "Running" and report.pid != pids[1])
    assert report.restarts == 0
    assert "a" not in await fenced.reports()
    assert agent.process.poll() is None


async def test_an_agent_that_cannot_reach_the_api_server_ends_on_sigterm(member: Member) -> None:
    cable = await member.through_a_cable()
    agent = member.start_agent()
    await member.write({"a": SLEEP})
    pid = await member.running("a")
    await cable.cut()

    agent.signal(signal.SIGTERM)

    assert await agent.exit_code() == 0
    assert not alive(pid)


async def test_a_new_agents_first_status_replaces_the_earlier_one_despite_conflicts(member: Member) -> None:
    old = member.start_agent()
    await member.write({"a": SLEEP})
    await member.running("a")
    before = (await member.slice()).status.holder
    old.kill()
    member.start_agent()

    # The operator writes all the time, so the agent's version of the slice is nearly always outdated.
    async def replaced() -> bool:
        await member.update(lambda spec: msgspec.structs.replace(spec, term=spec.term + 1))
        return (await member.slice()).status.holder != before

    await until(replaced, every=0.001)
    assert await member.running("a")


async def test_an_agent_never_overwrites_a_newer_holders_status(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    # It does not write for two renewals: longer than this check takes.
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, lease_seconds=20) as member:
        member.start_agent()
        await member.write({"a": SLEEP})
        await member.running("a")
        item = await member.slice()
        newer = msgspec.structs.replace(item.status, holder="pod-b/1")
        while True:
            try:
                item = await member.slice()
                await member.answer(msgspec.structs.replace(item, status=newer))
                break
            except ConflictError:
                continue

        await member.write({"b": SLEEP})
        agent = member.agents[0]
        await until(lambda: "answered by pod-b/1" in agent.log())
        assert (await member.slice()).status.holder == "pod-b/1"

        # Nobody has taken the Lease, so this was an edit by hand: the agent writes its own status again.
        assert await member.running("b")


@pytest.mark.parametrize("deleted", [0, 1])
async def test_children_still_ending_of_a_deleted_slice_are_reported_in_slice_0(
    fenced: Member, deleted: int, tmp_path: Path
) -> None:
    """Only this report tells an operator, also a new one, that the children run: nothing else names them any more."""
    member = fenced  # its children have a minute to stop
    await member.add_slice(1)
    member.start_agent()
    deaf = tmp_path / "deaf"
    await member.write({"a": shell(f"trap '' TERM; touch {deaf}; while :; do sleep 0.1; done")}, index=deleted)

    async def runs() -> Report | None:
        report = (await member.reports(deleted)).get("a")
        return report if report is not None and report.state == "Running" else None

    pid = (await until(runs)).pid
    await until(deaf.exists)  # Running is reported when the shell has started, before its first command
    await member.client.delete(SLICES, member.namespace, slice_name(member.hub, member.name, deleted))
    if deleted == 0:
        await member.add_slice(0)
    settings = msgspec.structs.replace(member.settings, request_seconds=7)
    written = await member.update(lambda spec: msgspec.structs.replace(spec, settings=settings))
    answered = await member.acknowledged(written)

    ending = parse_report(answered.status.reports["a"])
    assert (ending.state, ending.pid) == ("Stopping", pid)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)

    async def ended() -> bool:
        return "a" not in await member.reports()

    await until(ended)
