"""The order in which figures are measured: each once, then again while there is time. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.measure import Value


class Series:
    """Runs of figures. ``figures``: name and how many runs it asks for; ``seconds``: after which nothing is repeated.

    ``runs``: what was measured; ``failed``: what ended a figure. What was measured before a failure is kept.
    """

    def __init__(self, figures: Sequence[tuple[str, int]], seconds: float) -> None:
        self._wanted, self._limit = dict(figures), seconds
        self.runs: dict[str, list[Sequence[Value]]] = {name: [] for name in self._wanted}
        self.failed: dict[str, str] = {}
        self.seconds = dict.fromkeys(self._wanted, 0.0)

    def next(self, passed: float) -> str | None:
        """The figure to measure next, ``passed`` seconds after the start; None if all is done.

        One is repeated only if its mean time so far fits into what is left.
        """
        left = self._limit - passed
        for done in range(max(self._wanted.values(), default=0)):
            for name, wanted in self._wanted.items():
                if name in self.failed or len(self.runs[name]) != done or done >= wanted:
                    continue
                if done == 0 or self.seconds[name] / done <= left:
                    return name
        return None

    def note(self, name: str, values: Sequence[Value], seconds: float) -> None:
        """Take the values of a run."""
        self.runs[name].append(values)
        self.seconds[name] += seconds

    def fail(self, name: str, why: str, seconds: float) -> None:
        """Note that a run failed: the figure is not measured again."""
        self.failed[name] = f"run {len(self.runs[name]) + 1}: {why}"
        self.seconds[name] += seconds
