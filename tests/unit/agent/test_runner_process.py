"""The runner as a process, with the test in the role of the agent."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import ENDS_WITH_US, until

from processhub.agent.frames import Inbox, Message, Outbox, frame

# The watchdog puts the socket there.
PROGRAM = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
from processhub.agent.runner.main import main
main()
"""
# The end of the first takes until the test allows it.
ACTORS = """
import asyncio, contextvars, gc, multiprocessing, pathlib, sys, time, weakref
import processhub
from processhub.agent.runner.loop import ActorLoop

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

current, by_loop = contextvars.ContextVar("current"), weakref.WeakKeyDictionary()

class Keeps(processhub.Actor):
    async def init(self, args):
        self.thread_loop, self.token = None, current.set(self.id)
        keep = {
            "nothing": lambda: None,
            "loop": lambda: setattr(self, "loop", asyncio.get_running_loop()),
            "future": lambda: setattr(self, "future", asyncio.get_running_loop().create_future()),
            "timer": lambda: setattr(self, "timer", asyncio.get_running_loop().call_later(0.01, self.note)),
            "weak": lambda: by_loop.setdefault(asyncio.get_running_loop(), self.id),
            "handler": lambda: asyncio.get_running_loop().set_exception_handler(self.handle),
        }
        keep[args["what"]]()
        self.noted = False

    def note(self):
        self.noted = True

    def handle(self, loop, context):
        self.noted = True

    async def handle_call(self, request):
        loop = asyncio.get_running_loop()
        if hasattr(self, "future"):
            loop.call_later(0.01, self.future.set_result, None)
            await self.future
            self.note()
        elif hasattr(self, "loop"):
            self.noted = self.loop is loop
        elif hasattr(self, "timer"):
            while not self.noted:
                await asyncio.sleep(0.01)
        elif by_loop.get(loop) == self.id:
            self.note()
        elif loop.get_exception_handler() is not None:
            loop.call_exception_handler({"message": "test"})
        value = current.get()
        current.reset(self.token)
        return [value, current.get("unset"), self.noted]

class Blocks(processhub.Actor):
    async def init(self, args):
        while not pathlib.Path("go").exists():
            time.sleep(0.01)

class BlocksLater(processhub.Actor):
    async def init(self, args):
        time.sleep(0.05)  # so long that another thread takes the agent's messages meanwhile
        self.task = asyncio.create_task(self.block())

    async def block(self):
        while not pathlib.Path("go").exists():
            time.sleep(0.01)

class Late(processhub.Actor):
    async def handle_call(self, request):
        asyncio.create_task(self.fail())
        return "begun"

    async def fail(self):
        raise ValueError("later")

    async def terminate(self, reason):
        pathlib.Path(self.id).write_text(reason)

class NoText(Exception):
    def __str__(self):
        return self.missing

class Odd:
    def __str__(self):
        raise ValueError("caf\\udce9")

class Fails(processhub.Actor):
    async def handle_call(self, request):
        if request == "answer":
            return Odd()
        if request == "long answer":
            return "a" * 5_000_000
        if request == "background":
            self.spawn(self.fail(NoText()))
        elif request == "no log":
            sys.stderr = open("log", "w")
            sys.stderr.close()
            self.spawn(self.fail(ValueError("unheard")))
        else:
            await self.fail(NoText() if request == "no text" else ValueError("caf\\udce9"))

    async def fail(self, error):
        raise error

class Ignores(processhub.Actor):
    async def init(self, args):
        if args["when"] == "as it starts":
            await self.go_on()

    async def go_on(self):
        self.spawn(self.fail())
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

    async def fail(self):
        raise ValueError("in the background")

    async def handle_call(self, request):
        await self.go_on()

class AwaitsLate(processhub.Actor):
    async def handle_call(self, request):
        tasks = [asyncio.create_task(self.slow()), asyncio.create_task(self.fail())]
        if request == "wait":
            await asyncio.wait(tasks)
            return [repr(task.exception()) for task in tasks]
        if request == "forget":
            return await tasks[0]
        if request == "generator":
            return [text async for text in self.one_by_one(iter(tasks))]
        return [await self.outcome(task) for task in dict(enumerate(tasks)).values()]

    async def one_by_one(self, tasks):
        for task in tasks:
            yield await self.outcome(task)

    async def outcome(self, task):
        try:
            return repr(await task)
        except ValueError as error:
            return repr(error)

    async def slow(self):
        await asyncio.sleep(1.5)

    async def fail(self):
        raise ValueError("later")

class Remembers(processhub.Actor):
    async def init(self, args):
        self.state = "a" * args["size"]

class Ends(processhub.Actor):
    async def handle_call(self, request):
        return "first"

    async def terminate(self, reason):
        with open(self.id, "a") as file:
            print(reason, file=file)

class Loops(processhub.Actor):
    async def handle_call(self, request):
        return sum(isinstance(found, ActorLoop) for found in gc.get_objects())

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
        its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
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
        self._outbox.flush()
        self._heard += self._inbox.read()
        return next((message for message in self._heard if message["ev"] == event and key in _subjects(message)), None)

    def flushed(self) -> bool:
        """Send what waits for room in the socket; returns whether all orders are sent."""
        self._outbox.flush()
        return not self._outbox.pending

    @property
    def threads(self) -> int:
        """How many threads the runner has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def order(self, operation: str, key: str, **more: object) -> None:
        """Send an order about an actor."""
        self._outbox.send({"op": operation, "key": key, **more})

    def call(self, key: str, request: object) -> None:
        """Send an actor a request."""
        order = {"op": "call", "key": key, "call": 0}
        self._outbox.queue(frame(json.dumps(order).encode(), json.dumps(request).encode()))
        self._outbox.flush()

    async def answer(self, key: str, request: object) -> object:
        """An actor's answer to a request, which must be its only one."""
        self.call(key, request)
        answer = await until(lambda: self.hear("answer", key), "the answer")
        return json.loads(answer["payload"])


