"""The wall clock, and the present as Kubernetes writes it: RFC 3339 in UTC.

All that operator and agent write of the time of day is read here. ``use_clock`` sets another clock for the current
context, and so for the tasks that it creates: a simulated one. What is measured is measured by the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime


def _system_clock() -> datetime:
    return datetime.now(UTC)


_clock: ContextVar[Callable[[], datetime]] = ContextVar("clock", default=_system_clock)


def use_clock(clock: Callable[[], datetime]) -> None:
    """Read the present by ``clock`` (UTC) from now on, in this context."""
    _clock.set(clock)


def utc_now() -> datetime:
    """The present, in UTC."""
    return _clock.get()()


def now_seconds() -> str:
    """The present in whole seconds, such as ``2026-01-02T03:04:05Z``: what Kubernetes calls Time."""
    return utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")


def now_millis() -> str:
    """The present with milliseconds, such as ``2026-01-02T03:04:05.006Z``."""
    return utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now_micros() -> str:
    """The present with microseconds, such as ``2026-01-02T03:04:05.000006Z``: what Kubernetes calls MicroTime."""
    return utc_now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
