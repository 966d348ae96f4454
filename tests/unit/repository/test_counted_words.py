"""Messages say "1 child", not "1 children": words for several follow a number only by ``listing.counted``."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from processhub.core.listing import counted

PACKAGE = Path(__file__).parents[3] / "operator" / "src" / "processhub"
SEVERAL = re.compile(r" (children|members|ids|copies|nodes|events|restarts|pods|hubs|hooks|entries)(?![\w=])")
# More than one by what is asked before: a status lists so many of its members, or of a child's copies, at most.
ABOVE_A_MAXIMUM = {"its {len(own)} copies", "has {MEMBERS_MAX} of its members"}


def uncounted(source: str) -> list[str]:
    """The numbers in texts of this source that are followed by the word for several of something."""
    found = []
    for text in ast.walk(ast.parse(source)):
        if not isinstance(text, ast.JoinedStr):
            continue
        for value, rest in itertools.pairwise(text.values):
            if not isinstance(value, ast.FormattedValue) or not isinstance(rest, ast.Constant):
                continue
            word, number = SEVERAL.match(str(rest.value)), ast.unparse(value.value)
            if word and not number.isupper() and not number.endswith(("name", "event")):
                found.append(f"{{{number}}}{word[0]}")
    return found


def test_a_number_that_may_be_one_is_followed_by_the_words_for_one() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in PACKAGE.rglob("*.py")
        for text in uncounted(path.read_text())
        if not any(text in known for known in ABOVE_A_MAXIMUM)
    }

    assert found == set()


def test_the_search_finds_what_it_looks_for() -> None:
    assert uncounted('f"{len(ids)} children are left"') == ["{len(ids)} children"]


@pytest.mark.parametrize(
    ("number", "of", "said"),
    [(0, "", "0 are"), (1, "", "1 is"), (2, "", "2 are"), (1, "3 children", "1 of 3 children is")],
)
def test_a_count_has_the_words_for_it(number: int, of: str, said: str) -> None:
    assert counted(number, "is", "are", of=of) == said
