"""Environment variables from files: ``env[].valueFrom.file`` of exec children, and ``self.env`` of actors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from memberparts import desired, with_processes
from waiting import until

from processhub.agent.children.child import Child
from processhub.agent.envfiles import EnvFileError, read_value
from processhub.agent.request import Request
from processhub.agent.supervisor import Supervisor
from processhub.api.child import ChildEnvVar, EnvSource, Exec, Python


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    async with with_processes(tmp_path) as (supervisor, _):
        yield supervisor


def start(supervisor: Supervisor, workload: Exec | Python) -> Child:
    supervisor.set_desired({"a": desired(workload)})
    return supervisor.children["a"]


def from_file(name: str, path: Path) -> ChildEnvVar:
    return ChildEnvVar(name=name, value_from=EnvSource(file=str(path)))


async def test_an_exec_child_gets_what_the_file_has_at_each_start(supervisor: Supervisor, tmp_path: Path) -> None:
    secret, seen = tmp_path / "secret", tmp_path / "seen"
    secret.write_text("first\n")
    script = f'printf \'%s|%s\\n\' "$PASSWORD" "$PLAIN" >> {seen}; sleep 0.1; exit 1'
    env = (from_file("PASSWORD", secret), ChildEnvVar(name="PLAIN", value="p"))
    child = start(supervisor, Exec(command=("sh", "-c", script), env=env))
    await until(lambda: seen.exists() and seen.read_text(), "its start")

    secret.write_text("second")

    await until(lambda: "second|p\n" in seen.read_text(), "its restart")
    assert seen.read_text().startswith("first|p\n")
    assert child.history.restarts >= 1


async def test_an_exec_child_starts_when_its_file_comes(supervisor: Supervisor, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    child = start(supervisor, Exec(command=("sleep", "1000"), env=(from_file("PASSWORD", secret),)))
    await until(lambda: child.status.state == "Failed" and child.history.restarts > 1, "its failure")

    assert child.status.reason == "EnvFileNotReadable"
    assert child.status.message.startswith(f"env PASSWORD: {secret}: No such file or directory (ENOENT); BackOff: ")

    secret.write_text("here")
    await until(lambda: child.status.state == "Running", "its start")


async def test_a_child_that_is_removed_while_its_file_is_read_is_not_started(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    secret, seen = tmp_path / "secret", tmp_path / "seen"
    secret.write_text("x")
    reads = Exec(command=("sh", "-c", f"touch {seen}; sleep 1000"), env=(from_file("PASSWORD", secret),))
    supervisor.set_desired({f"{number}": desired(reads) for number in range(40)})  # more than are started at one time
    children = list(supervisor.children)
    for _ in range(2):
        await asyncio.sleep(0)  # the reading begins

    supervisor.set_desired(dict.fromkeys(children))

    await until(lambda: not supervisor.children, "their end")
    other = start(supervisor, Exec(command=("sleep", "1000")))
    await until(lambda: other.status.state == "Running", "the start of another one")
    assert not seen.exists()


ACTOR = """
import processhub

class Reader(processhub.Actor):
    def __init__(self):
        self.first = dict(self.env)

    async def handle_call(self, request):
        return self.first
"""


async def test_an_actor_has_its_variables_in_self_env(supervisor: Supervisor, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (tmp_path / "reader.py").write_text(ACTOR)
    env = (from_file("PASSWORD", secret), ChildEnvVar(name="PLAIN", value="p"))
    child = start(supervisor, Python(target="reader:Reader", env=env))
    await until(lambda: child.status.state == "Failed", "its failure without the file")
    assert f"env PASSWORD: {secret}: No such file or directory (ENOENT)" in child.status.message

    secret.write_text("word\n")
    await until(lambda: child.status.state == "Running", "its start")
    assert child.run is not None
    answer = await child.run.request(Request("call", b"null"))

    assert answer.body == b'{"PLAIN":"p","PASSWORD":"word"}'


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"a", "a"), (b"a\r\n\n", "a"), (b" a b ", " a b "), (b"", ""), ("\u00e9".encode(), "\u00e9")],
)
def test_the_text_is_the_value_without_line_ends_at_its_end(tmp_path: Path, content: bytes, value: str) -> None:
    (tmp_path / "file").write_bytes(content)

    assert read_value("A", str(tmp_path / "file")) == value


def test_what_is_no_text_of_a_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    def why(path: Path | str) -> str:
        with pytest.raises(EnvFileError) as found:
            read_value("A", str(path))
        return str(found.value).removeprefix(f"env A: {path}").strip(": ")

    file, pipe = tmp_path / "file", tmp_path / "pipe"
    os.mkfifo(pipe)

    assert why(tmp_path) == "is not a file"
    assert why(pipe) == "is not a file"
    assert why("/dev/zero") == "is not a file"
    file.write_bytes(b"\xff")
    assert why(file) == "is not text in UTF-8"
    file.write_bytes(b"a\0b")
    assert why(file) == "contains a NUL character, which Linux does not allow there"
    file.write_bytes(b"a" * 128 * 1024)
    assert why(file) == "has more than 131071 bytes"
    assert why("/a\0b") == "env A: '/a\\x00b' is no path: embedded null byte"
