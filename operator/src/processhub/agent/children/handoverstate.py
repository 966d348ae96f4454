"""What a child has to do with a handover of its state."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class HandoverState:
    """The handover of one incarnation. The three texts go into the report of the child as they are."""

    leaving: bool = False  # the child is to leave its state and end: no request goes to it any more
    sent: str = ""  # the target has the whole state
    kept: str = ""  # why the state was not handed over, or is lost
    received: str = ""  # the state from the former member is here

    def forget_order(self) -> None:
        """Another handover is ordered, or none any more: report nothing of the former one."""
        self.sent = self.kept = ""
