"""An agent's children as processes when descriptors run out or a child breaks its own files: no other is affected."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from memberparts import desired, supervisor_of, with_processes
from waiting import alive, until

from processhub.agent.children.child import Child
from processhub.agent.children.commands import missing_interpreter
from processhub.agent.children.execchild import _IN_FLIGHT
from processhub.agent.children.liveness import CommandProbe, LivenessProbe
from processhub.agent.children.pythonchild import PythonStarter
from processhub.agent.env import Environment
from processhub.agent.logs import LogSink
from processhub.agent.request import OutcomeUnknownError, Request
from processhub.agent.supervisor import Supervisor
from processhub.agent.watchdog import client as watchdogclient
from processhub.agent.watchdog.client import WatchdogClient, Watcher
from processhub.api.child import ActorLiveness, ChildEnvVar, EnvSource, Exec, Liveness, Python
from processhub.api.naming import id_hash
from processhub.api.reasons import Reason
from processhub.api.slice import Settings

ROOM = 3  # enough for one pipe but not for two


def free() -> int:
    """Return how many descriptors are left; they are closed again."""
    fds: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            fds.append(os.dup(0))
    for fd in fds:
        os.close(fd)
    return len(fds)


@contextlib.contextmanager
def hardly_any_descriptors(room: int = ROOM) -> Iterator[Callable[[], None]]:
    """Take all descriptors but ``room``; the function takes those that have become free since."""
    gc.collect()  # descriptors of earlier tests must not be closed meanwhile
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    taken: list[int] = []

    def take() -> None:
        taken.extend(os.dup(0) for _ in range(free() - room))

    take()
    try:
        yield take
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cgroup of the container as the next watchdog sees it: 256 MiB, of which hardly any is used."""
    folder = tmp_path / "cgroup"
    folder.mkdir()
    (folder / "memory.max").write_text(f"{256 * 2**20}\n")
    (folder / "memory.current").write_text("1000\n")
    begin = (
        f"import pathlib; from processhub.agent.watchdog import memory; memory.CGROUP = pathlib.Path({str(folder)!r})"
    )
    monkeypatch.setattr(watchdogclient, "_MAIN", watchdogclient._MAIN.replace("; main()", f"; {begin}; main()"))
    return folder


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[tuple[Supervisor, PythonStarter]]:
    async with with_processes(tmp_path) as processes:
        yield processes


@pytest.mark.parametrize(
    "workload", [Exec(command=("sleep", "1000")), Python(target="processhub.examples:Counter")], ids=["exec", "python"]
)
async def test_a_child_waits_for_descriptors_without_holding_any(
    agent: tuple[Supervisor, PythonStarter], workload: Exec | Python
) -> None:
    supervisor, pythons = agent

    with hardly_any_descriptors():
        supervisor.set_desired({"a": desired(workload)})
        pythons.warm()
        child = supervisor.children["a"]
        await until(lambda: child.history.restarts > 1, "another try")
        assert "Too many open files" in child.status.message
        assert free() >= ROOM

    await until(lambda: child.status.state == "Running", "its start")


async def test_what_holds_other_threads_delays_no_child_whose_files_are_read(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path
) -> None:
    """As the reads of children whose volume hangs."""
    supervisor, _ = agent
    (tmp_path / "secret").write_text("open sesame")
    file = ChildEnvVar(name="SECRET", value_from=EnvSource(file=str(tmp_path / "secret")))
    command = ("sh", "-c", 'printf "$SECRET" > got; exec sleep 1000')
    hold = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    held = asyncio.get_running_loop().run_in_executor(None, hold.wait)
    try:
        for child_id in ("a", "b"):
            supervisor.set_desired({child_id: desired(Exec(command=command, env=(file,), working_dir=str(tmp_path)))})
            child = supervisor.children[child_id]
            await until(lambda: child.status.state == "Running", "its start")  # noqa: B023
        await until(lambda: (tmp_path / "got").read_text() == "open sesame", "its variable")
    finally:
        hold.set()
        await held


class Orders:
    """The watchdog's end of the orders: it counts the starts, and starts nothing."""

    started = 0

    def spawn(self, *_: object, fds: dict[int, int], **__: object) -> str:
        self.started += 1
        for fd in fds.values():
            os.close(fd)
        return ""


