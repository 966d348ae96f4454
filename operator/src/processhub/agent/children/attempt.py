"""One attempt to run a child."""

from __future__ import annotations

from collections.abc import Callable

from processhub.agent.children.runs import ExitStatus, RunHandle
from processhub.agent.registry.slicewatcher import DesiredRun


class Attempt:
    """One start of a child and what became of it, until nothing of it is left."""

    __slots__ = ("began", "desired", "held_back", "run", "stopping", "verdict")

    def __init__(self, desired: DesiredRun, began: float) -> None:
        self.desired = desired  # what it was started for, or has taken over since without a restart
        self.began = began  # by the loop's clock
        self.run: RunHandle | None = None
        self.stopping = False
        self.verdict: ExitStatus | None = None  # how it has failed, whatever its end looks like
        self.held_back: Callable[[RunHandle], None] | None = None  # a stop that waits for a request's answer
