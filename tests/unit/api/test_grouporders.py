"""Orders about single children, as annotations of a ChildSet or a Hub hold them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.api.grouporders import GroupOrderError, format_orders, parse_stop_orders


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 2**53), min_size=1))
def test_orders_are_read_as_they_were_written(orders: dict[str, int]) -> None:
    text = format_orders(orders)

    assert text is not None
    assert parse_stop_orders(text) == orders


def test_no_orders_remove_the_annotation() -> None:
    assert format_orders({}) is None
    assert parse_stop_orders("") == {}


@pytest.mark.parametrize(
    "text", ["cart-7", '["cart-7"]', '{"cart-7": "now"}', '{"cart-7": 1', f'{{"cart-7": {10**25}}}']
)
def test_the_error_for_another_value_says_what_is_expected(text: str) -> None:
    with pytest.raises(GroupOrderError, match="a JSON object of ids and epochs, such as"):
        parse_stop_orders(text)