def test_no_spare_runner_is_started_while_many_actors_are(tmp_path: Path) -> None:
    env = Environment("hub", "default", "h", "hub-0", "hub-0", "p", "127.0.0.1", "node", run_dir=tmp_path)
    workload, orders = Python(target="processhub.examples:Counter"), Orders()

    async def births() -> list[int]:
        log = os.open(os.devnull, os.O_WRONLY)
        sink = LogSink(log)
        pythons = PythonStarter(env, orders, sink, None)  # type: ignore[arg-type]
        supervisor = supervisor_of({Python: pythons})
        runners = []
        for at in range(6):
            supervisor.set_desired({f"{at}-{number}": desired(workload) for number in range(1000)})
            await asyncio.sleep(0.5)
            runners.append(orders.started)
        await asyncio.sleep(3)
        sink.close()
        os.close(log)
        return [*runners, orders.started]

    assert virtualtime.run(births()) == [1, 1, 1, 1, 1, 1, 2]


BLOCKS = """
import pathlib, time
import processhub

class Blocks(processhub.Actor):
    async def init(self, args):
        pathlib.Path(args["note"]).touch()
        time.sleep(1000)
"""


async def test_a_blocking_actor_is_killed_in_time_despite_repeated_stop_orders(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path
) -> None:
    supervisor, _ = agent
    supervisor.limits.stop_seconds, note = 2.0, tmp_path / "note"
    (tmp_path / "blocks.py").write_text(BLOCKS)
    workload = Python(target="blocks:Blocks", args={"note": str(note)})
    supervisor.set_desired({"a": desired(workload)})
    await until(note.exists, "the actor")
    supervisor._permit.close()  # the agent ends
    epochs = itertools.count(2)

    def ended_though_told_again() -> bool:
        supervisor.set_desired({"a": desired(workload, next(epochs))})
        return not supervisor.children["a"].alive

    await until(ended_though_told_again, "its end")


NEIGHBOURS = """
import pathlib, time
import processhub

class Blocks(processhub.Actor):
    async def handle_cast(self, message):
        pathlib.Path(message).touch()
        time.sleep(1000)

class Calm(processhub.Actor):
    pass
"""


async def test_the_restarts_of_an_actor_whose_neighbour_blocks_are_not_its_own(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path
) -> None:
    supervisor, _ = agent
    supervisor.limits.stop_seconds, supervisor.limits.restarts_max = 0.2, 1
    (tmp_path / "neighbours.py").write_text(NEIGHBOURS)
    supervisor.set_desired({"calm": desired(Python(target="neighbours:Calm"))})
    calm = supervisor.children["calm"]

    for number in range(1, 4):
        note = tmp_path / f"blocked-{number}"
        supervisor.set_desired({f"{number}": desired(Python(target="neighbours:Blocks"))})
        blocks = supervisor.children[f"{number}"]
        await until(lambda: {calm.status.state, blocks.status.state} == {"Running"}, "both")  # noqa: B023
        assert blocks.run is not None
        asked = blocks.run.request(Request("cast", f'"{note}"'.encode()))
        await until(note.exists, "that it blocks")
        supervisor.set_desired({f"{number}": None})
        await until(lambda: calm.history.restarts == number, "that its runner is killed")  # noqa: B023
        with pytest.raises(OutcomeUnknownError, match="killed by SIGKILL"):
            await asked

    await until(lambda: calm.status.state == "Running", "its restart")
    assert calm.history.backoff.next_delay() == 0.0, "the first of its own is immediate"


# There is a file in place of its folder.
BREAKS_ITS_FILES = 'folder=$(dirname "$HUB_ROLE_FILE"); rm -r "$folder"; touch "$folder"; exec sleep 1000'


async def broken(supervisor: Supervisor, folder: Path) -> Child:
    """A child whose files can't be written any more."""
    supervisor.set_desired({"a": desired(Exec(command=("sh", "-c", BREAKS_ITS_FILES)), role="Passive")})
    child = supervisor.children["a"]
    await until(lambda: child.status.state == "Running", "its start")
    await until((folder / id_hash("a")).is_file, "the file in place of its folder")
    return child


