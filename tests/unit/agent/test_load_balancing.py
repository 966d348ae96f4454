"""The loads that agents measure, and the cooldown before an imbalance moves children."""

from __future__ import annotations

import logging
import os
import queue
import resource
import signal
import subprocess
from itertools import pairwise

import pytest
from planned_hub import PlannedHub, children_of, hub_spec

from processhub.agent.children.usage import Meter, processes, rounded
from processhub.agent.watchdog.linux import below
from processhub.api.usage import Usage, format_usage, parse_usage
from processhub.core.strategies.cooldown import AFTER_SECONDS, BACK_SECONDS, REST_SECONDS, RebalanceCooldown

ROUND = 5.0  # seconds


def targets(
    cooldown: RebalanceCooldown, seconds: float, imbalance: tuple[str, str] | None, begin: float = 0
) -> list[float]:
    """Return when a member is to receive children, with this imbalance in each round."""
    rounds = [begin + ROUND * number for number in range(int(seconds / ROUND))]
    return [now for now in rounds if cooldown.target(imbalance, now)]


def test_an_imbalance_is_balanced_once_it_has_lasted() -> None:
    assert targets(RebalanceCooldown(), 300, ("a", "b")) == [AFTER_SECONDS]


def test_an_imbalance_that_ends_in_between_starts_again() -> None:
    cooldown = RebalanceCooldown()

    assert not targets(cooldown, 50, ("a", "b"))
    assert not targets(cooldown, 10, None, begin=50)
    assert targets(cooldown, 120, ("a", "b"), begin=60) == [60 + AFTER_SECONDS]


def test_alternating_loads_move_no_child() -> None:
    cooldown = RebalanceCooldown()

    for turn in range(100):
        imbalance = ("a", "b") if turn % 2 else ("b", "a")
        assert not targets(cooldown, 50, imbalance, begin=turn * 50)


def test_several_loaded_members_are_one_imbalance() -> None:
    cooldown = RebalanceCooldown()

    told = [cooldown.target(("a" if number % 2 else "c", "b"), ROUND * number) for number in range(20)]

    assert [number for number, target in enumerate(told) if target] == [int(AFTER_SECONDS / ROUND)]


def test_balancings_are_far_apart_and_reversals_back_off() -> None:
    cooldown = RebalanceCooldown()
    assert targets(cooldown, 65, ("a", "b")) == [60]

    assert targets(cooldown, 700, ("c", "d"), begin=100) == [60 + REST_SECONDS]
    back = targets(cooldown, 2 * BACK_SECONDS, ("d", "c"), begin=900)
    assert back[0] == 60 + REST_SECONDS + BACK_SECONDS
    again = targets(cooldown, 4 * BACK_SECONDS, ("c", "d"), begin=back[0] + ROUND)
    assert again[0] == back[0] + 2 * BACK_SECONDS


@pytest.mark.parametrize("period", [20.0, 100.0, 130.0, 500.0])
def test_alternating_loads_move_no_child_back_and_forth(period: float) -> None:
    """Over two hours, whichever member is loaded, no child returns to where it was before."""
    hub = PlannedHub(2, hub_spec(strategy="LeastLoaded", cap_percent=1000))
    hub.want(children_of(20))
    hub.rest()
    cooldown, moves = RebalanceCooldown(), []
    target = ""
    for number in range(int(7200 / ROUND)):
        now = number * ROUND
        hot = int(now / period) % 2
        for index in (0, 1):
            count = len(hub.on(f"hub-{index}"))
            cpu = count * (200 if index == hot else 20)
            hub.change(f"hub-{index}", usage=Usage(cpu=cpu, memory=100, children=count))
        if target:
            hub.change(target, joining=True)
        for planned in hub.rest():
            moves += [(now, move.id, move.source, move.target) for move in planned.moves]
        target = cooldown.target(hub.step().imbalance, now)

    # Shorter turns are ignored; longer ones are taken for lasting once, and then ignored for an hour.
    times = sorted({now for now, *_ in moves})
    assert bool(times) == (period > AFTER_SECONDS)
    assert len(times) <= 2
    assert all(later - earlier >= BACK_SECONDS for earlier, later in pairwise(times))


