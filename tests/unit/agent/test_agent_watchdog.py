"""The watchdog as a process, with the test in the role of the agent: no process of a tree outlives its end."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from waiting import ENDS_WITH_US, alive, until

from processhub.agent.frames import Inbox, Message, Outbox
from processhub.agent.watchdog.client import Feed
from processhub.agent.watchdog.linux import boottime
from processhub.agent.watchdog.memory import MemoryGuard

WATCHDOG = "from processhub.agent.watchdog.main import main; main()"
# Each child of this watchdog ends after the watchdog has listed it and before it is looked at: the moment in which its
# own children come to the watchdog and are not on the list.
ENDS_WHEN_LOOKED_AT = """
import os, signal
from processhub.agent.watchdog import linux
from processhub.agent.watchdog import main

look = linux._stat

def end_and_look(pid):
    if look(pid) in [(state, os.getpid()) for state in "RSD"]:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return look(pid)

linux._stat = end_and_look
main.main()
"""
# Each fork of this one is killed before it has become the program, as by the kernel where memory is short.
KILLED_AS_A_FORK = """
import os, signal
from processhub.agent.watchdog import launch
from processhub.agent.watchdog import main
launch._arrange = lambda fds: os.kill(os.getpid(), signal.SIGKILL)
main.main()
"""
# Each fork of this one executes the program only when the test allows it, and notes that it waits.
WAITS_AS_A_FORK = """
import os, time
from processhub.agent.watchdog import launch
from processhub.agent.watchdog import main

def wait(signum):
    open("note", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)

launch.set_death_signal = wait
main.main()
"""
# A daemon whose first thread has ended while another works: in /proc it looks like a zombie.
HEADLESS = f"""
setsid {sys.executable} -c '
import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
open("note.new", "w").write(str(os.getpid()))
os.rename("note.new", "note")
ctypes.CDLL(None).pthread_exit(None)
' &
while ! test -e note; do sleep 0.01; done
"""
# A main process, below it one in a session of its own, below that another: only the watchdog can find the last one.
TREE = """
setsid sh -c 'trap "" TERM; setsid sh -c "echo \\$\\$ > note.new; mv note.new note; exec sleep 1000" & wait' &
while ! test -e note; do sleep 0.01; done
"""


class Agent:
    """The agent's end of the watchdog's socket."""

    def __init__(self, folder: Path, watchdog: str, run: Sequence[str] = ()) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        feed, self._feed = os.pipe()
        self.feed = Feed(self._feed)
        self.process = subprocess.Popen(
            [*ENDS_WITH_US, *run, sys.executable, "-c", watchdog, str(its.fileno()), str(feed)],
            pass_fds=(its.fileno(), feed),
            stdin=subprocess.PIPE,
            cwd=folder,
        )
        its.close()
        os.close(feed)
        mine.setblocking(False)
        self.socket, self._folder, self._heard = mine, folder, list[Message]()
        self._inbox, self._outbox = Inbox(mine), Outbox(mine)

    def spawn(self, script: str, key: str = "1", *, main_alone: bool = False) -> None:
        """Let a shell run the script in the test's folder."""
        self.execute(["sh", "-c", script], key, main_alone=main_alone)

    def execute(self, argv: list[str], key: str = "1", *, main_alone: bool = False, **env: str) -> None:
        """Start a program in the test's folder, with these variables beside the test's own."""
        order: dict[str, object] = {"op": "spawn", "key": key, "argv": argv, "env": {**os.environ, **env}}
        order["main_alone"] = main_alone
        self._outbox.send({**order, "cwd": str(self._folder), "stop": int(signal.SIGTERM), "fds": []})

    def stop(self, grace: float = 0) -> None:
        """Stop the first process that was spawned."""
        self._outbox.send({"op": "stop", "key": "1", "grace": grace})

    def hear(self, event: str, key: str = "1") -> Message | None:
        """Return the watchdog's message of this name, if it has arrived."""
        self._heard += self._inbox.read()
        return next((said for said in self._heard if (said["ev"], said["key"]) == (event, key)), None)

    def await_end(self, key: str) -> None:
        """Wait until the process of this key is reported as ended, and not a moment longer."""
        while not self.hear("exited", key):
            readable, _, _ = select.select([self.socket], [], [], 40)
            assert readable, f"no word of the end of {key}"

    def ends(self) -> list[str]:
        """Return the keys of the processes that are reported as ended, in order."""
        return [said["key"] for said in self._heard if said["ev"] == "exited"]

    def end(self) -> None:
        self.socket.close()
        os.close(self._feed)
        self.process.wait(40)