async def test_a_child_that_cannot_get_its_new_role_does_not_keep_the_old_one(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path
) -> None:
    child = await broken(agent[0], tmp_path)

    agent[0].set_desired({"a": desired(child.started_for.workload, epoch=2, run=1)})

    await until(lambda: child.history.restarts > 0, "a start that fails too")
    assert "File exists" in child.status.message


async def test_a_child_whose_state_cannot_be_kept_ends_nevertheless(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path
) -> None:
    child = await broken(agent[0], tmp_path)
    agent[0]._permit.close()  # the agent ends

    child.quiesce(tmp_path / "state", ask=False)

    await until(lambda: not child.alive, "its end")


# Leaves a state when it has none, and is killed by its stop signal when it was started with one.
LEAVES_ONCE = """
if [ -s "$HUB_HANDOVER_FILE" ]; then
    if [ "$1" = reads ]; then cat "$HUB_HANDOVER_FILE" >> found; else echo unread >> found; fi
else
    echo none >> found
    trap 'echo state > "$HUB_HANDOVER_FILE"; exit' TERM
fi
touch "up.$HUB_EPOCH"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(("how", "found"), [("reads", "none"), ("is busy", "unread")])
async def test_a_program_that_leaves_no_state_does_not_leave_the_one_that_it_was_started_with(
    tmp_path: Path, how: str, found: str
) -> None:
    workload = Exec(command=("sh", "-c", LEAVES_ONCE, "sh", how), working_dir=str(tmp_path))
    async with with_processes(tmp_path, keeps_states=True) as (supervisor, _):
        supervisor.apply(Settings(handover_seconds=20))
        for epoch in (1, 2, 3):
            supervisor.set_desired({"a": desired(workload, epoch)})
            await until((tmp_path / f"up.{epoch}").exists, "its next run")
            child = supervisor.children["a"]
            await until(lambda: child.status.state == "Running", "that the agent knows it")  # noqa: B023

    assert (tmp_path / "found").read_text().split() == ["none", "state" if how == "reads" else "unread", found]


@pytest.mark.parametrize(
    "workload", [Exec(command=("sleep", "1000")), Python(target="processhub.examples:Counter")], ids=["exec", "python"]
)
async def test_a_child_that_is_killed_for_its_memory_reports_it(
    cgroup: Path, agent: tuple[Supervisor, PythonStarter], workload: Exec | Python
) -> None:
    supervisor = agent[0]
    supervisor.set_desired({"a": desired(workload, restart_policy="Temporary")})
    child = supervisor.children["a"]
    await until(lambda: child.status.state == "Running", "it runs")

    (cgroup / "memory.current").write_text(f"{255 * 2**20}\n")

    await until(lambda: child.status.state == "Stopped", "it is ended")
    assert child.status.reason == Reason.OUT_OF_MEMORY
    assert "more than any other child, when hardly anything was left of the member's 256 MiB" in child.status.message


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"#!/bin/sh\r\nexit 0\r\n", "ends with a carriage return: save the file with Unix line ends (LF)"),
        (b"#!/no/such/shell -e\nexit 0\n", "is there, but its interpreter /no/such/shell is not"),
    ],
    ids=["CRLF", "no interpreter"],
)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "in its working directory"])
async def test_a_script_that_cannot_run_reports_what_is_missing(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path, content: bytes, hint: str, relative: bool
) -> None:
    script = tmp_path / "script"
    script.write_bytes(content)
    script.chmod(0o755)
    supervisor, _ = agent

    command = "./script" if relative else str(script)
    supervisor.set_desired({"a": desired(Exec(command=(command,), working_dir=str(tmp_path)))})
    child = supervisor.children["a"]
    await until(lambda: child.status.message, "why it does not start")

    assert child.status.reason == "CommandNotFound"
    assert f"command {command}: No such file or directory (ENOENT); " in child.status.message
    assert hint in child.status.message


async def test_a_missing_working_dir_is_not_reported_as_a_missing_command(
    agent: tuple[Supervisor, PythonStarter],
) -> None:
    supervisor, _ = agent
    supervisor.set_desired({"a": desired(Exec(command=("sleep", "1"), working_dir="/nowhere"))})
    child = supervisor.children["a"]

    await until(lambda: child.status.state == "Failed" and child.history.restarts > 1, "its failure")

    assert child.status.reason == "WorkingDirNotFound"
    assert child.status.message.startswith("workingDir /nowhere: No such file or directory (ENOENT); BackOff: restart ")


def test_a_program_of_another_c_library_is_distinguished_from_a_missing_one(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)

    assert "its loader is not" in missing_interpreter("program", errno.ENOENT, "", {"PATH": str(tmp_path)})
    assert missing_interpreter("program", errno.EACCES, "", {"PATH": str(tmp_path)}) == ""
    assert missing_interpreter("other", errno.ENOENT, "", {"PATH": str(tmp_path)}) == ""


# Answers GET on its socket until the file exists.
HANGS = """
import os, signal, socket
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as one that hangs
server = socket.socket(socket.AF_UNIX)
server.bind(os.environ["HUB_SOCKET"])
server.listen()
while True:
    caller, _ = server.accept()
    caller.recv(65536)
    Path("asked").touch()
    status = "500 No" if Path("broken").exists() else "204 No Content"
    caller.sendall(f"HTTP/1.1 {status}\\r\\nContent-Length: 0\\r\\n\\r\\n".encode())
    caller.close()
