"""Many children on one member."""

from __future__ import annotations

from pathlib import Path

from agentharness import SLEEP, actor, new_member, until
from waiting import alive

from localcluster.cluster import Cluster


async def test_two_thousand_children_start_and_stop(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, stop_seconds=30) as member:
        member.start_agent()
        await member.add_slice(1)
        execs = {f"exec-{number}": SLEEP for number in range(1000)}
        actors = {f"actor-{number}": actor("processhub.examples:Counter", start=number) for number in range(1000)}
        await member.write(execs)
        await member.write(actors, index=1)

        async def all_running(index: int) -> bool:
            return sum(report.state == "Running" for report in (await member.reports(index)).values()) == 1000

        await until(lambda: all_running(0), 90, every=0.2)
        await until(lambda: all_running(1), 90, every=0.2)
        pids = {report.pid for report in (await member.reports(0)).values()}
        assert len(pids) == 1000
        assert all(map(alive, pids))
        assert len({report.pid for report in (await member.reports(1)).values()}) == 1

        await member.write(dict.fromkeys(execs))
        await member.write(dict.fromkeys(actors), index=1)

        async def none_left(index: int) -> bool:
            return not await member.reports(index)

        await until(lambda: none_left(0), 90, every=0.2)
        await until(lambda: none_left(1), 90, every=0.2)
        assert not any(map(alive, pids))
