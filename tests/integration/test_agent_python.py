"""Python children by a real agent: actors in runner processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from agentharness import SLEEP, Member, actor, new_member, until
from waiting import alive

from localcluster.cluster import Cluster

PROMPT_SECONDS = 10  # the promise is 2 on an idle machine


@pytest.fixture
async def member(cluster: Cluster, namespace: str, tmp_path: Path):
    async with new_member(
        tmp_path, str(cluster.kubeconfig), namespace, start_seconds=4, stop_seconds=2, lease_seconds=6
    ) as member:
        yield member


def ticks(path: Path) -> list[float]:
    """Return the times at which the ticker ticked."""
    return [float(line) for line in path.read_text().splitlines() if line[0].isdigit()] if path.exists() else []


async def test_actors_of_a_module_share_a_runner_outside_the_agent(member: Member) -> None:
    agent = member.start_agent()
    await member.write({"a": actor("processhub.examples:Counter"), "b": actor("processhub.examples:Cache")})
    await member.write({"c": actor("sample_actors:Reader")})

    first, second, other = [await member.running(child) for child in "abc"]

    assert first == second
    assert other not in (first, agent.pid)


async def test_sockets_threads_and_subprocesses_work_in_an_actor(member: Member) -> None:
    agent = member.start_agent()
    await member.write({"a": actor("sample_actors:Reader")})

    await member.running("a")

    await until(lambda: any(line.get("message") == "all worked" and line["child"] == "a" for line in agent.lines()))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nosuch.module:X", "No module named 'nosuch'"),
        ("sample_actors:Nope", "has no Nope"),
        ("sample_actors:NOT_A_CLASS", "not a class derived from processhub.Actor"),
        ("sample_actors:Sync", "async def init"),
        ("broken_module:X", "broken on purpose"),
        ("sample_actors", "module:Class"),
    ],
)
async def test_a_module_that_cannot_be_loaded_is_an_import_error(member: Member, target: str, words: str) -> None:
    member.start_agent()
    await member.write({"good": SLEEP})
    await member.running("good")

    await member.write({"a": actor(target)})
    report = await member.report("a", lambda report: report.state == "Failed", PROMPT_SECONDS)

    assert report.reason == "ImportError"
    assert words in report.message


async def test_a_blocking_actor_delays_neither_neighbours_nor_lease(member: Member, tmp_path: Path) -> None:
    agent = member.start_agent()
    file = tmp_path / "ticks"
    await member.write({"tick": actor("sample_actors:Ticker", file=str(file))})
    await member.running("tick")

    # More than the pool's initial number of threads.
    await member.write({f"block-{number}": actor("sample_actors:Sleeper", seconds=60) for number in range(8)})
    for number in range(8):
        await member.running(f"block-{number}")
    await member.write({"new": actor("sample_actors:Ticker", file=str(tmp_path / "other"))})
    await member.running("new", PROMPT_SECONDS)
    count = len(ticks(file))
    await until(lambda: len(ticks(file)) > count + 100)
    renewed = (await member.lease()).spec.renew_time

    async def renews() -> bool:
        return (await member.lease()).spec.renew_time != renewed

    await until(renews)
    assert agent.process.poll() is None
    assert len({(await member.reports())[child].pid for child in ("tick", "block-0", "new")}) == 1


@pytest.mark.parametrize("how", ["raise", "exit", "background"])
async def test_a_crash_affects_only_its_actor(member: Member, tmp_path: Path, how: str) -> None:
    member.start_agent()
    file = tmp_path / "ticks"
    await member.write({"tick": actor("sample_actors:Ticker", file=str(file))})
    pid = await member.running("tick")

    await member.write({"bad": actor("sample_actors:Crasher", how=how)})
    report = await member.report("bad", lambda report: report.restarts >= 3)

    assert report.last_exit in ("ValueError: as told", "SystemExit: 3", "SystemExit: 4")
    assert (await member.reports())["tick"].pid == pid
    assert (await member.reports())["tick"].restarts == 0


async def test_a_killed_runner_is_replaced_with_its_actors(member: Member) -> None:
    member.start_agent()
    await member.write({"a": actor("processhub.examples:Counter"), "b": actor("processhub.examples:Counter")})
    pid = await member.running("a")

    os.kill(pid, signal.SIGKILL)

    for child in "ab":
        report = await member.report(child, lambda report: report.state == "Running" and report.pid != pid)
        assert report.restarts == 1
        assert "SIGKILL" in report.last_exit


async def test_an_orderly_stop_calls_terminate(member: Member, tmp_path: Path) -> None:
    member.start_agent()
    file = tmp_path / "ticks"
    await member.write({"tick": actor("sample_actors:Ticker", file=str(file)), "other": actor("sample_actors:Reader")})
    pid = await member.running("tick")
    await member.running("other")

    await member.write({"tick": None})

    async def gone() -> bool:
        return "tick" not in await member.reports()

    await until(gone)
    assert file.read_text().splitlines()[-1] == "terminated stop"
    assert (await member.reports())["other"].pid == pid


async def test_an_actor_that_blocks_its_stop_is_killed_with_its_runner(member: Member, tmp_path: Path) -> None:
    member.start_agent()
    file = tmp_path / "ticks"
    await member.write(
        {
            "tick": actor("sample_actors:Ticker", file=str(file)),
            "block": actor("sample_actors:Sleeper"),
            "far": actor("processhub.examples:Counter"),
        }
    )
    pid, far = await member.running("tick"), await member.running("far")
    await member.running("block")

    began = time.monotonic()
    await member.write({"block": None})
    report = await member.report("tick", lambda report: report.state == "Running" and report.pid != pid)

    assert time.monotonic() - began > 1.5
    assert not alive(pid)
    assert report.restarts == 1
    assert (await member.reports())["far"].pid == far
    assert "block" not in await member.reports()


@pytest.mark.parametrize("block", [False, True])
async def test_a_slow_start_is_a_start_timeout_and_affects_no_other_child(
    member: Member, tmp_path: Path, *, block: bool
) -> None:
    member.start_agent()
    file = tmp_path / "ticks"
    await member.write({"tick": actor("sample_actors:Ticker", file=str(file))})
    pid = await member.running("tick")

    await member.write({"slow": actor("sample_actors:SlowInit", seconds=12, block=block)})
    report = await member.report("slow", lambda report: report.reason == "StartTimeout")

    assert "4 s" in report.message
    again = await member.report("slow", lambda report: report.restarts >= 1)
    assert again.reason == "StartTimeout"
    assert (await member.reports())["tick"].pid == pid
    assert (await member.reports())["tick"].restarts == 0


async def test_modules_of_a_config_map_are_imported(member: Member, tmp_path: Path) -> None:
    (tmp_path / "from_config_map.py").write_text(
        "from processhub import Actor\n\n"
        "class Mine(Actor):\n    async def init(self, args):\n        print(args, self.id)\n"
    )
    agent = member.start_agent(PROCESSHUB_PYTHON_PATH=str(tmp_path))

    await member.write({"a": actor("from_config_map:Mine", x=[1, {"y": "ü"}])})
    await member.running("a")

    await until(lambda: any(line.get("message") == "{'x': [1, {'y': 'ü'}]} a" for line in agent.lines()))


async def test_a_missing_runner_python_is_reported(member: Member) -> None:
    member.start_agent(PROCESSHUB_RUNNER_PYTHON="/no/such/python3")

    await member.write({"a": actor("processhub.examples:Counter"), "b": SLEEP})
    report = await member.report("a", lambda report: report.state == "Failed")

    assert "/no/such/python3" in report.message
    assert await member.running("b")
