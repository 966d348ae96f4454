"""The runner as a process, with the test in the role of the agent."""

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

# The watchdog puts the socket there.
PROGRAM = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
from processhub.agent.runner.main import main
main()
"""
# The end of the first takes until the test allows it.
ACTORS = """
import asyncio, multiprocessing, pathlib, time
import processhub

class Slow(processhub.Actor):
    async def terminate(self, reason):
        pathlib.Path("ending").touch()
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.01)

def below():
    pathlib.Path("forked").touch()
    time.sleep(1000)

class Parent(processhub.Actor):
    async def init(self, args):
        child = multiprocessing.get_context("fork").Process(target=below)
        child.start()
        while not pathlib.Path("forked").exists():
            await asyncio.sleep(0.01)
        child.terminate()
        await asyncio.to_thread(child.join)
        pathlib.Path("exit").write_text(str(child.exitcode))

class Background(processhub.Actor):
    async def init(self, args):
        begin = {"spawn": self.spawn, "create_task": asyncio.create_task}
        if args["how"] == "every":
            self.task = self.every(0.01, self.tick)
        else:
            self.task = begin[args["how"]](self.fail())

    def tick(self):
        with open("ticks", "a") as file:
            file.write(".")
        if pathlib.Path("ticks").stat().st_size == 3:
            raise ValueError("in the background")

    async def fail(self):
        await asyncio.sleep(0.01)
        raise ValueError("in the background")

    async def terminate(self, reason):
        raise AssertionError("it has crashed: this is not called")

class Awaits(processhub.Actor):
    async def init(self, args):
        task = asyncio.create_task(self.fail())
        await asyncio.sleep(0.05)
        outcomes = await asyncio.gather(task, self.fail(), return_exceptions=True)
        self.cancelled = self.spawn(asyncio.sleep(1000))
        self.cancelled.cancel()
        await asyncio.sleep(1.2)
        pathlib.Path("outcomes").write_text(repr(outcomes))

    async def fail(self):
        raise ValueError("awaited")
"""


class Runner:
    """The agent's end of a runner's socket."""

    def __init__(self, folder: Path) -> None:
        (folder / "actors.py").write_text(ACTORS)
        mine, its = socket.socketpair()
        self.process = subprocess.Popen(
            [*ENDS_WITH_US, sys.executable, "-c", PROGRAM, str(its.fileno())], pass_fds=(its.fileno(),), cwd=folder
        )
        its.close()
        mine.setblocking(False)
        self.socket, self._heard = mine, list[Message]()
        self._inbox, self._outbox = Inbox(mine), Outbox(mine)
        self._outbox.send({"op": "hub", "name": "hub", "namespace": "default", "member": "hub-0"})

    def start(self, key: str, actor: str, **args: object) -> None:
        """Start an actor."""
        order = {"op": "start", "key": key, "id": f"child-{key}", "epoch": 1, "role": "Active", "args": args}
        self._outbox.send({**order, "target": f"actors:{actor}"})

    def hear(self, event: str, key: str) -> Message | None:
        """Return the runner's message of this name about this actor, if it has arrived."""
        self._heard += self._inbox.read()
        return next((message for message in self._heard if (message["ev"], message.get("key")) == (event, key)), None)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path)
    yield runner
    runner.socket.close()
    runner.process.wait(40)


async def test_a_late_actor_does_not_keep_an_ending_runner_alive(runner: Runner, tmp_path: Path) -> None:
    runner.start("1", "Slow")
    await until(lambda: runner.hear("running", "1"), "the actor")
    runner.process.send_signal(signal.SIGTERM)
    await until((tmp_path / "ending").exists, "the order to end")

    runner.start("2", "Slow")
    (tmp_path / "go").touch()

    await until(lambda: runner.process.poll() is not None, "the runner's end")


async def test_a_signal_to_a_process_that_an_actor_forked_does_not_reach_the_runner(
    runner: Runner, tmp_path: Path
) -> None:
    runner.start("1", "Parent")

    await until(lambda: runner.hear("running", "1"), "the end of the actor's own process")

    assert (tmp_path / "exit").read_text() == str(-signal.SIGTERM)
    assert runner.process.poll() is None


@pytest.mark.parametrize("how", ["spawn", "every", "create_task"])
async def test_a_background_task_that_fails_is_the_actors_crash(runner: Runner, how: str) -> None:
    runner.start("1", "Background", how=how)

    ended = await until(lambda: runner.hear("ended", "1"), "its crash")

    assert (ended["reason"], ended["text"]) == ("Exited", "ValueError: in the background")
    assert runner.process.poll() is None, "others live in that process"


async def test_a_failure_that_is_awaited_or_a_task_that_is_cancelled_is_no_crash(
    runner: Runner, tmp_path: Path
) -> None:
    runner.start("1", "Awaits")

    await until(lambda: runner.hear("running", "1"), "the actor")

    assert (tmp_path / "outcomes").read_text() == "[ValueError('awaited'), ValueError('awaited')]"
    assert runner.hear("ended", "1") is None


async def test_a_runner_that_can_take_no_more_messages_ends(runner: Runner) -> None:
    runner.start("1", "Slow")
    await until(lambda: runner.hear("running", "1"), "the actor")

    runner.socket.send(b"\0\0\0\x03{x}")

    await until(lambda: runner.process.poll() is not None, "the runner's end")
    assert runner.process.returncode == 1
