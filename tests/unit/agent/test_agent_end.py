"""The end of an agent: nothing that is gone or hangs keeps its container from ending."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from onethread import NoPeers, running_hub

from processhub.agent.app import EXIT_NO_WATCHDOG


def test_an_agent_ends_though_another_member_reads_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Lease would be renewed for ever: the operator would take its children for running."""

    async def hangs(_: NoPeers) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            await cluster.until(lambda: all(agent._parts.permit.held for agent in cluster.agents.values()), "members")
            monkeypatch.setattr(NoPeers, "close", hangs)
            cluster.agents["hub-0"]._watchdog_lost()

            code = await asyncio.wait_for(cluster.tasks["hub-0"], 60)

            assert code == EXIT_NO_WATCHDOG
            monkeypatch.undo()
            cluster.start_agent("hub-0")

    virtualtime.run(main())


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "deleted meanwhile"])
def test_a_child_that_has_finished_is_not_started_again_by_the_next_agent(tmp_path: Path, *, kept: bool) -> None:
    """As by a rolling update. A killed agent leaves its reports, and one that ends in order had taken all back."""

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            spec = {"hub": "hub", "restartPolicy": "Temporary", "exec": {"command": ["x"]}}
            cluster.api.create("children", {"metadata": {"name": "once"}, "spec": spec})
            await cluster.until(lambda: cluster.reported_running("once"), "it runs")
            (run,) = [run for machine in cluster.machines for run in machine.runs]
            run.end()

            def node() -> dict[str, Any]:
                found: dict[str, Any] = cluster.api.get("children", "once")["status"]["nodes"][0]
                return found

            await cluster.until(lambda: node()["state"] == "Stopped", "its end is reported")
            before = node()
            member = before["name"]
            cluster.agents[member].terminate()
            assert await cluster.tasks[member] == 0
            if not kept:
                cluster.api.delete("children", "once")
            cluster.start_agent(member)
            await asyncio.sleep(10)

            reports = cluster.api.get("registryslices", f"hub.{member}.0")["status"]["entries"]
            assert (node() == before) if kept else (not reports)
            assert [begins for _, child_id, _, begins in cluster.log if child_id == "once"] == [True, False]

    virtualtime.run(main())


# An agent's main process, as far as it is the first of its container, with two that it gets and a watchdog.
FIRST_PROCESS = """
import asyncio, os, signal, subprocess, uvloop
from processhub.agent.main import reap_orphans
from processhub.agent.watchdog.linux import become_subreaper, own_children

async def main():
    watchdog = subprocess.Popen(["sleep", "1000"])
    reap_orphans(watchdog.pid)
    for seconds in "0.1", "0.2":
        subprocess.run(["sh", "-c", f"sleep {seconds} &"], check=True)
    assert len(own_children(())) == 3
    while own_children(()).keys() != {watchdog.pid}:
        await asyncio.sleep(0.01)
    watchdog.kill()
    await asyncio.sleep(0.1)
    assert watchdog.wait() == -signal.SIGKILL

become_subreaper()
uvloop.run(main())
"""


def test_what_an_exec_leaves_in_the_container_is_reaped() -> None:
    subprocess.run([sys.executable, "-c", FIRST_PROCESS], check=True, timeout=20)
