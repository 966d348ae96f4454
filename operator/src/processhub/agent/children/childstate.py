"""The parts of a child's state: its status, its handover, and the attempt to run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from processhub.agent.children.runs import ExitStatus, RunHandle
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.api.reasons import State


@dataclass(slots=True)
class RunStatus:
    """The status of one incarnation. A restart of the same incarnation keeps it."""

    state: State = State.PENDING
    reason: str = ""
    message: str = ""
    pid: int = 0
    started_at: str = ""  # also proves that the child has taken up its state
    last_exit: str = ""

    def show(self, state: State, reason: str = "", message: str = "") -> None:
        """Set the state, with the reason and the message that belong to it."""
        self.state, self.reason, self.message = state, reason, message


@dataclass(slots=True)
class HandoverState:
    """The handover of one incarnation. The three texts go into the child's report unchanged."""

    leaving: bool = False  # the child is leaving its state and ending: it takes no more requests
    sent: str = ""  # the target has the whole state
    kept: str = ""  # why the state was not handed over, or is lost
    received: str = ""  # checksum of the state that has arrived from the former member

    def forget_order(self) -> None:
        """Clear the report of the former handover: another one is ordered, or none any more."""
        self.sent = self.kept = ""

    def received_for(self, desired: DesiredRun | None, before: DesiredRun | None) -> str:
        """The checksum of the state that has arrived for ``before``, if it is for ``desired`` too; else ""."""
        if desired is None or before is None or not (desired.same_run(before) or desired.begins(before)):
            return ""
        return self.received


@dataclass(eq=False, slots=True)
class Attempt:
    """One start of a child and its outcome. An attempt lasts until nothing of the run is left."""

    desired: DesiredRun  # what the child was started for, or what it has since taken over without a restart
    began: float  # by the loop's clock
    run: RunHandle | None = None
    stopping: bool = False
    leaves_state: bool = False  # it is stopping, and the next run on this member takes its state over
    verdict: ExitStatus | None = None  # why it has failed; replaces the exit status of its end
    held_back: Callable[[RunHandle], None] | None = None  # a stop that waits for the answer to a request
