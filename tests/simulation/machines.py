"""The processes of children on one member, and the watchdog that ends them when the agent can't."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
from onethread import BOOTED

from processhub.agent.children.child import Child
from processhub.agent.children.runs import ExitStatus
from processhub.agent.listeners import Listeners
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import OutcomeUnknownError, Request, Response
from processhub.api.child import Exec
from processhub.api.reasons import Reason

from .processes import Process, SimulatedLoop
from .serving import Asked
from .trace import Trace

Ended = Callable[["Run"], None]


class Machine:
    """The processes of a member's container. They keep running while its agent is paused, and end when it is killed."""

    def __init__(
        self,
        agent: Process,
        member: str,
        rng: Random,
        trace: Trace,
        changed: Callable[[Run, str], None],
        executes: Callable[[Run, int], None],
    ) -> None:
        self.agent, self.member, self.lost = agent, member, Listeners[()]()
        self.runs: dict[Run, None] = {}
        self.closed = False
        self._left = 0
        self.loop: SimulatedLoop = asyncio.get_running_loop()  # type: ignore[assignment]
        self._rng, self._trace, self._changed, self.executes = rng, trace, changed, executes
        self._deadlines: list[asyncio.TimerHandle] = []

    # For the agent.

    def set(self, stop_at: float, kill_at: float) -> None:
        """The deadlines of the Lease; 0: none."""
        for deadline in self._deadlines:
            deadline.cancel()
        now = self.loop.time()
        self._deadlines = [
            self.loop.later(max(0.0, at - BOOTED - now), act)
            for at, act in ((stop_at, self._stop_all), (kill_at, self._fence))
            if at
        ]

    def close(self) -> None:
        """Kill all processes; no process starts any more."""
        self.closed = True
        self.set(0.0, 0.0)
        for run in list(self.runs):
            run.kill()

    def launch(self, child: Child, desired: DesiredRun, state: bytes | Path | None) -> Run:
        if self.closed:
            raise OSError("the watchdog has ended")
        run = Run(self, child, desired, state)
        self.runs[run] = None
        self._changed(run, f"starts with {run.state!r}" if run.state else "starts")
        self.loop.later(self._rng.uniform(0.01, 0.5), run.come_up)
        return run

    def forget(self, child_id: str) -> None: ...

    def shut_down(self) -> None: ...

    # What happens without the agent.

    def seconds(self, least: float, most: float) -> float:
        return self._rng.uniform(least, most)

    def next_name(self) -> bytes:
        """Return a name for a state that no other run has handed over."""
        self._left += 1
        return f"from {self.agent.name}, {self._left}".encode()

    def note(self, run: Run, what: str) -> None:
        self._changed(run, what)

    def _stop_all(self) -> None:
        self._trace.note(self.member, f"the watchdog sends {len(self.runs)} children a stop signal: no renewal in time")
        for run in list(self.runs):
            run.signal()

    def _fence(self) -> None:
        self._trace.note(self.member, f"the watchdog kills {len(self.runs)} children: no renewal in time")
        for run in list(self.runs):
            run.kill(fenced=True)