"""


def probed(tmp_path: Path, **liveness: Any) -> Exec:
    """A program that hangs once the file ``broken`` exists, with a probe each second."""
    command = (sys.executable, "-c", HANGS)
    return Exec(
        command=command,
        working_dir=str(tmp_path),
        env=(ChildEnvVar(name="PATH", value=os.environ["PATH"]),),
        liveness=Liveness(period_seconds=1, failure_threshold=2, **liveness),
    )


@pytest.mark.parametrize(
    ("liveness", "trouble"),
    [
        ({"http": "/healthz"}, "GET /healthz was answered 500"),
        ({"command": ("sh", "-c", "touch asked; ! test -e broken")}, "its command ended with 1"),
    ],
    ids=["http", "command"],
)
async def test_a_hanging_program_is_restarted_with_a_reason(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path, liveness: dict[str, Any], trouble: str
) -> None:
    supervisor, _ = agent
    supervisor.limits.stop_seconds = 0.5
    supervisor.set_desired({"a": desired(probed(tmp_path, **liveness))})
    child = supervisor.children["a"]
    await until(lambda: child.status.state == "Running", "its start")
    first = child.status.pid
    await until(lambda: (tmp_path / "asked").exists(), "probes that succeed")
    assert (child.status.pid, child.history.restarts) == (first, 0)

    (tmp_path / "broken").touch()
    await until(lambda: child.status.state == "Failed", "that it hangs")
    failure = f"its liveness probe failed 2 times in a row: {trouble}"
    assert child.status.message == f"{failure}; it is being stopped"
    (tmp_path / "broken").unlink()

    await until(lambda: child.status.state == "Running" and child.status.pid != first, "its restart")
    assert (child.history.restarts, child.status.last_exit) == (1, failure)


async def test_a_stopped_process_does_not_count_as_alive(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path
) -> None:
    supervisor, _ = agent
    supervisor.limits.stop_seconds = 0.5
    supervisor.set_desired({"a": desired(probed(tmp_path, http="/healthz"))})
    child = supervisor.children["a"]
    await until(lambda: child.status.state == "Running", "its start")
    first = child.status.pid

    os.kill(first, signal.SIGSTOP)

    await until(lambda: child.status.state == "Running" and child.status.pid != first, "its restart")
    assert child.history.restarts == 1


async def test_a_probe_that_does_not_end_fails_and_is_killed(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path
) -> None:
    supervisor, _ = agent
    command = ("sh", "-c", "echo $$ > probe.new; mv probe.new probe; exec sleep 1000")
    supervisor.set_desired({"a": desired(probed(tmp_path, command=command))})
    child = supervisor.children["a"]

    await until(lambda: "its command has not ended within 1 s" in child.status.message, "that it hangs")

    last = int((tmp_path / "probe").read_text())
    await until(lambda: not alive(last), "the end of the probe")


@pytest.mark.parametrize(
    ("liveness", "room"),
    [
        ({"http": "/healthz"}, 0),
        ({"command": ("sh", "-c", "touch asked; ! test -e broken")}, 0),
        ({"command": ("sh", "-c", "touch asked; ! test -e broken")}, 1),
    ],
    ids=["http", "command", "command with room for one"],
)
async def test_a_probe_that_cannot_be_made_says_nothing_of_the_child_and_the_next_one_is(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path, liveness: dict[str, Any], room: int
) -> None:
    supervisor, _ = agent
    supervisor.limits.stop_seconds = 0.5
    supervisor.set_desired({"a": desired(probed(tmp_path, **liveness))})
    child = supervisor.children["a"]
    await until(lambda: (tmp_path / "asked").exists(), "the first probe")

    with hardly_any_descriptors(room) as take:
        for _ in range(70):
            take()  # the first probe had one
            await asyncio.sleep(0.05)
    assert (child.status.state, child.history.restarts) == ("Running", 0)

    (tmp_path / "broken").touch()
    await until(lambda: child.status.state == "Failed", "that it hangs")


class NoProcess:
    """The watchdog's end of the orders, in a container that has as many processes as it may."""

    asked = 0

    def spawn(self, watcher: CommandProbe, *_: object, fds: dict[int, int], **__: object) -> str:
        self.asked += 1
        for fd in fds.values():
            os.close(fd)
        asyncio.get_running_loop().call_soon(watcher.failed, "fork", errno.EAGAIN, os.strerror(errno.EAGAIN))
        return ""


