"""The present time as Kubernetes writes it: RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def now_seconds() -> str:
    """The present time in whole seconds, such as ``2026-01-02T03:04:05Z`` (Kubernetes' type Time)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micros() -> str:
    """The present time with microseconds, such as ``2026-01-02T03:04:05.000006Z`` (Kubernetes' type MicroTime)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
