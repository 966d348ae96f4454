"""Exec children: each is a process group of its own, started and ended through the watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from processhub.agent.children.child import Child
from processhub.agent.children.childhttp import ChildHttp
from processhub.agent.children.commands import missing_interpreter, with_file_values, workload_problem
from processhub.agent.children.handoverfile import HandoverFile
from processhub.agent.children.liveness import LivenessProbe
from processhub.agent.children.output import PipeReader, open_pipes, tagged
from processhub.agent.children.runs import ExitStatus, RunHandle, out_of_memory
from processhub.agent.env import Environment
from processhub.agent.envfiles import EnvFileError
from processhub.agent.logs import LogSink
from processhub.agent.peers.statesender import Content
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import Request, Response
from processhub.agent.watchdog.client import WatchdogClient
from processhub.api.child import Exec
from processhub.api.reasons import Reason

log = logging.getLogger(__name__)
# Starts in flight at the watchdog. More of them wait, so that their time limit does not begin before their turn.
_IN_FLIGHT = 32
_FILES_SECONDS = 5.0  # in which the files of env[].valueFrom are read; a volume may hang


class ExecStarter:
    """Starts exec children, a limited number at a time."""

    def __init__(self, env: Environment, watchdog: WatchdogClient, sink: LogSink) -> None:
        self.env, self.watchdog, self.sink = env, watchdog, sink
        self._waiting: deque[ExecRun] = deque()
        self._flying = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: dict[str, ThreadPoolExecutor] = {}  # by child's id, while its files are read

    def launch(self, child: Child, desired: DesiredRun, state: Content | None = None) -> RunHandle:
        """Start the child with the state that was handed over to it; the outcome is reported to the child."""
        assert isinstance(desired.workload, Exec)
        run = ExecRun(self, child, desired, desired.workload, state)
        if self._flying < _IN_FLIGHT:
            self._flying += 1
            # Deferred: the child must know its run before a failure can be reported to it.
            asyncio.get_running_loop().call_soon(run.begin)
        else:
            self._waiting.append(run)
        return run

    def landed(self) -> None:
        """Begin the next waiting start: the outcome of an earlier one is known."""
        while self._waiting:
            run = self._waiting.popleft()
            if not run.cancelled:
                asyncio.get_running_loop().call_soon(run.begin)
                return
        self._flying -= 1

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def with_files(self, child_id: str, workload: Exec) -> Exec:
        """Put the values of valueFrom into the workload. Raises EnvFileError, and TimeoutError if a volume hangs.

        Each child has a thread of its own for that, which a volume may hold for ever: it delays no other child.
        """
        reader = self._readers.setdefault(child_id, ThreadPoolExecutor(1))
        reading = asyncio.get_running_loop().run_in_executor(reader, with_file_values, workload)
        try:
            async with asyncio.timeout(_FILES_SECONDS):
                return await reading
        finally:
            if not reading.cancelled():
                self._readers.pop(child_id, reader).shutdown(wait=False)

    def forget(self, child_id: str) -> None:
        """Remove the files of a child that was removed from this member."""
        shutil.rmtree(self.env.child_dir(child_id), ignore_errors=True)

    def shut_down(self) -> None:
        """Prepare for the agent's shutdown. Exec children need nothing: each of them is stopped."""


