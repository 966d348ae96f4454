"""Leading-edge rate limiting: a burst at once, then the rate, by the caller's clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.cluster.tokenbucket import ByteBudget, TokenBucket


def test_a_burst_is_allowed_at_once_and_the_next_write_waits() -> None:
    bucket = TokenBucket(rate=1, burst=10)

    taken = [bucket.take(0.0) for _ in range(11)]

    assert taken == [True] * 10 + [False]


def test_a_token_is_available_after_the_returned_wait_and_not_before() -> None:
    bucket = TokenBucket(rate=2, burst=1)
    bucket.take(5.0)

    assert bucket.wait(5.0) == pytest.approx(0.5)
    assert bucket.wait(5.3) == pytest.approx(0.2)
    assert not bucket.take(5.4)
    assert bucket.take(5.5)


@given(
    st.floats(0.01, 1000),
    st.floats(0, 1e7),
    st.lists(st.floats(0, 0.3, allow_subnormal=False), min_size=1, max_size=20),
)
def test_who_waits_as_long_as_it_is_told_gets_a_token_soon(rate: float, now: float, pauses: list[float]) -> None:
    """Sums of floats are not exact. A wait that is less than the clock's last digit would never end."""
    bucket = TokenBucket(rate, burst=1)
    for pause in pauses:
        waits = 0
        while (wait := bucket.wait(now)) > 0:
            now, waits = now + wait, waits + 1
            assert waits <= 3
        assert bucket.take(now)
        now += pause


def test_asking_for_the_wait_takes_no_token() -> None:
    bucket = TokenBucket(rate=1, burst=1)

    assert [bucket.wait(0.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(0.0)


def test_idle_time_accumulates_at_most_one_burst() -> None:
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
    now, taken = 0.0, 0

    for gap in gaps:
        now += gap
        taken += bucket.take(now)

    assert taken <= burst + rate * now + 1e-6


def test_a_deferrable_write_of_any_size_is_allowed_when_nothing_is_owed() -> None:
    budget = ByteBudget(rate=100, burst=1000)
    assert budget.wait(0.0) == 0.0
    budget.spend(0.0, 1500)

    assert budget.wait(0.0) == pytest.approx(5.0)
    assert budget.wait(5.0) == 0.0


def test_a_write_that_cannot_wait_is_owed_for_some_seconds_at_most() -> None:
    budget = ByteBudget(rate=100, burst=1000)
    for _ in range(10):
        budget.spend(0.0, 5000, owed_seconds=30)
    assert budget.wait(0.0) == pytest.approx(30.0)

    budget.spend(0.0, 4000)
    assert budget.wait(0.0) == pytest.approx(70.0), "what could have waited is owed for whole"
    budget.spend(0.0, 5000, owed_seconds=30)
    assert budget.wait(0.0) == pytest.approx(70.0)


@given(st.floats(1, 1000), st.floats(1, 10_000), st.lists(st.tuples(st.floats(0, 9), st.floats(1, 5000)), max_size=100))
def test_deferrable_writes_take_at_most_the_rate_and_one_write(
    rate: float, burst: float, wishes: list[tuple[float, float]]
) -> None:
    budget = ByteBudget(rate, burst)
    now = written = 0.0

    for gap, size in wishes:
        now += gap
        if not budget.wait(now):
            budget.spend(now, size)
            written += size

    assert written <= burst + rate * now + 5000 + 1