def _subjects(message: Message) -> list[str]:
    """The keys of the actors that the message is about."""
    return message["keys"] if "keys" in message else [message.get("key", "")]


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


@pytest.mark.parametrize("what", ["nothing", "loop", "future", "timer", "weak", "handler"])
async def test_what_init_leaves_on_the_loop_or_in_the_context_is_there_for_messages(runner: Runner, what: str) -> None:
    for key in ("1", "2"):
        runner.start(key, "Keeps", what=what)
    for key in ("3", "4"):
        runner.start(key, "Keeps", what="nothing")
    for key in ("1", "2", "3", "4"):
        await until(lambda key=key: runner.hear("running", key), "the actors")

    for key in ("1", "2"):
        assert await runner.answer(key, None) == [f"child-{key}", "unset", what != "nothing"]
    for key in ("3", "4"):
        assert await runner.answer(key, None) == [f"child-{key}", "unset", False]


@pytest.mark.parametrize("what", ["nothing", "loop", "future", "timer", "weak", "handler"])
async def test_an_actor_handles_a_request_that_came_with_its_start_once_it_is_up(runner: Runner, what: str) -> None:
    """It may sleep after that, as one without a request does after its start."""
    keys = [str(number) for number in range(6)]
    for key in keys:
        runner.start(key, "Keeps", what=what)
        assert await runner.answer(key, None) == [f"child-{key}", "unset", what != "nothing"]
        events = [message["ev"] for message in runner._heard if key in _subjects(message)]
        assert events == ["running", "answer"]

    for key in keys:
        runner.order("stop", key, grace=10, reason="stop")
        ended = await until(lambda key=key: runner.hear("ended", key), "its end")
        assert (ended["reason"], ended["text"]) == ("Exited", "stopped")


@pytest.mark.parametrize("asked", [False, True], ids=["without a request", "with a request at its start"])
async def test_actors_that_wait_have_no_loop(runner: Runner, asked: bool) -> None:
    for key in map(str, range(100)):
        runner.start(key, "Ends")
        if asked:
            assert await runner.answer(key, None) == "first"
        else:
            await until(lambda key=key: runner.hear("running", key), "the actor")

    runner.start("100", "Loops")
    loops = await runner.answer("100", None)
    assert isinstance(loops, int)
    assert loops < 20


async def test_an_actor_that_sleeps_after_its_first_request_ends_once(runner: Runner, tmp_path: Path) -> None:
    runner.start("1", "Ends")
    assert await runner.answer("1", None) == "first"

    runner.order("stop", "1", grace=10, reason="stop")

    await until(lambda: runner.hear("ended", "1"), "its end")
    assert (tmp_path / "child-1").read_text() == "stop\n"


async def test_actors_that_block_as_they_start_delay_no_report_of_others(runner: Runner, tmp_path: Path) -> None:
    keys = [str(number) for number in range(30)]
    for key in keys:
        runner.start(key, "Late" if int(key) % 3 else "Blocks")

    for key in keys:
        if int(key) % 3:
            await until(lambda key=key: runner.hear("running", key), "the others")
    assert not any(runner.hear("running", key) for key in keys if int(key) % 3 == 0)
    (tmp_path / "go").touch()
    for key in keys:
        await until(lambda key=key: runner.hear("running", key), "all")


async def test_an_actor_that_has_had_no_message_yet_ends_in_order(runner: Runner, tmp_path: Path) -> None:
    for key in ("1", "2"):
        runner.start(key, "Late")
    for key in ("1", "2"):
        await until(lambda key=key: runner.hear("running", key), "the actors")

    runner.order("stop", "1", grace=10, reason="stop")

    ended = await until(lambda: runner.hear("ended", "1"), "its end")
    assert (ended["reason"], ended["text"]) == ("Exited", "stopped")
    assert (tmp_path / "child-1").read_text() == "stop"
    assert runner.hear("ended", "2") is None