class Run:
    """One process of a child."""

    def __init__(self, machine: Machine, child: Child, desired: DesiredRun, state: bytes | Path | None) -> None:
        self.machine, self.desired, self._child = machine, desired, child
        self.child_id = child.id
        self.epoch, self.role_now = desired.assignment.epoch, desired.assignment.role
        self.ending = self.was_asked = False
        self.state = state.read_bytes() if isinstance(state, Path) else state
        self.left: bytes | None = None
        self.given_up = False
        self.handles = 0  # the number of the request that it handles; 0: none
        self._answer: asyncio.Future[Response] | None = None
        self.was_up = False
        self.takes_early = machine.seconds(0.0, 1.0) < 0.5  # as an actor does, and a command does not
        self._early: tuple[Request, Asked] | None = None  # a request that it got before it was up

    @property
    def member(self) -> str:
        """The name of its member."""
        return self.machine.member

    @property
    def where(self) -> str:
        """The name of its agent's process."""
        return self.machine.agent.name

    @property
    def incarnation(self) -> bytes:
        """The beginning of the name of each state of its child."""
        return f"{self.child_id}/{self.uid} ".encode()

    @property
    def uid(self) -> str:
        """The uid of the object that it runs for: a Child may have been declared for it since it was started."""
        return (self._child.desired or self.desired).assignment.uid

    @property
    def is_temporary(self) -> bool:
        """Whether it is not started again when it ends, as its agent knows."""
        return (self._child.desired or self.desired).assignment.restart_policy == "Temporary"

    @property
    def command(self) -> tuple[str, ...]:
        """The command that it was started with."""
        assert isinstance(self.desired.workload, Exec)
        return self.desired.workload.command

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self in self.machine.runs

    def come_up(self) -> None:
        if self.runs:
            self.was_up = True
            if not self.ending:  # to its agent a child that is being stopped does not come up any more
                self.machine.note(self, "is up")
            self.machine.agent.call(self._child.running, 7)
            if self._early is not None and self._answer is not None:
                self._handle(self._early[1], self._answer)

    def crash(self) -> None:
        """End by itself."""
        self._end(ExitStatus(Reason.EXITED, "exit code 1"))

    def finish(self) -> None:
        """End by itself, with its work done."""
        self._end(ExitStatus(Reason.COMPLETED, "exit code 0", success=True))

    def signal(self) -> None:
        """Get a stop signal, and end some time later."""
        if not self.ending:
            self.ending = True
            self.machine.loop.later(
                self.machine.seconds(0.01, 4.0), self._end, ExitStatus(Reason.EXITED, "killed by SIGTERM")
            )

    def kill(self, *, fenced: bool = False) -> None:
        """Get SIGKILL."""
        status = ExitStatus(Reason.EXITED, "killed by SIGKILL", fenced=fenced)
        self.machine.loop.later(self.machine.seconds(0.0, 0.2), self._end, status)

    def _end(self, status: ExitStatus) -> None:
        if self.runs:
            del self.machine.runs[self]
            self.left = status.state
            self.machine.note(self, f"ends: {status.text}" + (f", leaves {status.state!r}" if status.state else ""))
            if self._early is not None and not self.was_up:
                self.machine.agent.call(self._early[0].handed_over.clear)
            if self._answer is not None:
                self.machine.agent.call(fail, self._answer, OutcomeUnknownError(status.text))
            self.machine.agent.call(self._child.ended, status)

    # For the agent.

    def stop(self, grace: float) -> None:
        self.signal()
        self.machine.loop.later(grace, self.kill)

    def desired_again(self) -> None: ...

    def give_up(self) -> None:
        self.kill()

    def hand_over(self, path: object, grace: float, *, ask: bool) -> None:
        """Hand over a state that names this run, and end; one run in ten hands over none."""
        self.ending = self.was_asked = True
        left = None
        if self.machine.seconds(0.0, 1.0) < 0.9:
            left = self.incarnation + self.machine.next_name()
        status = ExitStatus(Reason.EXITED, "killed by SIGTERM", state=left)
        self.machine.loop.later(self.machine.seconds(0.01, 4.0), self._end, status)

    async def request(self, request: Request) -> Response:
        """Handle a request, as soon as the process has it."""
        asked = msgspec.json.decode(await request.content(), type=Asked)
        if not self.runs:
            raise OutcomeUnknownError("it has ended")
        request.handed_over.set()
        answer = self._answer = asyncio.get_running_loop().create_future()
        if self.was_up:
            self.machine.loop.later(self.machine.seconds(0.0, 0.002), self._handle, asked, answer)
        else:
            self._early = request, asked
        return await answer

    def _handle(self, asked: Asked, answer: asyncio.Future[Response]) -> None:
        if not self.runs:
            return
        self.machine.executes(self, asked.number)
        self.handles = asked.number
        if asked.crashes:
            self.machine.loop.later(asked.seconds, self.crash)
        else:
            self.machine.loop.later(asked.seconds, self._handled, answer)

    def _handled(self, answer: asyncio.Future[Response]) -> None:
        if self.runs:
            self.handles = 0
            self.machine.agent.call(settle, answer, Response(200, b"done"))

    def role(self, role: str, epoch: int, *, notify: bool) -> None:
        self.role_now, self.epoch = role, epoch
        self.machine.note(self, f"is {role} now, of epoch {epoch}")


def settle(answer: asyncio.Future[Response], response: Response) -> None:
    if not answer.done():
        answer.set_result(response)


def fail(answer: asyncio.Future[Response], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