class ExecRun(RunHandle):
    """The run of one incarnation of an exec child. An order to stop is carried out at once, and not taken back."""

    def __init__(
        self, starter: ExecStarter, child: Child, desired: DesiredRun, workload: Exec, state: Content | None
    ) -> None:
        self._starter, self._child, self._desired, self._workload = starter, child, desired, workload
        self._role, self._epoch = desired.assignment.role, desired.assignment.epoch
        self._handover = HandoverFile(starter.env.child_dir(child.id) / "handover", state)
        self._leave_to: Path | None = None
        self._key = ""
        self._landed = False
        self._begun = False
        self.cancelled = False  # stopped before its start was begun
        self._outputs: list[PipeReader] = []
        self._http: ChildHttp | None = None  # None until the first request
        self._probe: LivenessProbe | None = None

    # Orders of the child.

    def stop(self, grace: float) -> None:
        """Send stopSignal to stopTarget, and SIGKILL to the group after ``grace`` seconds.

        Other starts need not wait until that takes effect.
        """
        if self._key:
            self._starter.watchdog.stop(self._key, grace)
            if not self._landed:
                asyncio.get_running_loop().call_later(grace, self._land)
        elif not self._begun and not self.cancelled:
            self.cancelled = True
            # Deferred: the child has not finished the call that ordered the stop.
            asyncio.get_running_loop().call_soon(
                self._child.ended, ExitStatus(Reason.EXITED, "stopped before it was started")
            )

    def give_up(self) -> None:
        """Send SIGKILL to the process group."""
        self.stop(0)
        self._land()

    def hand_over(self, path: Path, grace: float, *, ask: bool) -> None:
        """Stop the child. What it has written to HUB_HANDOVER_FILE by its end is its state."""
        self._leave_to = path
        self.stop(grace)

    def role(self, role: str, epoch: int, *, notify: bool) -> None:
        """Write the new epoch and role to their files; then send roleSignal if one is set and ``notify`` is true.

        If the files can't be written, the child is restarted: it must not keep a role that another copy has.
        """
        self._role, self._epoch = role, epoch
        try:
            self._write_role()
        except OSError as error:  # The disk is full, or the child has replaced the file.
            log.error("restarted: its role file can't be written: %s", error, extra={"child": self._child.id})
            self._child.stop(self._child.limits.stop_seconds)
            return
        if notify and self._workload.role_signal and self._key:
            self._starter.watchdog.signal(self._key, signal.Signals[self._workload.role_signal])

    async def request(self, request: Request) -> Response:
        """POST the request to the child's HUB_SOCKET."""
        if self._http is None:
            self._http = ChildHttp(self._socket)
        return await self._http.post("http://child", request, "its HUB_SOCKET")

    @property
    def http_server(self) -> tuple[str, str]:
        """HUB_SOCKET, and the base of the URLs of the server that may listen there."""
        return self._socket, "http://child"

    @property
    def _socket(self) -> str:
        """The path of HUB_SOCKET."""
        return str(self._starter.env.child_dir(self._child.id) / "socket")

    # Reports of the watchdog.

    def begin(self) -> None:
        """Ask the watchdog to start the process."""
        if self.cancelled:
            self._land()
            return
        self._child.begun()
        if any(variable.value_from for variable in self._workload.env):
            self._starter.keep(self._read_files())
        else:
            self._start()

    async def _read_files(self) -> None:
        """Put the values of valueFrom into the workload, and start the process."""
        try:
            self._workload = await self._starter.with_files(self._child.id, self._workload)
        except (EnvFileError, TimeoutError) as error:
            message = str(error) or f"the files of env can't be read within {_FILES_SECONDS:g} s"
            if self.cancelled:
                self._land()
            else:
                self._end(ExitStatus(Reason.ENV_FILE_NOT_READABLE, "not started", message=message))
            return
        self._start()

    def _start(self) -> None:
        if self.cancelled:
            self._land()
            return
        self._begun = True
        problem = workload_problem(self._workload)
        if problem:
            self._end(ExitStatus(Reason.COMMAND_NOT_FOUND, "not started", final=True, message=problem))
            return
        env, workload = self._starter.env, self._workload
        folder = env.child_dir(self._child.id)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "socket").unlink(missing_ok=True)
            self._handover.give()
            self._write_role()
            fds = self._pipes()
        except OSError as error:
            self._end(ExitStatus(Reason.EXITED, "not started", message=f"{error.strerror}: {error.filename or 'pipe'}"))
            return
        self._key = self._starter.watchdog.spawn(
            self,
            [*workload.command, *workload.args],
            self._environment(),
            cwd=workload.working_dir,
            stop_signal=signal.Signals[workload.stop_signal],
            main_alone=workload.stop_target == "Main",
            fds=fds,
        )

    def started(self, pid: int) -> None:
        """Record that the exec took place: the child is up."""
        self._land()
        self._child.running(pid)
        if (liveness := self._workload.liveness) is not None:
            self._probe = LivenessProbe(
                liveness, self._socket, self._starter.watchdog, self._environment(), self._workload.working_dir,
                self._child.hangs,
            )  # fmt: skip

    def failed(self, what: str, number: int, text: str) -> None:
        """Report a process that could not be started as ended."""
        command = self._workload.command[0]
        name = f" ({errno.errorcode[number]})" if number in errno.errorcode else ""
        if what == "cwd":
            exit_status = ExitStatus(
                Reason.WORKING_DIR_NOT_FOUND,
                "not started",
                message=f"workingDir {self._workload.working_dir}: {text}{name}",
            )
        elif what in ("exec", "value"):
            exit_status = ExitStatus(
                Reason.COMMAND_NOT_FOUND,
                "not started",
                message=f"command {command}: {text}{name}{self._missing_interpreter(number)}",
            )
        else:
            exit_status = ExitStatus(Reason.EXITED, "not started", message=f"{text}{name}", fenced=what == "fenced")
        self._end(exit_status)

    def _missing_interpreter(self, number: int) -> str:
        workload = self._workload
        return missing_interpreter(workload.command[0], number, workload.working_dir, self._environment())

    def stuck(self, pid: int, user: int) -> None:
        """Report that the kernel refuses signals to a process of the child."""
        self._child.stuck(
            f"process {pid} can't be signalled: it runs as user {user}; give the members' container the capability KILL"
            " (spec.members.template), or have the program stay the container's user"
        )

    def exited(self, status: int, fenced: bool, memory: tuple[int, int] | None = None) -> None:
        """Report the end: the process ended, and nothing of its process tree is left."""
        if self._leave_to is not None:
            try:
                self._handover.take(self._leave_to)
            except OSError as error:
                log.error("its handover state can't be kept: %s", error, extra={"child": self._child.id})
        text, why = exit_text(status, fenced), out_of_memory(memory) if memory else ""
        reason = Reason.OUT_OF_MEMORY if why else Reason.EXITED
        self._end(ExitStatus(reason, text, success=status == 0, fenced=fenced, message=why))

    # Internal.

    def _land(self) -> None:
        if not self._landed:
            self._landed = True
            self._starter.landed()

    def _end(self, exit_status: ExitStatus) -> None:
        self._land()
        if self._probe is not None:
            self._probe.end()
        for output in self._outputs:
            output.finish()
        if self._http is not None:  # a process outside its group may still hold its connections open
            self._starter.keep(self._http.close())
        self._child.ended(exit_status)

    def _pipes(self) -> dict[int, int]:
        env, entry = self._starter.env, self._desired.assignment
        common = {"hub": env.hub, "member": env.member, "child": self._child.id, "epoch": entry.epoch}
        encoders = {number: tagged({**common, "stream": stream}) for number, stream in ((1, "stdout"), (2, "stderr"))}
        self._outputs, ends = open_pipes(asyncio.get_running_loop(), self._starter.sink, encoders)
        return ends

    def _environment(self) -> dict[str, str]:
        env = self._starter.env
        folder = env.child_dir(self._child.id)
        return {
            **env.container,
            **{item.name: item.value for item in self._workload.env},
            "HUB_NAME": env.hub,
            "HUB_NAMESPACE": env.namespace,
            "HUB_MEMBER": env.member,
            "HUB_CHILD_ID": self._child.id,
            "HUB_EPOCH": str(self._epoch),
            "HUB_ROLE": self._role,
            "HUB_URL": env.url,
            "HUB_TOKEN_FILE": env.token_file,
            "HUB_ROLE_FILE": str(folder / "role"),
            "HUB_EPOCH_FILE": str(folder / "epoch"),
            "HUB_HANDOVER_FILE": str(folder / "handover"),
            "HUB_SOCKET": self._socket,
        }

    def _write_role(self) -> None:
        self._write("epoch", str(self._epoch))  # The epoch is written first: a reader of the new role finds its epoch.
        self._write("role", self._role)

    def _write(self, name: str, text: str) -> None:
        path = self._starter.env.child_dir(self._child.id) / name
        scratch = path.with_name(name + ".new")
        # The folder is missing: the child was removed, so no process reads the file.
        with contextlib.suppress(FileNotFoundError):
            scratch.write_text(text + "\n")
            os.replace(scratch, path)  # noqa: PTH105 a reader sees the old text or the new one, never half


def exit_text(status: int, fenced: bool) -> str:
    """The end of a process as text, such as ``exit code 1`` or ``killed by SIGKILL``."""
    text = f"exit code {status}" if status >= 0 else f"killed by {_signal_name(-status)}"
    return text + " (fenced: the member's Lease was not renewed in time)" if fenced else text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