async def test_a_task_that_a_first_message_began_is_watched(runner: Runner) -> None:
    runner.start("1", "Late")
    await until(lambda: runner.hear("running", "1"), "the actor")
    assert await runner.answer("1", None) == "begun"

    ended = await until(lambda: runner.hear("ended", "1"), "its crash")

    assert ended["text"] == "ValueError: later"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ("no text", "NoText: its text can't be made: AttributeError"),
        ("background", "NoText: its text can't be made: AttributeError"),
        ("half", "ValueError: caf?"),
        ("no log", "ValueError: unheard"),
    ],
)
async def test_a_crash_is_reported_whatever_the_text_of_its_error_is(runner: Runner, request_: str, text: str) -> None:
    runner.start("1", "Fails")

    runner.call("1", request_)

    ended = await until(lambda: runner.hear("ended", "1"), "its crash")
    assert ended["text"] == text


@pytest.mark.parametrize("how", ["wait", "generator", "one after the other"])
async def test_a_failed_task_that_its_starter_awaits_later_is_no_crash(runner: Runner, how: str) -> None:
    runner.start("1", "AwaitsLate")

    assert await runner.answer("1", how) == ["None", "ValueError('later')"]

    assert runner.hear("ended", "1") is None


async def test_a_failed_task_that_its_starter_leaves_is_a_crash(runner: Runner) -> None:
    runner.start("1", "AwaitsLate")
    assert await runner.answer("1", "forget") is None

    ended = await until(lambda: runner.hear("ended", "1"), "its crash")

    assert ended["text"] == "ValueError: later"


@pytest.mark.parametrize("when", ["as it starts", "while it handles a message"])
async def test_an_actor_that_ignores_its_cancellation_has_crashed_nevertheless(runner: Runner, when: str) -> None:
    runner.start("1", "Ignores", when=when)

    runner.call("1", None)

    ended = await until(lambda: runner.hear("ended", "1"), "its crash")
    assert ended["text"] == "ValueError: in the background"


async def test_the_text_of_a_wrong_answer_can_be_passed_on(runner: Runner) -> None:
    runner.start("1", "Fails")

    runner.call("1", "answer")

    answer = await until(lambda: runner.hear("answer", "1"), "the answer")
    assert answer["bad"] == "the answer of handle_call does not fit JSON: caf?"


async def test_a_callers_agent_is_not_filled_with_an_answer_of_any_length(runner: Runner) -> None:
    runner.start("1", "Fails")

    runner.call("1", "long answer")

    answer = await until(lambda: runner.hear("answer", "1"), "the answer")
    assert answer["bad"] == "the answer of handle_call has 5000002 bytes, the limit is 4194304"


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_state_that_no_file_can_hold_is_handed_over_in_the_message(
    runner: Runner, tmp_path: Path, size: int
) -> None:
    """As on a full disk, which has the pod evicted."""
    runner.start("1", "Remembers", size=size)
    await until(lambda: runner.hear("running", "1"), "the actor")

    runner.order("handover", "1", path=str(tmp_path / "none" / "state"), ask=False, patience=0, grace=10, order=1)

    handed = await until(lambda: runner.hear("handed", "1"), "its state")
    assert json.loads(handed["payload"]) == "a" * size
    ended = await until(lambda: runner.hear("ended", "1"), "its end")
    assert ended["text"] == "stopped"


async def test_a_large_state_is_handed_over_in_a_file(runner: Runner, tmp_path: Path) -> None:
    runner.start("1", "Remembers", size=100_000)
    await until(lambda: runner.hear("running", "1"), "the actor")

    runner.order("handover", "1", path=str(tmp_path / "state"), ask=False, patience=0, grace=10, order=1)

    handed = await until(lambda: runner.hear("handed", "1"), "its state")
    assert "payload" not in handed
    assert json.loads((tmp_path / "state").read_text()) == "a" * 100_000


async def test_a_runner_that_can_take_no_more_messages_ends(runner: Runner) -> None:
    runner.start("1", "Slow")
    await until(lambda: runner.hear("running", "1"), "the actor")

    runner.socket.send(b"\0\0\0\x03{x}")

    await until(lambda: runner.process.poll() is not None, "the runner's end")
    assert runner.process.returncode == 1


async def test_ends_that_the_agent_does_not_read_yet_keep_no_thread_each(runner: Runner, tmp_path: Path) -> None:
    keys = [str(number) for number in range(400)]
    for key in keys:
        runner.start(key, "Late")
    for key in keys:
        await until(lambda key=key: runner.hear("running", key), "the actors")

    for key in keys:
        runner.order("stop", key, grace=20, reason="stop")
    await until(lambda: runner.flushed() and all((tmp_path / f"child-{key}").exists() for key in keys), "all ends")

    # A busy machine may look like actors that block, for which there are more threads. Those that have no work end.
    await until(lambda: runner.threads < 100, "the end of the threads")
    for key in keys:
        await until(lambda key=key: runner.hear("ended", key), "all reports")


async def test_an_actor_that_blocks_its_thread_once_it_is_up_is_reported(runner: Runner, tmp_path: Path) -> None:
    keys = [str(number) for number in range(10)]
    for key in keys:
        runner.start(key, "BlocksLater")
        await until(lambda key=key: runner.hear("running", key), "the report of the actor")
    (tmp_path / "go").touch()
