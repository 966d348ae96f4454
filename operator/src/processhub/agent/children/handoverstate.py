"""The handover state of a child, as its report shows it."""

from __future__ import annotations

from dataclasses import dataclass

from processhub.agent.registry.slicewatcher import DesiredRun


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
