"""The warden as a process of its own, with this test in the agent's part: nothing of a tree outlives its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import ENDS_WITH_US, alive, until

from processhub.agent.frames import Inbox, Message, Outbox

WARDEN = "from processhub.agent.warden.main import main; main()"
# Each child of this warden ends after the warden has listed it and before it is looked at: the moment in which its own
# children come to the warden and are not on the list.
ENDS_WHEN_LOOKED_AT = """
import os, signal
from processhub.agent.warden import linux, main

look = linux._stat

def end_and_look(pid):
    if look(pid) in [(state, os.getpid()) for state in "RSD"]:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return look(pid)

linux._stat = end_and_look
main.main()
"""
# A main process, below it one in a session of its own, below that another: only the warden can find the last one.
TREE = """
setsid sh -c 'trap "" TERM; setsid sh -c "echo \\$\\$ > note.new; mv note.new note; exec sleep 1000" & wait' &
while ! test -e note; do sleep 0.01; done
"""


class Agent:
    """The agent's end of the warden's socket."""

    def __init__(self, folder: Path, warden: str) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        feed, self.feed = os.pipe()
        self.process = subprocess.Popen(
            [*ENDS_WITH_US, sys.executable, "-c", warden, str(its.fileno()), str(feed)],
            pass_fds=(its.fileno(), feed),
        )
        its.close()
        os.close(feed)
        mine.setblocking(False)
        self.socket, self._folder, self._heard = mine, folder, list[Message]()
        self._inbox, self._outbox = Inbox(mine), Outbox(mine)

    def spawn(self, script: str, key: str = "1") -> None:
        """Have a shell run the script in this test's folder."""
        order = {"op": "spawn", "key": key, "argv": ["sh", "-c", script], "env": dict(os.environ)}
        self._outbox.send({**order, "cwd": str(self._folder), "stop": int(signal.SIGTERM), "fds": []})

    def hear(self, event: str, key: str = "1") -> Message | None:
        """The warden's message of that name, if it has come."""
        self._heard += self._inbox.read()
        return next((said for said in self._heard if (said["ev"], said["key"]) == (event, key)), None)


@pytest.fixture(params=[WARDEN], ids=["warden"])
def agent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    agent = Agent(tmp_path, request.param)
    yield agent
    agent.socket.close()
    os.close(agent.feed)
    agent.process.wait(40)


async def tree(folder: Path) -> int:
    """The pid of the process that is farthest from the warden, once it runs."""
    note = folder / "note"
    await until(note.exists, "the last of the tree")
    return int(note.read_text())


early_ends = pytest.mark.parametrize("agent", [ENDS_WHEN_LOOKED_AT], ids=["ends early"], indirect=True)


@early_ends
async def test_a_process_has_exited_when_nothing_of_its_tree_is_left(agent: Agent, tmp_path: Path) -> None:
    agent.spawn(TREE)
    last = await tree(tmp_path)

    await until(lambda: agent.hear("exited"), "the warden's word that it has exited")

    assert not alive(last)


@early_ends
async def test_the_wardens_own_end_leaves_nothing(agent: Agent, tmp_path: Path) -> None:
    agent.spawn(f"{TREE} wait")
    last = await tree(tmp_path)

    agent.socket.close()

    await until(lambda: agent.process.poll() is not None, "the warden's end")
    assert not alive(last)


async def test_a_daemon_amid_an_exec_is_not_taken_for_a_stray(agent: Agent, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.write_text(f"#!/bin/sh\nexec {again}\n")
    again.chmod(0o700)
    agent.spawn(f"(setsid sh -c 'echo $$ > note.new; mv note.new note; exec {again}' &); sleep 1000")
    daemon = await tree(tmp_path)

    for number in range(200):
        agent.spawn("exit 0", f"other-{number}")
        await until(lambda key=f"other-{number}": agent.hear("exited", key), "another's end")
        assert alive(daemon)
