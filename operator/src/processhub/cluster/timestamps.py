"""The wall clock, and the present time as Kubernetes writes it: RFC 3339 in UTC.

Operator and agent read the time of day only here. ``use_clock`` sets another clock, such as a simulated one, for the
current context and for the tasks that it creates. Durations are measured by the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime

_clock: ContextVar[Callable[[], datetime]] = ContextVar("clock", default=lambda: datetime.now(UTC))


def use_clock(clock: Callable[[], datetime]) -> None:
    """Read the present time from ``clock`` (UTC) from now on, in this context."""
    _clock.set(clock)


def utc_now() -> datetime:
    """The present time in UTC."""
    return _clock.get()()


def unix_time(text: str) -> float | None:
    """The Unix time of an RFC 3339 time; None if it is empty or is none: anybody may have written it."""
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (then if then.tzinfo is not None else then.replace(tzinfo=UTC)).timestamp()


def now_seconds() -> str:
    """The present time in whole seconds, such as ``2026-01-02T03:04:05Z`` (Kubernetes' type Time)."""
    return utc_now().isoformat(timespec="seconds").replace("+00:00", "Z")


def now_millis() -> str:
    """The present time with milliseconds, such as ``2026-01-02T03:04:05.006Z``."""
    return utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now_micros() -> str:
    """The present time with microseconds, such as ``2026-01-02T03:04:05.000006Z`` (Kubernetes' type MicroTime)."""
    return utc_now().isoformat(timespec="microseconds").replace("+00:00", "Z")
