"""JSON that is nested too deeply: what is found quickly is what a look at each bracket in turn finds."""

from __future__ import annotations

import pytest

from processhub.cluster.deepjson import DEEPEST, is_deep, shallow


@pytest.mark.parametrize("levels", [DEEPEST - 1, DEEPEST, DEEPEST + 1, 3 * DEEPEST])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        pytest.param(b"[", b"]", id="lists"),
        pytest.param(b'{"a":', b"}", id="mappings"),
        pytest.param(b'["]",', b"]", id="a closing bracket in a string beside each opening one"),
        pytest.param(b"[", b',"["]', id="an opening bracket in a string beside each closing one"),
        pytest.param(b'["\\"]",', b"]", id="a quote in each string"),
        pytest.param(b'["\\\\",', b"]", id="a backslash in each string"),
    ],
)
def test_only_more_levels_than_are_kept_are_too_many(opening: bytes, closing: bytes, levels: int) -> None:
    body = b"[[],%s1%s,{}]" % (opening * (levels - 1), closing * (levels - 1))

    assert is_deep(body) is (levels > DEEPEST)
    assert (shallow(body) != body) is (levels > DEEPEST)


def test_an_object_with_many_brackets_side_by_side_is_not_deep() -> None:
    assert not is_deep(b'{"registry":[%s]}' % b",".join([b'{"nodes":[{}]}'] * DEEPEST))
