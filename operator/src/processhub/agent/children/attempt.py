"""One attempt to run a child."""

from __future__ import annotations

from collections.abc import Callable

from processhub.agent.children.runs import RunHandle
from processhub.agent.registry.slicewatcher import DesiredRun


class Attempt:
    """One start of a child and its outcome. An attempt lasts until nothing of the run is left."""

    __slots__ = ("began", "desired", "held_back", "run", "stopping", "timed_out")

    def __init__(self, desired: DesiredRun, began: float) -> None:
        self.desired = desired  # what the child was started for, or what it has since taken over without a restart
        self.began = began  # by the loop's clock
        self.run: RunHandle | None = None
        self.stopping = self.timed_out = False
        self.held_back: Callable[[RunHandle], None] | None = None  # a stop that waits for the answer to a request
