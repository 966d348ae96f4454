"""The handover state of a child, as its report shows it."""

from __future__ import annotations

from dataclasses import dataclass


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