@pytest.fixture(params=[WATCHDOG], ids=["watchdog"])
def agent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    agent = Agent(tmp_path, request.param)
    yield agent
    agent.end()


def is_there(pid: int) -> bool:
    """Return whether there is such a process, even if its first thread has ended."""
    return Path(f"/proc/{pid}").exists()


def only_child(pid: int) -> int:
    """Return the pid of the one child of the process."""
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


async def tree(folder: Path) -> int:
    """Return the pid of the process that is farthest from the watchdog, once it runs."""
    note = folder / "note"
    await until(note.exists, "the last of the tree")
    return int(note.read_text())


def of(watchdog: str) -> pytest.MarkDecorator:
    """The test's watchdog is this program."""
    return pytest.mark.parametrize("agent", [watchdog], ids=[""], indirect=True)


@of(ENDS_WHEN_LOOKED_AT)
async def test_a_process_counts_as_ended_when_its_whole_tree_has_ended(agent: Agent, tmp_path: Path) -> None:
    agent.spawn(TREE)
    last = await tree(tmp_path)

    await until(lambda: agent.hear("exited"), "the watchdog's word that it has exited")

    assert not alive(last)


@of(ENDS_WHEN_LOOKED_AT)
async def test_the_end_of_the_watchdog_leaves_no_process(agent: Agent, tmp_path: Path) -> None:
    agent.spawn(f"{TREE} wait")
    last = await tree(tmp_path)

    agent.socket.close()

    await until(lambda: agent.process.poll() is not None, "the watchdog's end")
    assert not alive(last)


