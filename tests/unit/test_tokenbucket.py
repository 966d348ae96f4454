"""Leading-edge rate limiting: a burst at once, then the rate, by the caller's clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.cluster.tokenbucket import TokenBucket


def test_a_burst_goes_at_once_and_the_next_waits() -> None:
    bucket = TokenBucket(rate=1, burst=10)

    taken = [bucket.take(0.0) for _ in range(11)]

    assert taken == [True] * 10 + [False]


def test_a_token_is_there_after_the_wait_that_was_told_and_not_before() -> None:
    bucket = TokenBucket(rate=2, burst=1)
    bucket.take(5.0)

    assert bucket.wait(5.0) == pytest.approx(0.5)
    assert bucket.wait(5.3) == pytest.approx(0.2)
    assert not bucket.take(5.4)
    assert bucket.take(5.5)


def test_asking_takes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1)

    assert [bucket.wait(0.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(0.0)


def test_idle_time_saves_up_no_more_than_a_burst() -> None:
    bucket = TokenBucket(rate=1, burst=3)
    bucket.take(0.0)

    taken = [bucket.take(1e6) for _ in range(5)]

    assert taken == [True, True, True, False, False]


@given(
    st.floats(0.5, 20),
    st.integers(1, 20),
    st.lists(st.floats(0, 3), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    bucket = TokenBucket(rate=rate, burst=burst)
    now = taken = 0

    for gap in gaps:
        now += gap
        taken += bucket.take(now)

    assert taken <= burst + rate * now + 1e-6
