"""Ending a recorded process, and no other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kind.pidrecord import PidRecord, runs, start_time


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started
        started.kill()


def test_a_recorded_process_is_ended(process: subprocess.Popen[bytes]) -> None:
    record = PidRecord.of(process.pid)

    assert record.alive()
    assert record.end(grace=10)
    assert process.wait() == -15


def test_a_process_that_ignores_the_request_is_killed() -> None:
    command = ["sh", "-c", 'trap "" TERM; echo ready; while :; do read -r line; done']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()

        assert PidRecord.of(process.pid).end(grace=0.1)
        assert process.wait() == -9


def test_another_process_with_the_same_pid_is_not_ended(process: subprocess.Popen[bytes]) -> None:
    earlier = replace(PidRecord.of(process.pid), started=1)

    assert not earlier.alive()
    assert not earlier.end(grace=0)
    assert process.poll() is None


def test_a_process_that_has_ended_is_not_alive(process: subprocess.Popen[bytes]) -> None:
    record = PidRecord.of(process.pid)
    process.kill()
    process.wait()

    assert not record.alive()
    assert not record.end(grace=0)
    with pytest.raises(ProcessLookupError):
        PidRecord.of(process.pid)


def test_a_name_belongs_only_to_a_running_process(process: subprocess.Popen[bytes]) -> None:
    assert runs(process.pid, "sleep")
    assert not runs(process.pid, "dockerd")

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now

    assert not runs(process.pid, "sleep")


def test_the_start_time_is_found_behind_any_name() -> None:
    fields = " ".join(str(number) for number in range(4, 53))

    assert start_time(f"17 (a) b (c)) S {fields}") == 22