async def test_a_daemon_during_an_exec_is_not_taken_for_a_stray_process(agent: Agent, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.write_text(f"#!/bin/sh\nexec {again}\n")
    again.chmod(0o700)
    agent.spawn(f"(setsid sh -c 'echo $$ > note.new; mv note.new note; exec {again}' &); sleep 1000")
    daemon = await tree(tmp_path)

    for number in range(200):
        agent.spawn("exit 0", f"other-{number}")
        agent.await_end(f"other-{number}")
        assert alive(daemon)


async def test_a_process_whose_first_thread_has_ended_does_not_outlive_its_child(agent: Agent, tmp_path: Path) -> None:
    agent.spawn(HEADLESS)
    daemon = await tree(tmp_path)

    await until(lambda: agent.hear("exited"), "the watchdog's word that it has exited")

    assert not is_there(daemon)


async def test_such_a_process_of_a_running_child_delays_no_other_childs_end(agent: Agent, tmp_path: Path) -> None:
    agent.spawn(f"({HEADLESS}); exec sleep 1000")
    daemon = await tree(tmp_path)

    agent.spawn("exit 3", key="2")

    assert (await until(lambda: agent.hear("exited", "2"), "the other's end"))["status"] == 3
    assert is_there(daemon)


@of(KILLED_AS_A_FORK)
async def test_a_fork_killed_before_it_executed_its_program_was_not_started(agent: Agent) -> None:
    agent.spawn("exit 3")

    exited = await until(lambda: agent.hear("exited"), "its end")

    assert exited["status"] == -signal.SIGKILL
    assert agent.hear("started") is None


async def test_a_program_that_ends_at_once_was_started(agent: Agent) -> None:
    agent.spawn("exit 3")

    exited = await until(lambda: agent.hear("exited"), "its end")

    assert exited["status"] == 3
    assert agent.hear("started") is not None


@contextlib.contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """Let this process have no more descriptors than it has, for some time."""
    used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
    yield
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_watchdog_without_descriptors_ends_no_child_and_reports_ends_later(agent: Agent) -> None:
    agent.spawn("exec sleep 0.2")
    agent.spawn("exec sleep 1000", key="2")
    await until(lambda: agent.hear("started") and agent.hear("started", "2"), "the processes")

    with no_descriptors(agent.process.pid):
        ended = agent.hear("started")
        assert ended is not None
        await until(lambda: not alive(ended["pid"]), "the end of the first one")
        agent.spawn("exec sleep 1000", key="3")
        await until(lambda: agent.hear("failed", "3"), "the refusal of a third one")
        assert not agent.hear("exited")

    agent.await_end("1")
    assert not agent.hear("exited", "2")


async def test_a_watchdog_without_descriptors_leaves_no_process_when_it_ends(agent: Agent, tmp_path: Path) -> None:
    agent.spawn(f"{TREE} wait")
    last = await tree(tmp_path)

    with no_descriptors(agent.process.pid):
        agent.socket.close()
        await until(lambda: agent.process.poll() is not None, "the watchdog's end")

    assert not alive(last)


async def test_a_child_does_not_outlive_a_watchdog_that_is_killed(agent: Agent) -> None:
    agent.spawn("trap '' TERM; while :; do sleep 0.01; done")
    pid = (await until(lambda: agent.hear("started"), "the child"))["pid"]

    agent.process.kill()

    await until(lambda: not alive(pid), "the child's end, which nobody but the kernel brings about")


@of(WAITS_AS_A_FORK)
async def test_a_fork_whose_watchdog_was_killed_executes_nothing(agent: Agent, tmp_path: Path) -> None:
    agent.spawn("touch ran")
    await until((tmp_path / "note").exists, "the fork")
    fork = only_child(agent.process.pid)

    agent.process.kill()
    agent.process.wait()
    (tmp_path / "go").touch()

    await until(lambda: not alive(fork), "the fork's end")
    assert not (tmp_path / "ran").exists()


STARTED_IN_THE_BACKGROUND = ["sh", "-c", 'trap "" HUP INT QUIT USR1; exec "$@"', "sh"]


@pytest.fixture(params=[[], STARTED_IN_THE_BACKGROUND], ids=["in the foreground", "in the background"])
def started_agent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """An agent, and one that a shell has started in the background, and so ignores signals."""
    agent = Agent(tmp_path, WATCHDOG, request.param)
    yield agent
    agent.end()


async def test_a_program_inherits_no_input_and_no_changed_signal(started_agent: Agent, tmp_path: Path) -> None:
    started_agent.spawn(
        "readlink /proc/self/fd/0 >new; grep -E 'Sig(Blk|Ign)' /proc/self/status >>new; mv new note; sleep 1000"
    )
    note = tmp_path / "note"
    await until(note.exists, "what it inherited")

    source, _, blocked, _, ignored = note.read_text().split()
    assert (source, int(blocked, 16)) == ("/dev/null", 0)
    # The signals 32 and 33 are the C library's own: posix_spawn, by which make may have started this, ignores them.
    assert not int(ignored, 16) & ~(0b11 << 31)


@pytest.mark.parametrize(
    ("modes", "status", "number"),
    [({"b": 0o700}, 0, None), ({"a": 0o600, "b": 0o700}, 0, None), ({"a": 0o600}, None, errno.EACCES),
     ({}, None, errno.ENOENT)],
    ids=["found", "found behind one that can't be executed", "not executable", "not found"],
)  # fmt: skip
async def test_a_program_is_looked_for_in_the_folders_of_its_own_path(
    agent: Agent, tmp_path: Path, modes: dict[str, int], status: int | None, number: int | None
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for folder, mode in modes.items():
        (tmp_path / folder / "program").write_text("#!/bin/sh\n")
        (tmp_path / folder / "program").chmod(mode)

    agent.execute(["program"], PATH=f"a:{tmp_path}/b:/nowhere")

    outcome = await until(lambda: agent.hear("exited") or agent.hear("failed"), "the outcome")
    assert (outcome.get("status"), outcome.get("errno")) == (status, number)


@pytest.mark.parametrize("argv", [[], ["true", "a\0b"]], ids=["no program", "a NUL character"])
async def test_what_no_process_can_have_is_reported_and_affects_no_other(agent: Agent, argv: list[str]) -> None:
    agent.execute(argv)
    agent.spawn("exit 3", key="2")

    assert (await until(lambda: agent.hear("failed"), "the report"))["what"] == "value"
    assert (await until(lambda: agent.hear("exited", "2"), "the other's end"))["status"] == 3


async def test_a_child_that_fencing_ordered_to_stop_ends_even_if_the_lease_is_renewed(
    agent: Agent, tmp_path: Path
) -> None:
    agent.spawn("trap 'touch note' TERM; touch ready; while :; do sleep 0.01; done")
    await until((tmp_path / "ready").exists, "the child")

    agent.feed.set(boottime(), boottime() + 4)
    await until((tmp_path / "note").exists, "the stop signal")
    agent.feed.set(boottime() + 1000, boottime() + 2000)

    exited = await until(lambda: agent.hear("exited"), "its end")
    assert (exited["status"], exited["fenced"]) == (-signal.SIGKILL, True)


@of(WAITS_AS_A_FORK)
async def test_the_fences_stop_signal_is_not_lost_on_a_fork(agent: Agent, tmp_path: Path) -> None:
    agent.spawn("exec sleep 1000")
    await until((tmp_path / "note").exists, "the fork")

    agent.feed.set(boottime(), boottime() + 1000)
    agent.spawn("exit 0", key="2")
    await until(lambda: agent.hear("failed", "2"), "a start that is refused: the fence is closed")
    (tmp_path / "go").touch()

    exited = await until(lambda: agent.hear("exited"), "its end")
    assert (exited["status"], exited["fenced"]) == (-signal.SIGTERM, True)


@pytest.mark.parametrize("backlog", [0, 1000])
async def test_after_a_pause_of_the_watchdog_alone_the_newest_deadline_counts(agent: Agent, backlog: int) -> None:
    agent.spawn("exec sleep 1000")
    await until(lambda: agent.hear("started"), "the child")
    stale = (boottime() + 4, boottime() + 4)
    agent.feed.set(*stale)
    agent.spawn("exit 0", key="before")
    await until(lambda: agent.hear("exited", "before"), "an end that comes after the watchdog has read that")
    agent.process.send_signal(signal.SIGSTOP)
    await until(lambda: boottime() > stale[1], "the time at which it was to be killed")

    agent.spawn("exit 3", key="2")  # waits for the watchdog before the newest deadline
    for _ in range(backlog):
        agent.feed.set(*stale)
    agent.feed.set(boottime() + 1000, boottime() + 2000)
    agent.process.send_signal(signal.SIGCONT)

    ended = await until(lambda: agent.hear("exited", "2") or agent.hear("failed", "2"), "the other's end")
    assert ended.get("status") == 3
    assert agent.hear("exited") is None
    agent.stop()
    assert not (await until(lambda: agent.hear("exited"), "its end"))["fenced"]


async def test_orders_that_arrive_together_are_carried_out_in_their_order(agent: Agent) -> None:
    agent.spawn("exit 0", key="before")
    await until(lambda: agent.hear("exited", "before"), "an end that comes after the watchdog has come up")
    agent.process.send_signal(signal.SIGSTOP)
    agent.spawn("exec sleep 1000")
    agent.spawn("exit 2", key="2")
    agent.stop()
    agent.spawn("exit 3", key="3")

    agent.process.send_signal(signal.SIGCONT)

    ends = [await until(lambda key=key: agent.hear("exited", key), "its end") for key in ("1", "2", "3")]
    assert [end["status"] for end in ends] == [-signal.SIGKILL, 2, 3]


# As in a container with the capabilities SETUID and SETGID: it can't signal processes that changed their user.
WITHOUT_KILL = "setpriv --bounding-set=-kill --inh-caps=-kill --"
NOBODY = "setpriv --reuid 65534 --clear-groups --"
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Agent]:
    """The agent of a watchdog that may not signal processes of other users."""
    agent = Agent(tmp_path, WATCHDOG, WITHOUT_KILL.split())
    yield agent
    agent.end()


@needs_root
async def test_a_child_that_changes_its_user_affects_no_other_child(limited: Agent, tmp_path: Path) -> None:
    limited.spawn("exec sleep 1000")
    limited.spawn(f"exec {NOBODY} sh -c 'sleep 0.2; exit 3'", key="2")

    ended = await until(lambda: limited.hear("exited", "2"), "the end of the one that became another user")

    assert (ended["status"], ended["fenced"]) == (3, False)
    limited.stop()
    assert (await until(lambda: limited.hear("exited"), "the end of the other"))["status"] == -signal.SIGKILL


@needs_root
async def test_a_child_that_cannot_be_ended_is_reported_and_delays_no_other(limited: Agent, tmp_path: Path) -> None:
    limited.spawn(f"exec {NOBODY} sleep 1000")
    started = await until(lambda: limited.hear("started"), "the child")
    await until(lambda: Path(f"/proc/{started['pid']}").stat().st_uid == 65534, "its change of user")

    limited.stop()

    stuck = await until(lambda: limited.hear("stuck"), "the report")
    assert (stuck["pid"], stuck["user"]) == (started["pid"], 65534)
    limited.spawn("exit 4", key="2")
    assert (await until(lambda: limited.hear("exited", "2"), "another's end"))["status"] == 4
    assert limited.hear("exited") is None, "it still runs"
    os.kill(started["pid"], signal.SIGKILL)
    assert (await until(lambda: limited.hear("exited"), "its end"))["status"] == -signal.SIGKILL


@needs_root
@pytest.mark.parametrize("session", ["setsid", ""])
async def test_processes_that_a_child_leaves_delay_only_its_own_end(
    limited: Agent, tmp_path: Path, session: str
) -> None:
    note = f"{session} {NOBODY} sh -c 'echo $$ >&3; exec 3>&-; exec sleep 1000' 3>note.new & "
    limited.spawn(f"{note} while ! test -s note.new; do sleep 0.01; done; mv note.new note")
    left = await tree(tmp_path)

    assert (await until(lambda: limited.hear("stuck"), "the report"))["pid"] == left
    limited.spawn("exit 4", key="2")
    assert (await until(lambda: limited.hear("exited", "2"), "the end of one that began later"))["status"] == 4
    assert limited.hear("exited") is None
    os.kill(left, signal.SIGKILL)
    await until(lambda: limited.hear("exited"), "its end")


@needs_root
async def test_the_container_ends_if_fencing_cannot_end_a_child(limited: Agent, tmp_path: Path) -> None:
    limited.spawn(f"exec {NOBODY} sleep 1000")
    pid = (await until(lambda: limited.hear("started"), "the child"))["pid"]
    await until(lambda: Path(f"/proc/{pid}").stat().st_uid == 65534, "its change of user")

    limited.feed.set(boottime(), boottime())

    await until(lambda: limited.process.poll() is not None, "the watchdog's end, with which the agent ends")
    os.kill(pid, signal.SIGKILL)


# On the stop signal the main process waits for its worker, which takes longer with the signal than without.
WARM_STOP = """
trap 'wait; exit 0' TERM
(trap 'exit 1' TERM; touch ready; sleep 0.3 & wait; touch finished) &
wait
"""


@pytest.mark.parametrize("main_alone", [True, False])
async def test_the_stop_signal_goes_to_the_group_or_to_the_main_process_alone(
    agent: Agent, tmp_path: Path, main_alone: bool
) -> None:
    agent.spawn(WARM_STOP, main_alone=main_alone)
    await until((tmp_path / "ready").exists, "the worker")

    agent.stop(grace=60)

    assert (await until(lambda: agent.hear("exited"), "its end"))["status"] == 0
    assert (tmp_path / "finished").exists() is main_alone


async def test_sigkill_goes_to_the_group_whatever_gets_the_stop_signal(agent: Agent, tmp_path: Path) -> None:
    agent.spawn(TREE + "trap '' TERM; while :; do sleep 0.01; done", main_alone=True)
    last = await tree(tmp_path)

    agent.stop(grace=0.1)

    await until(lambda: agent.hear("exited"), "its end")
    assert not alive(last)


# The cgroup of a container with 256 MiB, as a folder of the test.
IN_A_CGROUP = """
from pathlib import Path
from processhub.agent.watchdog import main, memory
memory.CGROUP = Path("cgroup")
main.main()
"""
EATER = 'import time; taken = bytearray(64 * 2**20); open("note", "w").close(); time.sleep(1000)'
EATS = f"exec {sys.executable} -c '{EATER}'"
MIB = 2**20


def uses(folder: Path, used: int, cache: int = 0, limit: str = str(256 * MIB), names: int = 0) -> Path:
    """Let the cgroup show this much memory (MiB) in use, of which this much caches files, and names of files."""
    cgroup = folder / "cgroup"
    cgroup.mkdir(exist_ok=True)
    caches = f"active_file {cache * MIB}\ninactive_file 0\nslab_reclaimable {names * MIB}"
    texts = {"memory.max": limit, "memory.stat": f"anon 1\n{caches}\nslab_unreclaimable {60 * MIB}\n"}
    for name, text in {**texts, "memory.current": str(used * MIB)}.items():
        (cgroup / "new").write_text(text + "\n")
        (cgroup / "new").rename(cgroup / name)
    return cgroup


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Agent]:
    uses(tmp_path, 100)
    agent = Agent(tmp_path, IN_A_CGROUP)
    yield agent
    agent.end()


