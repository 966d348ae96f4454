"""Durations as kubectl reads and prints them."""

from __future__ import annotations

import re
from datetime import datetime

from processhub.cli.errors import UsageError
from processhub.cluster.timestamps import unix_time

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 7 * 24 * 3600.0


def seconds(text: str, option: str = "--timeout") -> float:
    """The seconds of ``10``, ``10s``, ``1m30s`` or ``500ms``. Raises UsageError."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        value = float(text)
    elif re.fullmatch(f"({_PART.pattern})+", text):
        value = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    else:
        raise UsageError(f"{option} {text!r} is not a duration; write seconds (10) or 500ms, 10s, 1m30s")
    if not 0 < value <= _LONGEST:
        raise UsageError(f"{option} {text!r} is out of range; it is above 0 and at most 168h")
    return value


def age(timestamp: str, now: datetime) -> str:
    """How long ago an RFC 3339 time was, as kubectl's AGE: ``12s``, ``5m3s``, ``4h``, ``3d``; ``<none>`` if empty."""
    then = unix_time(timestamp)
    if then is None:
        return "<none>"
    passed = max(0, int(now.timestamp() - then))
    minutes, hours, days = passed // 60, passed // 3600, passed // 86400
    if passed < 120:
        return f"{passed}s"
    if minutes < 10:
        return f"{minutes}m{passed % 60}s" if passed % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    return f"{days}d"
