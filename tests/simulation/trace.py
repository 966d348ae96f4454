"""The events of a run, line by line: the virtual time, the process, the event."""

from __future__ import annotations

import asyncio
import logging

from processhub.cluster.errors import ApiError
from processhub.controller.errors import DeposedError

from .processes import present_name


class Violation(AssertionError):  # noqa: N818 it is the result of a search
    """A promise of the product was broken."""


class Trace(logging.Handler):
    """The lines of one run; ``faults`` counts the faults that the seed chose."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.faults = 0
        self.violation: Violation | None = None
        self.broken = asyncio.Event()

    def note(self, who: str, what: str) -> None:
        """Note what a process or user did."""
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError:
            return  # the run is over, and its remaining objects are collected
        self.lines.append(f"{now:10.3f}  {who:<12}  {what}")

    def fault(self, who: str, what: str) -> None:
        """Note a fault."""
        self.faults += 1
        self.note(who, f"FAULT {what}")

    def break_promise(self, what: str) -> None:
        """Note that a promise is broken. The run ends with the first violation."""
        if self.violation is None:
            self.note("VIOLATION", what)
            self.violation = Violation(what)
            self.broken.set()

    def emit(self, record: logging.LogRecord) -> None:
        """Note a log line of the product."""
        if name := present_name():
            failure = record.exc_info[1] if record.exc_info else None
            text = record.getMessage() + (f" [{type(failure).__name__}: {failure}]" if failure is not None else "")
            self.note(name, f"log: {text}")
            if failure is not None and not isinstance(failure, ApiError | TimeoutError | DeposedError):
                self.break_promise(f"{name} has an error of its own: {failure!r}")
