"""Exec children by a real agent on a real API server."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from agentharness import SLEEP, Member, new_member, program, shell, until
from waiting import alive

from localcluster.cluster import Cluster
from processhub.api.slice import SliceSpec

PROMPT_SECONDS = 10  # the promise is 2 on an idle machine


@pytest.fixture
async def member(cluster: Cluster, namespace: str, tmp_path: Path):
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, stop_seconds=2) as member:
        yield member


async def test_a_child_runs_with_its_environment_and_its_output_reaches_the_log(member: Member) -> None:
    agent = member.start_agent()
    await member.write(
        {"tenant/42": shell("env; echo oops >&2; cat $HUB_ROLE_FILE; exec sleep 1000", env={"A": "b=c"})}
    )

    pid = await member.running("tenant/42")
    await until(lambda: '"oops"' in agent.log() and '"message":"Active"' in agent.log())

    assert alive(pid)
    said = [
        line["message"] for line in agent.lines() if line.get("child") == "tenant/42" and line["stream"] == "stdout"
    ]
    env = dict(line.split("=", 1) for line in said if "=" in line)
    assert env["A"] == "b=c"
    assert env["HOME"] == "/root-of-test"
    assert env["HUB_NAME"] == member.hub
    assert env["HUB_NAMESPACE"] == member.namespace
    assert env["HUB_MEMBER"] == member.name
    assert env["HUB_CHILD_ID"] == "tenant/42"
    assert env["HUB_EPOCH"] == "1"
    assert env["HUB_ROLE"] == "Active"
    assert env["HUB_URL"] == f"http://{agent.ip}:8080"
    assert len(env["HUB_SOCKET"]) < 100
    assert {"HUB_TOKEN_FILE", "HUB_ROLE_FILE", "HUB_HANDOVER_FILE", "PATH"} <= env.keys()
    assert not {"POD_UID", "HUB_UID", "PROCESSHUB_RUN_DIR"} & env.keys(), "the agent's own"
    assert env["KUBECONFIG"] == member.kubeconfig, "a variable of the container"
    assert "Active" in said
    line = next(line for line in agent.lines() if line.get("message") == "oops")
    assert (line["hub"], line["member"], line["epoch"], line["stream"]) == (member.hub, member.name, 1, "stderr")


async def test_removing_the_entry_stops_the_whole_process_tree_before_it_is_reported(
    member: Member, tmp_path: Path
) -> None:
    member.start_agent()
    escaped = tmp_path / "escaped"
    script = f"setsid sh -c 'echo $$ > {escaped}; trap \"\" TERM; sleep 1000' & sleep 1000"
    await member.write({"a": shell(script), "b": SLEEP})
    pid, other = await member.running("a"), await member.running("b")
    runaway = int(await until(lambda: escaped.exists() and escaped.read_text().strip()))

    removed = await member.write({"a": None})
    item = await member.acknowledged(removed)

    # It is either still listed as Stopping under its old epoch, or no process of it is left.
    if "a" in item.status.reports:
        assert " 1 Active Stopping " in item.status.reports["a"]

    async def gone() -> bool:
        return "a" not in await member.reports()

    await until(gone)
    assert not alive(pid)
    assert not alive(runaway)
    assert alive(other)


async def test_a_daemon_with_a_wiped_environment_does_not_outlive_its_child(member: Member, tmp_path: Path) -> None:
    member.start_agent()
    note = tmp_path / "pid"
    await member.write({"a": shell(f"env -i setsid sh -c 'echo $$ > {note}; exec sleep 1000' & sleep 1000")})
    pid = await member.running("a")
    runaway = int(await until(lambda: note.exists() and note.read_text().strip()))

    await member.write({"a": None})

    await until(lambda: not alive(pid) and not alive(runaway))


async def test_a_child_that_ignores_sigterm_is_killed_after_stop_seconds(member: Member, tmp_path: Path) -> None:
    member.start_agent()
    ready = tmp_path / "ready"
    await member.write({"a": shell(f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done")})
    pid = await member.running("a")
    await until(ready.exists)

    began = time.monotonic()
    await member.write({"a": None})
    await until(lambda: not alive(pid))

    assert 1.5 < time.monotonic() - began < 9  # the default is 10 s


async def test_the_stop_signal_is_the_one_that_the_workload_names(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, stop_seconds=30) as member:
        member.start_agent()
        note = tmp_path / "note"
        ready = tmp_path / "ready"
        script = f"trap 'echo usr1 > {note}; exit' USR1; touch {ready}; while :; do sleep 0.05; done"
        await member.write({"a": shell(script, stop_signal="SIGUSR1")})
        pid = await member.running("a")
        await until(ready.exists)

        await member.write({"a": None})

        await until(lambda: not alive(pid))
        assert note.read_text() == "usr1\n"


@pytest.mark.parametrize(
    ("workload", "reason", "words"),
    [
        (program("no-such-program"), "CommandNotFound", "no-such-program"),
        (program("/etc/passwd"), "CommandNotFound", "Permission denied"),
        (shell("true", cwd="/no/such/folder"), "WorkingDirNotFound", "/no/such/folder"),
        (program("sh", "a\0b"), "CommandNotFound", "NUL"),
        (program("sh", "x" * 200_000), "CommandNotFound", "too long"),
        (program("sh", "-c", "exit 3"), "Exited", "exit code 3"),
        (program("sh", "-c", "kill -9 $$"), "Exited", "SIGKILL"),
        (shell("true", stop_signal="SIGNONE"), "CommandNotFound", "SIGNONE"),
    ],
    ids=["unknown", "not executable", "folder", "nul", "too long", "exit", "killed", "signal"],
)
async def test_a_child_that_cannot_run_reports_its_reason_promptly(
    member: Member, workload, reason: str, words: str
) -> None:
    member.start_agent()
    await member.write({"good": SLEEP})
    await member.running("good")

    await member.write({"a": workload})
    report = await member.report("a", lambda report: report.state == "Failed", PROMPT_SECONDS)

    assert report.reason == reason
    assert words in report.message


async def test_a_restart_storm_affects_no_other_child(member: Member) -> None:
    member.start_agent()
    await member.write({f"good-{number}": SLEEP for number in range(5)})
    before = {child: await member.running(child) for child in [f"good-{number}" for number in range(5)]}

    await member.write({f"bad-{number}": program("false") for number in range(20)})
    # It is up for a moment each time, and then reports nothing.
    await member.report("bad-7", lambda report: report.restarts >= 5 and "BackOff" in report.message)

    reports = await member.reports()
    assert {child: reports[child].pid for child in before} == before
    assert all(reports[child].restarts == 0 for child in before)


async def test_a_child_over_its_restart_limit_fails_until_its_spec_changes(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, restarts_max=2) as member:
        member.start_agent()
        await member.write({"a": program("false")})

        report = await member.report("a", lambda report: report.reason == "RestartsExceeded")
        assert report.state == "Failed"
        assert report.restarts == 2

        await member.write({"a": SLEEP}, epoch=2)
        assert await member.running("a", epoch=2)


async def test_the_restart_policy_decides_what_an_exit_means(member: Member) -> None:
    member.start_agent()
    await member.write({"done": program("true"), "crash": program("false")}, restart_policy="Temporary")
    await member.write({"job": program("true")}, restart_policy="Transient")

    done = await member.report("done", lambda report: report.state == "Stopped")
    crash = await member.report("crash", lambda report: report.state == "Stopped")
    job = await member.report("job", lambda report: report.state == "Stopped")

    assert (done.reason, crash.reason, job.reason) == ("Completed", "Exited", "Completed")
    assert crash.last_exit == "exit code 1"
    assert (done.restarts, crash.restarts, job.restarts) == (0, 0, 0)


@pytest.mark.parametrize("end", ["killed", "in order"])
async def test_a_new_agent_does_not_repeat_finished_children(member: Member, end: str) -> None:
    agent = member.start_agent()
    await member.write({"done": program("true")}, restart_policy="Temporary")
    await member.report("done", lambda report: report.state == "Stopped")
    if end == "killed":
        agent.kill()
    else:
        agent.signal(signal.SIGTERM)
        assert await agent.exit_code() == 0

    member.start_agent()
    await member.write({"other": SLEEP})
    await member.running("other")

    assert (await member.reports())["done"].state == "Stopped"


async def test_a_changed_workload_restarts_a_child_and_changed_metadata_does_not(member: Member) -> None:
    member.start_agent()
    await member.write({"a": SLEEP})
    first = await member.running("a")

    tagged = await member.write({"a": SLEEP}, tags=("eu",), metadata=(("k", "v"),), restart_policy="Transient")
    await member.acknowledged(tagged)
    assert (await member.reports())["a"].pid == first

    await member.write({"a": program("sleep", "2000")}, epoch=2)
    second = await member.running("a", epoch=2)
    assert second != first
    assert not alive(first)


async def test_an_entry_with_a_wait_flag_is_not_started(member: Member) -> None:
    member.start_agent()
    item = await member.write({"a": SLEEP}, wait=True)
    await member.acknowledged(item)
    assert (await member.reports())["a"].state == "Pending"

    await member.write({"a": SLEEP})

    assert await member.running("a")


async def test_a_slice_of_an_old_term_starts_nothing(member: Member) -> None:
    member.start_agent()
    await member.write({"old": SLEEP})
    pid = await member.running("old")
    await member.add_slice(0, term=7, member=f"{member.hub}-1")  # a newer operator has written another member's slice

    item = await member.write({"late": SLEEP})
    await member.acknowledged(item)
    reports = await member.reports()
    assert reports["late"].state == "Pending"
    assert reports["old"].pid == pid
    assert alive(pid)

    def raised(spec: SliceSpec) -> SliceSpec:
        return SliceSpec(**{name: getattr(spec, name) for name in spec.__struct_fields__} | {"term": 7})

    await member.update(raised)
    assert await member.running("late")


async def test_entries_of_an_earlier_lease_holder_are_not_started(member: Member) -> None:
    member.start_agent()
    await member.add_slice(1, holder="pod-0/abcdef")
    await member.write({"kept": SLEEP})
    await member.running("kept")

    item = await member.write({"given": SLEEP}, index=1)
    await member.acknowledged(item, index=1)

    assert (await member.reports(1))["given"].state == "Pending"


async def test_the_highest_epoch_wins_if_two_slices_have_the_same_id(member: Member) -> None:
    member.start_agent()
    await member.add_slice(1)
    await member.write({"a": SLEEP}, epoch=1)
    first = await member.running("a")

    await member.write({"a": program("sleep", "3000")}, epoch=5, index=1)

    async def moved() -> int | None:
        report = (await member.reports(1)).get("a")
        return report.pid if report and report.state == "Running" else None

    second = await until(moved)
    assert second != first
    assert not alive(first)
