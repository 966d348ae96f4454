"""The check of docs/protocol.md: every cited rule exists, and each rule names tests that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from check_rules import PROTOCOL, ROOT, failures, rules_of

ANCHOR = '<a id="rule-{0}"></a>'
RULE = ANCHOR + "\n\n### Rule {0}: it holds\n\nHeld by:\n\n- `{1}`\n\n"
TEST = "tests/unit/test_it.py::test_it_holds"


def rule(number: int) -> str:
    """Return the check's name of a rule. Written out, it would be a citation in this file."""
    return f"rule {number}"


def cited(numbers: str) -> str:
    """Return a citation that this file does not contain itself."""
    return f"({PROTOCOL}, rules {numbers})"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with two rules that agree with their citations and their tests."""
    put(tmp_path, PROTOCOL, RULE.format(1, TEST) + RULE.format(2, "tests/unit/test_it.py::TestIt"))
    put(
        tmp_path,
        "tests/unit/test_it.py",
        "def test_it_holds():\n    pass\n\n\nTestIt = type('Life', (), {}).TestCase\n",
    )
    put(tmp_path, "operator/src/it.py", f'"""It does it {cited("1 and 2")}."""\n')
    put(tmp_path, "docs/it.md", "See [it](protocol.md#rule-2).\n")
    return tmp_path


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def said(root: Path) -> list[str]:
    return [str(failure) for failure in failures(root)]


def test_this_checkout_is_consistent() -> None:
    assert len(rules_of((ROOT / PROTOCOL).read_text())) >= 25
    assert said(ROOT) == []


def test_a_consistent_checkout_has_no_failures(checkout: Path) -> None:
    assert said(checkout) == []


@pytest.mark.parametrize("numbers", ["9", "1 and 9", "1, 9 and 2", "1 to 9", "1, 2 and\n# 9"])
def test_a_citation_of_a_missing_rule_is_rejected(checkout: Path, numbers: str) -> None:
    put(checkout, "tests/unit/model/hub.py", f'"""The model."""\n\n# It is so {cited(numbers)}.\n')

    assert said(checkout) == [f"tests/unit/model/hub.py:3: {PROTOCOL} has no {rule(9)}"]


def test_a_link_to_a_missing_rule_is_rejected(checkout: Path) -> None:
    put(checkout, "README.md", "\n[it](docs/protocol.md#rule-3)\n")

    assert said(checkout) == [f"README.md:2: {PROTOCOL} has no {rule(3)}"]


def test_a_citation_in_code_names_its_document(checkout: Path) -> None:
    put(checkout, "operator/src/it.py", f'"""It does it ({rule(1)})."""\n')

    assert said(checkout) == [f"operator/src/it.py:1: write ({PROTOCOL}, {rule(1)}), so that a reader finds the rule"]


@pytest.mark.parametrize(
    ("held", "what"),
    [
        ("tests/unit/test_it.py::test_it_breaks", "tests/unit/test_it.py has no test test_it_breaks"),
        ("tests/unit/test_them.py::test_it_holds", "there is no tests/unit/test_them.py"),
    ],
)
def test_a_missing_test_is_rejected(checkout: Path, held: str, what: str) -> None:
    put(checkout, PROTOCOL, RULE.format(1, TEST) + RULE.format(2, held))

    assert said(checkout) == [f"{PROTOCOL}:15: {what}"]


def test_a_rule_without_a_test_is_rejected(checkout: Path) -> None:
    put(checkout, PROTOCOL, RULE.format(1, "none") + RULE.format(2, TEST))

    assert said(checkout) == [f"{PROTOCOL}:3: {rule(1)} names no test that holds it"]


def test_a_rule_has_a_unique_anchor_and_number(checkout: Path) -> None:
    put(checkout, PROTOCOL, RULE.format(1, TEST) + RULE.format(2, TEST).removeprefix(ANCHOR.format(2)))
    without = said(checkout)
    put(checkout, PROTOCOL, RULE.format(1, TEST) + RULE.format(2, TEST) + RULE.format(2, TEST))
    twice = said(checkout)

    assert without == [f'{PROTOCOL}:11: {rule(2)} has no <a id="rule-2"></a> before its heading']
    assert twice == [f"{PROTOCOL}:19: {rule(2)} is there twice"]


def test_a_missing_test_in_the_field_report_is_rejected(checkout: Path) -> None:
    put(checkout, "docs/field-report.md", f"| it | `{TEST}`<br>`tests/unit/test_it.py::test_it_does_not` |\n")

    assert said(checkout) == ["docs/field-report.md:1: tests/unit/test_it.py has no test test_it_does_not"]
