"""Python children: actors in runner processes.

Each module has one runner, which all its actors share; one more runner is kept warm for the next module. An actor that
blocks can't be ended inside its process. If it must stop and does not within stopSeconds, its runner is killed, and the
other actors in it are restarted: that a child runs only once comes before an undisturbed run of its neighbours. Their
restarts are immediate, and restarts.max does not count them. If only its start took too long, no other actor is
disturbed: the runner takes no new actors and waits for the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import math
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from processhub.agent.children.child import Child
from processhub.agent.children.runnerprocess import RunnerProcess
from processhub.agent.children.runs import ExitStatus, RunHandle
from processhub.agent.env import Environment
from processhub.agent.frames import Message, frame
from processhub.agent.logs import LogSink
from processhub.agent.peers.statesender import Content
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import OutcomeUnknownError, Request, Response
from processhub.agent.watchdog.client import WatchdogClient
from processhub.api.child import Python
from processhub.api.reasons import Reason, State

log = logging.getLogger(__name__)
# The new spare does not compete with the start that took the last one, nor with many others: it takes as long as some
# thousands of them.
_SPARE_AFTER_SECONDS, _MANY_STARTS = 1.0, 100
_IDLE_SECONDS = 60.0  # a runner without actors ends after this
_CONSENT = 0.8  # share of a handover's time in which an actor may defer it
_CANCEL_SECONDS = 1.0  # an actor that does not respond to a cancellation within this time is blocked
# Sends an actor's request: (call or cast, id, JSON, to) → the answer, as ``payload`` with ``json`` (whether it is
# JSON), or as status, code and detail.
Ask = Callable[[str, str, bytes, str], Awaitable[Message]]
_encode = msgspec.json.Encoder().encode
_PACKAGE = Path(__file__).resolve().parents[2]


class PythonStarter:
    """Starts Python children. ``ask`` sends the requests of actors to other children."""

    def __init__(self, env: Environment, watchdog: WatchdogClient, sink: LogSink, ask: Ask) -> None:
        self._env, self._watchdog, self._sink, self._ask = env, watchdog, sink, ask
        self._runners: dict[str, ModuleRunner] = {}  # by module: the runner that takes new actors
        self._spare: ModuleRunner | None = None
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._path = ""

    @property
    def spare_pid(self) -> int:
        """The pid of the runner that waits for its first actor, or 0 if there is none."""
        return self._spare.pid if self._spare is not None else 0

    def warm(self) -> None:
        """Start a spare runner if there is none."""
        if self._spare is None:
            try:
                self._spare = self._new()
            except OSError as error:
                log.warning("no spare runner: %s", error)

    def _warm_later(self) -> None:
        self._loop.call_later(_SPARE_AFTER_SECONDS, self._warm_if_quiet, self._count)

    def _warm_if_quiet(self, count: int) -> None:
        """Start a spare runner, unless many actors were started since ``count`` were."""
        if self._count - count < _MANY_STARTS:
            self.warm()
        else:
            self._warm_later()

    def launch(self, child: Child, desired: DesiredRun, state: Content | None = None) -> RunHandle:
        """Start the actor in its module's runner. Raises OSError if no runner can be started."""
        workload = desired.workload
        assert isinstance(workload, Python)
        module = workload.target.partition(":")[0]
        runner = self._runners.get(module)
        version = self._modules_version()
        if runner is not None and runner.version != version:
            self.retire(runner)  # the runner has loaded the old code: its actors stay, new ones get a new runner
            runner = None
        if runner is None:
            runner, self._spare = self._spare or self._new(), None
            runner.module, runner.version = module, version
            self._runners[module] = runner
            self._warm_later()
        self._count += 1
        return ActorRun(runner, str(self._count), child, desired, workload, state)

    def forget(self, child_id: str) -> None:
        """Do nothing: this member keeps nothing for a Python child."""

    def shut_down(self) -> None:
        """Prepare for the agent's shutdown. Python children need nothing: each of them is stopped."""

    def retire(self, runner: ModuleRunner) -> None:
        """Start no new actors in the runner."""
        if self._runners.get(runner.module) is runner:
            del self._runners[runner.module]
        if self._spare is runner:
            self._spare = None

    def _new(self) -> ModuleRunner:
        return ModuleRunner(self, self._env, self._watchdog, self._sink, self._python_path(), self._ask)

    def _modules_version(self) -> str:
        """The version of the mounted modules. It changes when the kubelet swaps this link for a changed ConfigMap."""
        with contextlib.suppress(OSError):
            return os.readlink(os.path.join(self._env.python_path, "..data")) if self._env.python_path else ""  # noqa: PTH115, PTH118 asked at each start
        return ""

    def _python_path(self) -> str:
        """The runners' PYTHONPATH: this package alone of its folder, then the user's modules.

        Packages beside this one may be for another version of Python.
        """
        if not self._path:
            folder = self._env.run_dir / "lib"
            folder.mkdir(exist_ok=True)
            link = folder / "processhub"
            with contextlib.suppress(FileExistsError):
                link.symlink_to(_PACKAGE)
            parts = (str(folder), self._env.python_path, self._env.container.get("PYTHONPATH", ""))
            self._path = ":".join(part for part in parts if part)
        return self._path