async def test_the_largest_child_is_ended_before_the_container_runs_out_of_memory(
    contained: Agent, tmp_path: Path
) -> None:
    contained.spawn("sleep 1000", "small")
    contained.spawn(EATS, "great")
    await until(lambda: contained.hear("started", "small"), "the small one runs")
    await until((tmp_path / "note").exists, "the great one has taken its memory")
    assert contained.hear("exited", "great") is None, "nothing is short"

    uses(tmp_path, 250)

    ended = await until(lambda: contained.hear("exited", "great"), "it is ended")
    assert contained.ends()[0] == "great", "before any other"
    used, limit = ended["memory"]
    assert ended["status"] == -signal.SIGKILL
    assert 64 <= used // MIB < 128
    assert limit == 256 * MIB


async def test_memory_that_a_daemon_of_a_child_takes_counts_as_the_childs(contained: Agent, tmp_path: Path) -> None:
    contained.spawn(f"exec {sys.executable} -c 'import time; time.sleep(1000)'", "innocent")
    contained.spawn(f"(setsid {sys.executable} -c '{EATER}' &); sleep 1000", "guilty")
    await until(lambda: contained.hear("started", "innocent"), "the innocent one runs")
    await until((tmp_path / "note").exists, "the daemon has taken its memory")

    uses(tmp_path, 250)

    ended = await until(lambda: contained.hear("exited", "guilty"), "it is ended")
    assert contained.ends()[0] == "guilty", "before any other"
    assert 64 <= ended["memory"][0] // MIB < 128


