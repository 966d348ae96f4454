"""The end of an agent: nothing that is gone or hangs keeps its container from ending."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