def test_a_probe_for_which_no_process_can_be_made_says_nothing_of_the_child() -> None:
    reports: list[str] = []
    orders = NoProcess()

    async def probes() -> None:
        liveness = Liveness(command=("true",), failure_threshold=1)
        probe = LivenessProbe(liveness, "", orders, {}, "", reports.append)  # type: ignore[arg-type]
        await asyncio.sleep(60)
        probe.end()

    virtualtime.run(probes())
    assert (orders.asked, reports) == (5, [])


class Behind:
    """A watchdog that is too busy to report starts."""

    def __init__(self, watchdog: WatchdogClient) -> None:
        self._watchdog = watchdog

    def spawn(self, watcher: Watcher, *args: Any, **more: Any) -> str:
        def unheard(pid: int) -> None: ...

        watcher.started = unheard  # type: ignore[method-assign]
        return self._watchdog.spawn(watcher, *args, **more)

    def stop(self, key: str, grace: float) -> None:
        self._watchdog.stop(key, grace)


async def test_an_actor_has_its_pid_though_its_runner_is_up_before_the_watchdog_says_so(
    agent: tuple[Supervisor, PythonStarter],
) -> None:
    supervisor, pythons = agent
    pythons._watchdog = Behind(pythons._watchdog)  # type: ignore[assignment]
    supervisor.set_desired({"a": desired(Python(target="processhub.examples:Counter"))})
    child = supervisor.children["a"]

    await until(lambda: child.status.state == "Running", "its start")

    assert alive(child.status.pid)


SLOW_HANDLER = """
import asyncio, time
import processhub

class Slow(processhub.Actor):
    async def handle_call(self, request):
        if request == "block":
            time.sleep(1000)
        await asyncio.sleep(request)
"""


@pytest.mark.parametrize("request_", [b"1000", b'"block"'], ids=["waits", "blocks"])
async def test_an_actor_with_a_hanging_handler_is_restarted(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path, request_: bytes
) -> None:
    (tmp_path / "slow.py").write_text(SLOW_HANDLER)
    supervisor, _ = agent
    supervisor.limits.stop_seconds = 0.5
    supervisor.set_desired({"a": desired(Python(target="slow:Slow", liveness=ActorLiveness(handler_seconds=1)))})
    child = supervisor.children["a"]
    await until(lambda: child.status.state == "Running", "its start")
    assert child.run is not None
    assert (await child.run.request(Request("call", b"0.1"))).status == 200

    with pytest.raises(OutcomeUnknownError):
        await child.run.request(Request("call", request_))

    await until(lambda: child.status.state == "Running" and child.history.restarts == 1, "its restart")
    assert child.status.last_exit == "it has handled one message for 1 s (liveness.handlerSeconds)"


