"""The handle of a started incarnation, its exit status, and the limits of all children."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from processhub.agent.request import Request, Response
from processhub.api.reasons import Reason


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """The end of an incarnation, of which nothing is left."""

    reason: Reason  # the cause: Exited, CommandNotFound, ImportError, …
    text: str  # for people, such as ``exit code 1`` or ``killed by SIGKILL``
    success: bool = False  # the child finished its work
    final: bool = False  # another start can't succeed before the spec changes
    fenced: bool = False  # the child was ended because the member's Lease was not renewed in time
    by_other: bool = False  # its process was ended because of another child in it: restarts.max does not count that
    message: str = ""  # more text for people: what to do, or the last line of a traceback
    state: bytes | None = None  # the state that the child left, if it is small enough for a message


def out_of_memory(memory: tuple[int, int]) -> str:
    """Why a process was killed that used most of the container's memory. ``memory``: the bytes used, and the limit."""
    used, limit = memory
    return (
        f"it used {used // 2**20} MiB, more than any other child, when hardly anything was left of the member's "
        f"{limit // 2**20} MiB; have it use less, or raise the memory limit in spec.members.template of the hub"
    )


class RunHandle(Protocol):
    """The handle of a started incarnation, for all kinds of workload.

    A kind may leave out the orders that end with ``return``: they do nothing then.
    """

    @property
    def takes_early(self) -> bool:
        """Whether a request may be handed over before the child is up. It begins when the child is, or never."""
        return False

    def stop(self, grace: float) -> None:
        """Ask the run to end; kill it after ``grace`` seconds. A later call may shorten the grace."""

    def desired_again(self) -> None:
        """Take back the order to stop, where nothing has followed from it. Otherwise another start follows the end."""
        return

    def give_up(self) -> None:
        """End this run, because its start took too long. No other run may be disturbed."""

    def hand_over(self, path: Path, grace: float, *, ask: bool) -> None:
        """Ask the run to leave its state and end; ``ask``: only if it agrees, else ``child.stays`` is called.

        The state is then at ``path``, or in the exit status.
        """
        return

    def role(self, role: str, epoch: int, *, notify: bool) -> None:
        """Set the role and the epoch; ``notify``: the hub's redundancySignal asks for a signal to the child."""
        return

    def request(self, request: Request) -> Awaitable[Response]:
        """Hand over a request when the child can take it, and return the answer.

        ``request.content()`` must not be called before that, because a forwarded request counts as begun then. The call
        may be cancelled only before the request is handed over. Raises OutcomeUnknownError if no answer will come, and
        WithdrawnError.
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
    answers_first: bool = True  # a stop waits for the answer to the request that the child is handling

    def notifies(self, role: str) -> bool:
        """Whether a child is signalled when it gets this role."""
        return self.redundancy_signal in ("All", role)
