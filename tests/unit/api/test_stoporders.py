"""The orders to stop children that requests have started, as the annotation of the Hub holds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.api.stoporders import StopOrderError, format_stop_orders, parse_stop_orders


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 2**53), min_size=1))
def test_orders_are_read_as_they_were_written(orders: dict[str, int]) -> None:
    text = format_stop_orders(orders)

    assert text is not None
    assert parse_stop_orders(text) == orders


def test_no_orders_remove_the_annotation() -> None:
    assert format_stop_orders({}) is None
    assert parse_stop_orders("") == {}


@pytest.mark.parametrize("text", ["cart-7", '["cart-7"]', '{"cart-7": "now"}', '{"cart-7": 1'])
def test_the_error_for_another_value_says_what_is_expected(text: str) -> None:
    with pytest.raises(StopOrderError, match="a JSON object of ids and epochs, such as"):
        parse_stop_orders(text)