CRASHES = """
import asyncio, time
import processhub

class Crashes(processhub.Actor):
    async def handle_call(self, request):
        if request == "thread":
            self.job = asyncio.create_task(asyncio.to_thread(time.sleep, 1000))
            await asyncio.sleep(0.1)
        elif request == "task":
            self.job = asyncio.create_task(self.block_at_its_end())
            await asyncio.sleep(0.1)
        elif request == "handler":
            self.spawn(self.fail())
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    pass
        await self.fail()

    async def fail(self):
        raise ValueError("no more")

    async def block_at_its_end(self):
        try:
            await asyncio.sleep(1000)
        finally:
            time.sleep(1000)
"""


@pytest.mark.parametrize("request_", ["thread", "task", "handler"])
async def test_an_actor_that_does_not_end_after_a_crash_is_restarted(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path, request_: str
) -> None:
    (tmp_path / "crashes.py").write_text(CRASHES)
    supervisor, _ = agent
    supervisor.limits.stop_seconds = 0.5
    supervisor.set_desired({"a": desired(Python(target="crashes:Crashes"))})
    child = supervisor.children["a"]
    await until(lambda: child.status.state == "Running", "its start")
    assert child.run is not None

    with pytest.raises(OutcomeUnknownError):
        await asyncio.wait_for(child.run.request(Request("call", f'"{request_}"'.encode())), 20)

    await until(lambda: child.status.state == "Running" and child.history.restarts == 1, "its restart")
    assert child.status.last_exit == "ValueError: no more"


ODD_ANSWERS = """
import processhub

class Odd(processhub.Actor):
    async def handle_call(self, request):
        if request == "ask":
            return str(await self.hub.call("b", float("inf")))
        return {"nan": [float("nan")], "half": "\\ud800", "key": {(1, 2): 3}, "fine": "\\U0001f419"}[request]
"""


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (b'"nan"', "it has a number that is NaN or infinite; use null or a text instead"),
        (b'"half"', "its text has U+D800, half of a surrogate pair, which is no character"),
        (b'"key"', "keys must be str, int, float, bool or None, not tuple"),
    ],
    ids=["nan", "half", "key"],
)
async def test_a_reply_that_is_not_json_is_an_error_and_no_crash(
    agent: tuple[Supervisor, PythonStarter], tmp_path: Path, request_: bytes, why: str
) -> None:
    (tmp_path / "odd.py").write_text(ODD_ANSWERS)
    supervisor, _ = agent
    supervisor.set_desired({"a": desired(Python(target="odd:Odd"))})
    child = supervisor.children["a"]
    await until(lambda: child.status.state == "Running", "its start")
    assert child.run is not None

    answer = await child.run.request(Request("call", request_))

    assert answer.status == 500
    assert answer.body.decode() == f"the answer of handle_call does not fit JSON: {why}"
    fine = await child.run.request(Request("call", b'"fine"'))
    assert (fine.status, fine.body) == (200, '"\U0001f419"'.encode())
    with pytest.raises(OutcomeUnknownError, match="NotJsonError: it has a number that is NaN or infinite"):
        await child.run.request(Request("call", b'"ask"'))


@pytest.mark.parametrize("stopped", [False, True], ids=["time over", "stopped"])
async def test_starts_without_an_outcome_leave_room_for_others_once_their_time_is_over(
    agent: tuple[Supervisor, PythonStarter], *, stopped: bool
) -> None:
    """As of programs on a volume that hangs, which not even SIGKILL ends."""
    supervisor, pythons = agent
    supervisor.limits.start_seconds = 60.0 if stopped else 0.2
    supervisor.limits.stop_seconds = 0.2
    watchdog = pythons._watchdog.pid
    os.kill(watchdog, signal.SIGSTOP)
    try:
        hang = [f"hangs-{number}" for number in range(_IN_FLIGHT)]
        for child_id in [*hang, "last"]:
            supervisor.set_desired({child_id: desired(Exec(command=("sleep", "1000")))})
        last = supervisor.children["last"]
        await asyncio.sleep(0)  # the first starts are begun
        if stopped:
            supervisor.set_desired(dict.fromkeys(hang))
            supervisor.limits.start_seconds = 0.2

        await until(lambda: last.status.reason == Reason.START_TIMEOUT, "its turn has come")
    finally:
        os.kill(watchdog, signal.SIGCONT)
