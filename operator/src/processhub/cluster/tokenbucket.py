"""Leading-edge rate limiting: of writes to one object, and of the bytes of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_KEPT = 1000  # buckets, before the full ones among them are looked for


class TokenBucket:
    """At most ``burst`` writes at once, refilled at ``rate`` a second. The clock is the caller's (seconds)."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = burst
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until the next token; 0 where one is there. Takes nothing."""
        self._refill(now)
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    def take(self, now: float) -> bool:
        """Take a token where there is one."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def full(self, now: float) -> bool:
        """Whether a new bucket would be no different."""
        self._refill(now)
        return self._tokens >= self._burst

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


class ByteBudget:
    """What writes may take: ``burst`` bytes at once, refilled at ``rate`` a second. The clock is the caller's.

    A write that may be put off waits until nothing is owed, and is then made whatever its size; another is made at once
    and owed for. So both together take no more than the rate on average where those that can't wait take less.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left = burst
        self._at: float | None = None

    def limit(self, rate: float, burst: float) -> None:
        """Refill at another rate, up to another burst, from now on."""
        self._rate, self._burst = rate, burst

    def wait(self, now: float) -> float:
        """Seconds until nothing is owed; 0 where nothing is. Takes nothing."""
        self._refill(now)
        return -self._left / self._rate if self._left <= -1 else 0.0  # less than a byte is rounding

    def full(self, now: float) -> bool:
        """Whether a new budget would be no different."""
        self._refill(now)
        return self._left >= self._burst

    def spend(self, now: float, size: float, *, owed_seconds: float = math.inf) -> None:
        """Take ``size`` bytes, but not so many that more is owed than is refilled in ``owed_seconds``."""
        self._refill(now)
        self._left = min(self._left, max(self._left - size, -owed_seconds * self._rate))

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._left += (now - self._at) * self._rate
        self._left = min(self._burst, self._left)
        self._at = now


Key = TypeVar("Key", bound=Hashable)
Bucket = TypeVar("Bucket", bound=TokenBucket | ByteBudget)


class Buckets(Generic[Key, Bucket]):
    """A bucket for each object, made when it is needed. Full ones are dropped: objects come and go."""

    def __init__(self, make: Callable[[], Bucket]) -> None:
        self._make = make
        self._buckets: dict[Key, Bucket] = {}
        self._most = _KEPT

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: Key, now: float) -> Bucket:
        """The object's bucket."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.full(now)}
                self._most = max(_KEPT, 2 * len(self._buckets))
            bucket = self._buckets[key] = self._make()
        return bucket
