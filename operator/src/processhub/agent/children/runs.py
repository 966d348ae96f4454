"""What runs a child: the handle of a started incarnation, how it ended, and the limits it is held to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from processhub.agent.request import Request, Response
from processhub.api.reasons import Reason


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How an incarnation ended: nothing of it is left."""

    reason: Reason  # the cause: Exited, CommandNotFound, ImportError, …
    text: str  # for people, such as ``exit code 1`` or ``killed by SIGKILL``
    success: bool = False  # it finished its work
    final: bool = False  # starting it again can't help before its spec changes
    fenced: bool = False  # it was ended because the member's Lease was not renewed in time
    message: str = ""  # more for people: what to do, a traceback's last line
    state: bytes | None = None  # the state that it left, where that is small enough for a message


class RunHandle(Protocol):
    """A started incarnation, whatever runs it."""

    def stop(self, grace: float) -> None:
        """Ask the run to end; end it by force after ``grace`` seconds. May be called again with less."""

    def give_up(self) -> None:
        """The start took too long: end this run, and nothing else for its sake."""

    def hand_over(self, path: Path, grace: float, *, ask: bool) -> None:
        """Have the run leave its state and end; ``ask``: only if it agrees, else ``child.stays`` is called.

        The state is at ``path`` then, or in the exit status.
        """

    def role(self, role: str, epoch: int, *, notify: bool) -> None:
        """Set the role and the epoch; ``notify``: the hub's redundancySignal asks for the child to be signalled."""

    async def request(self, request: Request) -> Response:
        """Hand over a request, whose body is there, and return the answer; cancelled only before it is handed over.

        Raises OutcomeUnknownError where no answer will come.
        """


@dataclass(slots=True)
class Limits:
    """The limits that all children of a member share; one object for all, changed in place."""

    start_seconds: float = 10.0
    stop_seconds: float = 10.0
    request_seconds: float = 5.0
    restarts_max: int = 0
    restarts_window: float = 60.0
    redundancy_signal: str = "None"
    handover_seconds: float = 0.0
    answers_first: bool = True  # a stop waits for the answer to the request in hand

    def notifies(self, role: str) -> bool:
        """Whether a child is notified when it gets this role."""
        return self.redundancy_signal in ("All", role)
