"""What a child, what runs it and its supervisor tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from processhub.api.reasons import Reason

if TYPE_CHECKING:
    from processhub.agent.child import Child
    from processhub.agent.sync import Wanted


@dataclass(frozen=True, slots=True)
class End:
    """How an incarnation ended: nothing of it is left."""

    reason: Reason  # the cause: Exited, CommandNotFound, ImportError, …
    text: str  # for people, such as ``exit code 1`` or ``killed by SIGKILL``
    success: bool = False  # it finished its work
    final: bool = False  # starting it again can't help before its spec changes
    fenced: bool = False  # it was ended because the member's Lease was not renewed in time
    message: str = ""  # more for people: what to do, a traceback's last line


class Handle(Protocol):
    """A started incarnation, whatever runs it."""

    def stop(self, grace: float) -> None:
        """Ask it to end; end it by force after ``grace`` seconds. May be called again with less."""

    def give_up(self) -> None:
        """Its start took too long: end it, but nothing else for its sake."""

    def role(self, role: str) -> None:
        """Tell it of its changed role."""


class Owner(Protocol):
    """What a child needs of its supervisor."""

    closing: bool  # the agent ends: nothing is started any more

    def may_start(self, child: Child, *, again: bool) -> bool:
        """Whether it may start now; ``again``: the same incarnation has run here before."""

    def launch(self, child: Child, wanted: Wanted) -> Handle:
        """Have it started; ``child.begun``, ``child.running`` and ``child.ended`` follow."""

    def changed(self, child: Child, *, urgent: bool) -> None:
        """Its report changed; ``urgent``: somebody may wait for it."""

    def gone(self, child: Child) -> None:
        """Nothing runs and nothing is wanted: forget it."""

    def restarted(self, child: Child) -> None:
        """It is being restarted (for metrics)."""

    def started(self, child: Child, seconds: float) -> None:
        """It runs, so long after its start was begun (for metrics)."""


@dataclass(slots=True)
class Limits:
    """What a child needs of the hub's settings; one object for all, changed in place."""

    start_seconds: float = 10.0
    stop_seconds: float = 10.0
    restarts_max: int = 0
    restarts_window: float = 60.0