class ModuleRunner(RunnerProcess):
    """A runner process and the actors in it."""

    def __init__(
        self, starter: PythonStarter, env: Environment, watchdog: WatchdogClient, sink: LogSink, path: str, ask: Ask
    ) -> None:
        self.module = self.version = ""
        self.ask = ask
        self.runs: dict[str, ActorRun] = {}
        self._starter = starter
        self._because = ""
        self._killed_for: ActorRun | None = None
        self._idle: asyncio.TimerHandle | None = None
        python = env.runner_python or sys.executable
        super().__init__(env, watchdog, sink, python, path)

    def add(self, run: ActorRun, order: Message) -> None:
        """Send an actor's start order to the runner."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self.runs[run.key] = run
        # A state may hold what is no UTF-8, which the faster encoder refuses.
        # The request for which a child is started goes with it.
        self.post(frame(json.dumps(order).encode() if "state" in order else _encode(order)), at_once=False)

    def heard(self, message: Message) -> None:
        """Handle an event of the runner."""
        if message["ev"] == "running":
            for key in message["keys"]:
                if (run := self.runs.get(key)) is not None:
                    run.early = None
                    run.child.running(self.pid)
            return
        run = self.runs.get(message.get("key", ""))
        if run is None:
            return
        if message["ev"] == "answer":
            run.answered(message)
        elif message["ev"] == "ask":
            run.asks(message)
        elif message["ev"] == "unask":
            run.asks_no_more(message)
        elif message["ev"] == "kept":
            if message["order"] == run.order:
                run.child.stays()
        elif message["ev"] == "crashed":
            run.child.hangs(message["text"])
        elif message["ev"] == "handed":
            run.ends(message.get("payload"))
        elif message["ev"] == "ended":
            self._remove(run)
            reason = Reason.IMPORT_ERROR if message["reason"] == "ImportError" else Reason.EXITED
            if run.early is not None:
                run.early.handed_over.clear()  # an actor handles no request before the event that it is up
            run.ended(ExitStatus(reason, message["text"], message=message["message"]))

    def process_ended(self, what: str, reason: Reason, *, fenced: bool) -> None:
        """Report the end of all actors in the process, which has ended."""
        self.retire()
        runs, self.runs = list(self.runs.values()), {}
        text = f"its runner process ended: {what}"
        if not self.up and self.last_words:
            text += f": {self.last_words[:200]}"
        if runs:
            log.warning("runner of %s ended with %d children: %s", self.module, len(runs), self._because or what)
        exit_status = ExitStatus(reason, text, message=self._because or self.out_of_memory, fenced=fenced)
        for run in runs:
            run.ended(replace(exit_status, by_other=self._killed_for not in (None, run)))

    def retire(self) -> None:
        """Start no new actors in this runner."""
        self._starter.retire(self)

    def kill_for(self, run: ActorRun, why: str) -> None:
        """Kill the process because of one actor; ``why`` is reported for all actors in it."""
        self.retire()
        self._killed_for = run
        self._because = f"child {run.child.id} {why}, and it shares the runner"
        self.kill()

    def _remove(self, run: ActorRun) -> None:
        del self.runs[run.key]
        if not self.runs:
            self._idle = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        if not self.runs:
            self.retire()
            self.kill()


class ActorRun(RunHandle):
    """The run of one incarnation of a Python child. An order to stop is carried out at once, and not taken back."""

    def __init__(
        self, runner: ModuleRunner, key: str, child: Child, desired: DesiredRun, workload: Python, state: Content | None
    ) -> None:
        self.key, self.child, self.stuck = key, child, False
        self._runner = runner
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._end_by = math.inf  # by the loop's clock: the time by which the actor must have ended
        self.grace = 0.0  # seconds that the actor has to end after a handover
        self._state: bytes | None = None  # the state that the actor left
        self.order = 0  # number of the latest handover order; answers to earlier orders are ignored
        self._numbers = itertools.count()
        self._requests: dict[int, asyncio.Future[Response]] = {}  # handed over and not answered yet
        self._liveness = workload.liveness
        self.early: Request | None = None  # a request that the actor got before it was up
        self._asks: dict[int, asyncio.Task[None]] = {}  # the actor's requests to other children
        entry = desired.assignment
        order: Message = {"op": "start", "key": key, "id": child.id, "epoch": entry.epoch, "role": entry.role}
        order["signal"] = child.limits.notifies(entry.role)
        if isinstance(state, bytes):
            # This code only passes the state on; it is meant to be JSON.
            order["state"] = state.decode(errors="surrogateescape")
        elif state is not None:
            order["state_file"] = str(state)
        if workload.env:
            order["env"] = {item.name: item.value for item in workload.env if not item.value_from}
            order["env_files"] = {item.name: item.value_from.file for item in workload.env if item.value_from}
        runner.add(self, {**order, "target": workload.target, "args": workload.args})
        child.begun()

    def stop(self, grace: float) -> None:
        """Ask the actor to end. If it still runs after ``grace`` seconds, its runner is killed."""
        self._runner.send({"op": "stop", "key": self.key, "grace": grace})
        now = self._loop.time()
        self._end_by = min(self._end_by, now + grace)  # a second stop does not extend the time
        self._later(self._end_by - now, lambda: self._overdue(grace))

    def ends(self, state: bytes | None) -> None:
        """Take the state that the actor left, in the message or in its file. The actor then ends by itself."""
        self._state = state
        self._later(self.grace, lambda: self._overdue(self.grace))

    def give_up(self) -> None:
        """Cancel the actor. If it is blocked and others run beside it, it is left alone."""
        self._runner.send({"op": "stop", "key": self.key, "grace": 0})
        self._later(_CANCEL_SECONDS, self._blocks)

    def hand_over(self, path: Path, grace: float, *, ask: bool) -> None:
        """Ask the actor to write its state and end, if it agrees. The handover's time limits the writing."""
        self.grace = grace
        max_wait = self.child.limits.handover_seconds * _CONSENT
        self.order += 1
        order: Message = {"op": "handover", "key": self.key, "order": self.order, "path": str(path)}
        self._runner.send({**order, "ask": ask, "patience": max_wait, "grace": grace})

    def role(self, role: str, epoch: int, *, notify: bool) -> None:
        """Send the changed role to the actor."""
        self._runner.send({"op": "role", "key": self.key, "role": role, "epoch": epoch, "signal": notify})

    @property
    def takes_early(self) -> bool:
        """Whether the actor may get a request before it is up. In a process that is not up itself, it might be lost."""
        return self._runner.up and self._liveness is None

    def request(self, request: Request) -> asyncio.Future[Response]:
        """Pass the request to the actor, which handles one message at a time."""
        if self.child.status.state == State.STARTING:
            self.early = request
        number = next(self._numbers)
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._requests[number] = answer
        if request.body is None:
            return self._loop.create_task(self._fetched(number, request, answer))
        self._pass_on(number, request, request.body, answer)
        return answer

    async def _fetched(self, number: int, request: Request, answer: asyncio.Future[Response]) -> Response:
        """Get the body from the member that forwarded the request, and pass it on."""
        try:
            body = await request.content()
        except BaseException:
            self._requests.pop(number, None)
            raise
        if not answer.done():
            self._pass_on(number, request, body, answer)
        return await answer

    def _pass_on(self, number: int, request: Request, body: bytes, answer: asyncio.Future[Response]) -> None:
        request.handed_over.set()
        headers = json.dumps(request.headers) if request.headers else "{}"
        head = f'{{"op":"{request.kind}","key":"{self.key}","call":{number},"headers":{headers}}}'
        self._runner.post(frame(head.encode(), body))
        if self._liveness is not None:
            seconds = self._liveness.handler_seconds
            message = f"it has handled one message for {seconds} s (liveness.handlerSeconds)"
            hangs = self._loop.call_later(seconds, self.child.hangs, message)
            answer.add_done_callback(lambda _: hangs.cancel())

    def answered(self, message: Message) -> None:
        """Complete a request that the actor has handled."""
        answer = self._requests.pop(message["call"], None)
        if answer is None or answer.done():
            return
        if "bad" in message:
            status = message.get("status", 500)
            answer.set_result(Response(status, message["bad"].encode(), "text/plain; charset=utf-8"))
        else:
            answer.set_result(Response(200, message["payload"]))

    def asks(self, message: Message) -> None:
        """Send the actor's request to another child."""
        number = message["ask"]
        task = self._asks[number] = self._loop.create_task(self._ask(message))
        task.add_done_callback(lambda _: self._asks.pop(number, None))

    def asks_no_more(self, message: Message) -> None:
        """Cancel a request whose answer the actor does not wait for any more."""
        if (task := self._asks.get(message["ask"])) is not None:
            task.cancel()

    async def _ask(self, message: Message) -> None:
        answer = await self._runner.ask(message["op"], message["id"], message["payload"], message["to"])
        payload = answer.pop("payload", None)
        head = json.dumps({"op": "asked", "key": self.key, "ask": message["ask"], **answer})
        self._runner.post(frame(head.encode(), payload))

    def ended(self, exit_status: ExitStatus) -> None:
        """Report the end of the actor: nothing of it is left."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._asks.values()):
            task.cancel()
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(OutcomeUnknownError(exit_status.text))
        self._requests.clear()
        self.child.ended(exit_status if self._state is None else replace(exit_status, state=self._state))

    def _overdue(self, grace: float) -> None:
        self._runner.listen()  # a busy agent may not have read yet that the actor ended
        if self.key in self._runner.runs:
            self._runner.kill_for(self, f"did not stop within {grace:g} s")

    def _blocks(self) -> None:
        self._runner.listen()
        if self.key not in self._runner.runs:
            return
        self.stuck = True
        self._runner.retire()
        if all(run.stuck for run in self._runner.runs.values()):
            self._runner.kill_for(self, "did not start in time")

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, call)