@pytest.mark.parametrize(
    ("used", "cache", "names", "limit", "short"),
    [
        (100, 0, 0, str(256 * MIB), False),
        (250, 0, 0, str(256 * MIB), True),
        (250, 60, 0, str(256 * MIB), False),  # the kernel frees its caches by itself
        (250, 0, 60, str(256 * MIB), False),
        (250, 0, 0, "max", False),
    ],
)
def test_memory_is_short_when_hardly_any_is_left_beside_the_kernels_caches(
    tmp_path: Path, used: int, cache: int, names: int, limit: str, short: bool
) -> None:
    assert MemoryGuard(uses(tmp_path, used, cache, limit, names)).is_short(1000.0) is short


def test_the_less_memory_is_left_the_sooner_it_is_checked_again(tmp_path: Path) -> None:
    guard, looks = MemoryGuard(uses(tmp_path, 0)), []
    for used in (0, 100, 200, 240):
        uses(tmp_path, used)
        guard.is_short(1000.0)
        looks.append(guard.next_look)

    assert looks == sorted(looks, reverse=True)
    assert looks[0] <= 1000.25
    assert looks[-1] == 1000.02


def test_a_limit_that_cannot_be_read_for_a_moment_is_kept(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("100000000")
    (tmp_path / "memory.current").write_text("99999999")
    guard = MemoryGuard(tmp_path)
    (tmp_path / "memory.max").rename(tmp_path / "away")

    assert guard.is_short(0.0)
    assert guard.limit == 100000000


def test_without_a_cgroup_memory_is_not_watched(tmp_path: Path) -> None:
    assert MemoryGuard(tmp_path).limit == 0
