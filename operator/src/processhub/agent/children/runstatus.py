"""The status of a child, as its report shows it."""

from __future__ import annotations

from dataclasses import dataclass

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
