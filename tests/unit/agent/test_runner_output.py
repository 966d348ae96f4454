"""What actors print: each line goes to the agent with the actor that has printed it, whatever happens meanwhile."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from processhub.agent.children.output import LINE_MAX
from processhub.agent.children.runnerprocess import _is_actors, _line
from processhub.agent.runner.output import CURRENT, ChildLines

_WAITS = 20.0


class Output:
    """A stream of a runner, and the agent's end of it."""

    def __init__(self) -> None:
        self.agents, self.runners = os.pipe()
        self.stream = ChildLines(self.runners, "stdout")

    def lines(self) -> list[bytes]:
        """All that was written; the runner's end is closed."""
        os.close(self.runners)
        with open(self.agents, "rb") as file:
            return file.read().splitlines()


@pytest.fixture
def output() -> Iterator[Output]:
    token = CURRENT.set(("a", 3))
    yield Output()
    CURRENT.reset(token)


@pytest.mark.parametrize("text", ["\U0001f419" * 2000, "\0" * 2000, "caf\udce9", '"\\\x1b[31m'])
def test_any_text_is_a_line_of_its_actor(output: Output, text: str) -> None:
    output.stream.write(f"{text}\n")

    (line,) = output.lines()
    assert len(line) <= LINE_MAX, "or the agent would write it in parts"
    assert _is_actors(line)
    assert _line.decode(line).message == text.replace("\udce9", "?")


class Noisy:
    """Prints when it is collected, as asyncio does for a failed task that nobody has awaited."""

    def __init__(self, stream: ChildLines) -> None:
        self.me, self.stream = self, stream

    def __del__(self) -> None:
        self.stream.write("collected\n")


def test_what_is_printed_while_a_line_is_written_keeps_nobody_waiting(output: Output) -> None:
    def write() -> None:
        before = gc.get_threshold()
        for objects in range(1, 50):  # after so many, garbage is looked for
            gc.set_threshold(0)
            Noisy(output.stream)
            gc.set_threshold(objects)
            output.stream.write("printed\n")
        gc.set_threshold(*before)
        gc.collect()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(_WAITS)

    assert not thread.is_alive()
    messages = [_line.decode(line).message for line in output.lines()]
    assert (messages.count("printed"), messages.count("collected")) == (49, 49)


def test_a_process_that_an_actor_forks_prints_though_another_actor_was_printing(output: Output) -> None:
    filled = 0
    os.set_blocking(output.runners, False)
    try:
        while True:
            filled += os.write(output.runners, b"\n" * 4096)
    except BlockingIOError:
        os.set_blocking(output.runners, True)
    blocked = threading.Thread(target=output.stream.write, args=("of a thread\n",), daemon=True)
    blocked.start()
    while output.stream._lock.acquire(blocking=False):
        output.stream._lock.release()

    child = os.fork()
    if child == 0:
        output.stream.write("of a process\n")
        os._exit(0)
    while filled > 0:
        filled -= len(os.read(output.agents, min(filled, 65536)))
    blocked.join(_WAITS)
    timer = threading.Timer(_WAITS, os.kill, (child, 9))
    timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()

    assert status == 0
    assert sorted(_line.decode(line).message for line in output.lines()) == ["of a process", "of a thread"]
