"""The parts of a member that a test of its children does not use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from processhub.agent.children.child import Child
from processhub.agent.children.restartlog import RestartLog
from processhub.agent.handover.transfer import Handovers
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.supervisor import Supervisor
from processhub.registry.grammar import Report


class AlwaysPermitted:
    """The Lease is always held."""

    closing = False

    def may_start(self, *, again: bool) -> bool:
        return True

    def close(self) -> None:
        self.closing = True


class NoHandovers:
    """No child moves."""

    def lacks(self, child: Child) -> bool:
        return False

    def state_for(self, child_id: str, desired: DesiredRun) -> None:
        return None


def supervisor_of(
    launchers: Mapping[type, Any],
    handovers: Handovers | None = None,
    earlier: Report | None = None,
    restarts: RestartLog | None = None,
) -> Supervisor:
    """Return a supervisor without children. ``earlier`` are the reports of an earlier agent."""
    moves: Any = handovers or NoHandovers()
    supervisor = Supervisor({}, launchers, AlwaysPermitted(), moves, lambda *_: earlier, restarts)  # type: ignore[arg-type]
    if handovers is not None:
        handovers.listen_to(supervisor.news)
    return supervisor
