"""Exec children: a process group of its own each, started and ended through the warden."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
from collections import deque

from processhub.agent.child import Child
from processhub.agent.env import Environment
from processhub.agent.incarnation import End, Handle
from processhub.agent.logs import LogSink
from processhub.agent.output import PipeReader, tagged
from processhub.agent.spawner import Spawner
from processhub.agent.sync import Wanted
from processhub.api.child import Exec
from processhub.api.reasons import Reason

_IN_FLIGHT = 32  # starts the warden is given at a time: a start's time limit must not count those before it


class ExecStarter:
    """Starts exec children, some at a time."""

    def __init__(self, env: Environment, spawner: Spawner, sink: LogSink) -> None:
        self.env, self.spawner, self.sink = env, spawner, sink
        self._waiting: deque[ExecRun] = deque()
        self._flying = 0

    def launch(self, child: Child, wanted: Wanted, workload: Exec) -> Handle:
        """Have the child started; it hears of the outcome."""
        run = ExecRun(self, child, wanted, workload)
        if self._flying < _IN_FLIGHT:
            self._flying += 1
            # Not at once: the child must know its handle before it hears of a failure.
            asyncio.get_running_loop().call_soon(run.begin)
        else:
            self._waiting.append(run)
        return run

    def landed(self) -> None:
        """A start's outcome is known: the next one's turn."""
        while self._waiting:
            run = self._waiting.popleft()
            if not run.cancelled:
                asyncio.get_running_loop().call_soon(run.begin)
                return
        self._flying -= 1

    def forget(self, child_id: str) -> None:
        """Remove the files of a child that is gone from this member."""
        shutil.rmtree(self.env.child_dir(child_id), ignore_errors=True)


class ExecRun:
    """One incarnation of an exec child."""

    def __init__(self, starter: ExecStarter, child: Child, wanted: Wanted, workload: Exec) -> None:
        self._starter, self._child, self._wanted, self._workload = starter, child, wanted, workload
        self._key = ""
        self._landed = False
        self._begun = False
        self.cancelled = False  # stopped before it was begun
        self._outputs: list[PipeReader] = []

    # what the child orders

    def stop(self, grace: float) -> None:
        """Send stopSignal to the group, SIGKILL after ``grace`` seconds."""
        if self._key:
            self._starter.spawner.stop(self._key, grace)
        elif not self._begun and not self.cancelled:
            self.cancelled = True
            # Soon, not now: the child is in the midst of ordering it.
            asyncio.get_running_loop().call_soon(self._child.ended, End(Reason.EXITED, "stopped before it was started"))

    def give_up(self) -> None:
        """SIGKILL to the group."""
        self.stop(0)

    def role(self, role: str) -> None:
        """Rewrite the role file, then send roleSignal where one is set."""
        self._write_role(role)
        if self._workload.role_signal and self._key:
            self._starter.spawner.signal(self._key, signal.Signals[self._workload.role_signal])

    # what the warden tells

    def begin(self) -> None:
        """Order the process: it is its turn."""
        if self.cancelled:
            self._land()
            return
        self._begun = True
        self._child.begun()
        problem = _problem(self._workload)
        if problem:
            self._end(End(Reason.COMMAND_NOT_FOUND, "not started", final=True, message=problem))
            return
        env, workload = self._starter.env, self._workload
        folder = env.child_dir(self._child.id)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for name in ("handover", "socket"):
                (folder / name).unlink(missing_ok=True)
            self._write_role(self._wanted.assignment.role)
            fds = self._pipes()
        except OSError as error:
            self._end(End(Reason.EXITED, "not started", message=f"{error.strerror}: {error.filename or 'pipe'}"))
            return
        self._key = self._starter.spawner.spawn(
            self,
            [*workload.command, *workload.args],
            self._environment(),
            cwd=workload.working_dir,
            stop_signal=signal.Signals[workload.stop_signal],
            fds=fds,
        )

    def started(self, pid: int) -> None:
        """The exec took place: it is up."""
        self._land()
        self._child.running(pid)

    def failed(self, what: str, number: int, text: str) -> None:
        """Nothing runs."""
        command = self._workload.command[0]
        name = f" ({errno.errorcode[number]})" if number in errno.errorcode else ""
        if what == "cwd":
            end = End(
                Reason.COMMAND_NOT_FOUND,
                "not started",
                message=f"workingDir {self._workload.working_dir}: {text}{name}",
            )
        elif what in ("exec", "value"):
            end = End(Reason.COMMAND_NOT_FOUND, "not started", message=f"command {command}: {text}{name}")
        else:
            end = End(Reason.EXITED, "not started", message=f"{text}{name}", fenced=what == "fenced")
        self._end(end)

    def exited(self, status: int, fenced: bool) -> None:
        """Nothing of its tree is left."""
        self._end(End(Reason.EXITED, exit_text(status, fenced), success=status == 0, fenced=fenced))

    # inside

    def _land(self) -> None:
        if not self._landed:
            self._landed = True
            self._starter.landed()

    def _end(self, end: End) -> None:
        self._land()
        for output in self._outputs:
            output.finish()
        self._child.ended(end)

    def _pipes(self) -> dict[int, int]:
        env, entry = self._starter.env, self._wanted.assignment
        common = {"hub": env.hub, "member": env.member, "child": self._child.id, "epoch": entry.epoch}
        for stream in ("stdout", "stderr"):
            encode = tagged({**common, "stream": stream})
            self._outputs.append(PipeReader(asyncio.get_running_loop(), self._starter.sink, encode))
        return {1: self._outputs[0].write_end, 2: self._outputs[1].write_end}

    def _environment(self) -> dict[str, str]:
        env, entry = self._starter.env, self._wanted.assignment
        folder = env.child_dir(self._child.id)
        container = {name: env.container[name] for name in ("PATH", "HOME") if name in env.container}
        return {
            **container,
            **{item.name: item.value for item in self._workload.env},
            "HUB_NAME": env.hub,
            "HUB_NAMESPACE": env.namespace,
            "HUB_MEMBER": env.member,
            "HUB_CHILD_ID": self._child.id,
            "HUB_EPOCH": str(entry.epoch),
            "HUB_ROLE": entry.role,
            "HUB_URL": env.url,
            "HUB_TOKEN_FILE": env.token_file,
            "HUB_ROLE_FILE": str(folder / "role"),
            "HUB_HANDOVER_FILE": str(folder / "handover"),
            "HUB_SOCKET": str(folder / "socket"),
        }

    def _write_role(self, role: str) -> None:
        path = self._starter.env.child_dir(self._child.id) / "role"
        scratch = path.with_name("role.new")
        with contextlib.suppress(FileNotFoundError):  # its folder: the child is gone, nobody reads it
            scratch.write_text(role + "\n")
            os.replace(scratch, path)  # noqa: PTH105 a reader sees the old role or the new one, never half


def exit_text(status: int, fenced: bool) -> str:
    """How a process ended, for people."""
    text = f"exit code {status}" if status >= 0 else f"killed by {_signal_name(-status)}"
    return text + " (fenced: the member's Lease was not renewed in time)" if fenced else text


def _problem(workload: Exec) -> str:
    """What makes the workload impossible to start, as a sentence; empty where nothing does."""
    if not workload.command or not workload.command[0]:
        return "command is empty: name a program"
    texts = {f"command[{at}]": text for at, text in enumerate(workload.command)}
    texts |= {f"args[{at}]": text for at, text in enumerate(workload.args)}
    texts |= {f"env {item.name!r}": item.name + item.value for item in workload.env}
    texts["workingDir"] = workload.working_dir
    for where, text in texts.items():
        if "\0" in text:
            return f"{where} holds a NUL character, which no program can be given"
    for item in workload.env:
        if not item.name or "=" in item.name:
            return f"env {item.name!r}: a variable's name is not empty and holds no '='"
    for field, name in (("stopSignal", workload.stop_signal), ("roleSignal", workload.role_signal)):
        if name and name not in signal.Signals.__members__:
            return f"{field} {name}: no such signal; use a name such as SIGTERM"
    return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
