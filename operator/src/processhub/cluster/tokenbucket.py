"""Rate limits for the writes to one object, and for the bytes of many. The first write is never delayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_KEPT = 1000  # number of buckets after which full ones are removed
_ROUNDING = 1e-6  # tokens; to wait for less would take no time that a clock shows


class _Bucket:
    """Holds ``burst`` at most, and is refilled at ``rate`` a second. The caller passes the time in seconds."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left = burst
        self._at: float | None = None

    def full(self, now: float) -> bool:
        """Whether the bucket is as full as a new one."""
        self._refill(now)
        return self._left >= self._burst

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._left += (now - self._at) * self._rate
        self._left = min(self._burst, self._left)
        self._at = now


class TokenBucket(_Bucket):
    """Allows ``burst`` writes at once, and refills at ``rate`` a second."""

    def wait(self, now: float) -> float:
        """The seconds until the next token; 0 if there is one. No token is taken."""
        self._refill(now)
        missing = 1 - self._left
        return missing / self._rate if missing > _ROUNDING else 0.0

    def take(self, now: float) -> bool:
        """Take a token if there is one; returns whether there was."""
        self._refill(now)
        if 1 - self._left > _ROUNDING:
            return False
        self._left -= 1
        return True


class ByteBudget(_Bucket):
    """A budget of bytes for writes: ``burst`` at once, refilled at ``rate`` a second.

    A write that can wait waits until nothing is owed, and is then made whatever its size. A write that can't wait is
    made at once, and the budget owes its bytes. So the average stays within the rate, provided that the writes which
    can't wait stay below it.
    """

    def limit(self, rate: float, burst: float) -> None:
        """Change the rate and the burst from now on."""
        self._rate, self._burst = rate, burst

    def wait(self, now: float) -> float:
        """The seconds until nothing is owed; 0 if nothing is owed. Nothing is spent."""
        self._refill(now)
        return -self._left / self._rate if self._left <= -1 else 0.0  # less than a byte is a rounding error

    def spend(self, now: float, size: float, *, owed_seconds: float = math.inf) -> None:
        """Take ``size`` bytes, but owe at most what is refilled in ``owed_seconds``."""
        self._refill(now)
        self._left = min(self._left, max(self._left - size, -owed_seconds * self._rate))


Key = TypeVar("Key", bound=Hashable)
Bucket = TypeVar("Bucket", bound=_Bucket)


class Buckets(Generic[Key, Bucket]):
    """A bucket for each object, created at its first use. Full ones are dropped, because objects come and go."""

    def __init__(self, make: Callable[[], Bucket]) -> None:
        self._make = make
        self._buckets: dict[Key, Bucket] = {}
        self._most = _KEPT

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: Key, now: float) -> Bucket:
        """The bucket of the object."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.full(now)}
                self._most = max(_KEPT, 2 * len(self._buckets))
            bucket = self._buckets[key] = self._make()
        return bucket