def test_the_meter_measures_the_usage_of_its_processes() -> None:
    # Below its own shell: other tests of this process may have left a cluster below it.
    shell = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert shell.stdin is not None
    assert shell.stdout is not None
    meter = Meter(shell.pid, lambda: 1.0, lambda: 1)

    def begin(command: str) -> int:
        """Start a command beside others and return its pid."""
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"{command} & echo $!\n")
        shell.stdin.flush()
        return int(shell.stdout.readline())

    try:
        begin("sleep 100")
        idle = meter.read(processes(), meter._at + 1)
        busy = begin("sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 100'")
        while not _ticks(busy) > 10:
            pass
        loaded = meter.read(processes(), meter._at + 1)
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()

    assert idle.cpu < 100
    assert loaded.cpu >= 100
    assert loaded.children == 1


def _ticks(pid: int) -> int:
    return processes()[pid][2]


def test_the_meter_counts_all_processes_below_its_root_but_not_the_root() -> None:
    found = {1: (0, 0, 50, 1000), 2: (1, 0, 30, 512), 3: (2, 0, 30, 512), 9: (8, 0, 90, 9000)}
    meter = Meter(1, lambda: 1.0, lambda: 2)

    usage = meter.read(found, meter._at + 1)

    assert below({pid: process[0] for pid, process in found.items()}, [1]) == [1, 2, 3]
    assert usage == Usage(cpu=600, memory=8, children=2)
    assert meter.read(found, meter._at + 1).cpu == 0


class Messages(logging.Handler):
    """Passes log messages of another thread to this one."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue.SimpleQueue[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put(record.getMessage())


def test_a_reading_that_fails_is_left_out_and_the_next_one_is_measured() -> None:
    """Without free descriptors the meter's thread ended, and the usage stayed as it was for ever."""
    meter, measured, messages = Meter(1, lambda: 0.01, lambda: 0), queue.SimpleQueue[Usage](), Messages()
    meter.measured.listen(measured.put)
    logger, limits = logging.getLogger("processhub.agent.children.usage"), resource.getrlimit(resource.RLIMIT_NOFILE)
    logger.addHandler(messages)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        meter.start()
        message = messages.queue.get(timeout=10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        logger.removeHandler(messages)

    assert message == "the usage of children can't be measured: Too many open files; retrying"
    assert measured.get(timeout=10)
    meter.stop()


def test_the_meter_ignores_processes_that_run_no_child_yet() -> None:
    spare = 3
    meter = Meter(1, lambda: 1.0, lambda: 1, lambda: spare)
    waiting = meter.read({1: (0, 0, 50, 1000), 2: (1, 0, 30, 4096), 3: (1, 0, 90, 4096)}, meter._at + 1)
    spare = 0
    taken = meter.read({1: (0, 0, 50, 1000), 2: (1, 0, 30, 4096), 3: (1, 0, 110, 4096)}, meter._at + 1)

    assert waiting == Usage(cpu=300, memory=16, children=1)
    assert taken == Usage(cpu=200, memory=32, children=1), "only what it has used since then"


def test_small_differences_are_reported_as_equal() -> None:
    assert [rounded(value, 20) for value in (0, 9, 31, 250, 1234, 98765)] == [0, 0, 40, 260, 1200, 99000]


def test_usage_is_written_and_read_alike() -> None:
    usage = Usage(cpu=250, memory=128, children=12)

    assert format_usage(usage) == "cpu=250m memory=128Mi children=12"
    assert parse_usage(format_usage(usage)) == usage
    assert parse_usage("") is None
    assert parse_usage("cpu=much") is None
