"""One attempt to run a child."""

from __future__ import annotations

from collections.abc import Callable

from processhub.agent.children.runs import ExitStatus, RunHandle
from processhub.agent.registry.slicewatcher import DesiredRun


class Attempt:
    """One start of a child and its outcome. An attempt lasts until nothing of the run is left."""

    __slots__ = ("began", "desired", "held_back", "leaves_state", "run", "stopping", "verdict")

    def __init__(self, desired: DesiredRun, began: float) -> None:
        self.desired = desired  # what the child was started for, or what it has since taken over without a restart
        self.began = began  # by the loop's clock
        self.run: RunHandle | None = None
        self.stopping = False
        self.leaves_state = False  # it is stopping, and the next run on this member takes its state over
        self.verdict: ExitStatus | None = None  # why it has failed; replaces the exit status of its end
        self.held_back: Callable[[RunHandle], None] | None = None  # a stop that waits for the answer to a request
