"""The runner as a process of its own, with this test in the agent's part."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import ENDS_WITH_US, until

from processhub.agent.frames import Inbox, Message, Outbox

# The warden puts the socket there.
PROGRAM = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
from processhub.agent.runner.main import main
main()
"""
# Its end takes until it is let.
SLOW = """
import asyncio, pathlib
import processhub

class Slow(processhub.Actor):
    async def terminate(self, reason):
        pathlib.Path("ending").touch()
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.01)
"""


class Runner:
    """The agent's end of a runner's socket."""

    def __init__(self, folder: Path) -> None:
        (folder / "slow.py").write_text(SLOW)
        mine, its = socket.socketpair()
        self.process = subprocess.Popen(
            [*ENDS_WITH_US, sys.executable, "-c", PROGRAM, str(its.fileno())], pass_fds=(its.fileno(),), cwd=folder
        )
        its.close()
        mine.setblocking(False)
        self.socket, self._heard = mine, list[Message]()
        self._inbox, self._outbox = Inbox(mine), Outbox(mine)
        self._outbox.send({"op": "hub", "name": "hub", "namespace": "default", "member": "hub-0"})

    def start(self, key: str) -> None:
        """Start an actor."""
        order = {"op": "start", "key": key, "id": f"child-{key}", "epoch": 1, "role": "Active", "args": {}}
        self._outbox.send({**order, "target": "slow:Slow"})

    def hear(self, event: str, key: str) -> Message | None:
        """The runner's message of that name on that actor, if it has come."""
        self._heard += self._inbox.read()
        return next((message for message in self._heard if (message["ev"], message.get("key")) == (event, key)), None)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path)
    yield runner
    runner.socket.close()
    runner.process.wait(40)


async def test_a_runner_that_is_ending_is_not_kept_by_an_actor_that_comes_late(runner: Runner, tmp_path: Path) -> None:
    runner.start("1")
    await until(lambda: runner.hear("running", "1"), "the actor")
    runner.process.send_signal(signal.SIGTERM)
    await until((tmp_path / "ending").exists, "the order to end")

    runner.start("2")
    (tmp_path / "go").touch()

    await until(lambda: runner.process.poll() is not None, "the runner's end", within=10)
