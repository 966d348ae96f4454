"""The check of the Markdown pages: it accepts this repository, and rejects broken links and paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from check_docs import ROOT, broken, pages

PAGES = pages(ROOT)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in (
        "docs/architecture.md",
        "docs/other.md",
        "operator/src/processhub/core/plan.py",
        "tests/unit/test_a.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert list(broken(page)) == []


def test_all_pages_are_checked(repository: Path) -> None:
    (repository / ".venv").mkdir()
    (repository / ".venv" / "theirs.md").write_text("[x](missing.md)")
    (repository / "README.md").write_text("")

    assert [str(page.relative_to(repository)) for page in pages(repository)] == [
        "README.md",
        "docs/architecture.md",
        "docs/other.md",
    ]


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("[a](other.md)", []),
        ("[a](missing.md)", ["missing.md: there is no such file"]),
        ("[a](../missing/)", ["../missing/: there is no such file"]),
        ("[a](other.md#the-plan)", []),
        ("[a](other.md#a-plan)", ["other.md#a-plan: that file has no such heading"]),
        ("[a](../tests/unit/test_a.py#the-plan)", ["../tests/unit/test_a.py#the-plan: that file has no such heading"]),
        ("# Here\n[a](#here)", []),
        ("[a](#there)", ["#there: that file has no such heading"]),
        ("[a](https://example.com/x#y) and [b](mailto:a@example.com)", []),
        ("`[a](missing.md)`\n```\n[a](missing.md)\n```", []),
    ],
)
def test_a_broken_link_is_rejected(repository: Path, text: str, refused: list[str]) -> None:
    page = repository / "docs" / "page.md"
    page.write_text(text)
    (repository / "docs" / "other.md").write_text("# The `plan`\n")

    assert list(broken(page, repository)) == refused


def test_anchors_are_those_of_github(repository: Path) -> None:
    page = repository / "docs" / "page.md"
    page.write_text(
        '# A [link](other.md), `code` and more\n## Twice\n## Twice\n<a id="rule-7"></a>\n```\n# no heading\n```\n'
        "[1](#a-link-code-and-more) [2](#twice) [3](#twice-1) [4](#rule-7) [5](#no-heading) [6](#twice-2)"
    )

    assert list(broken(page, repository)) == [
        "#no-heading: that file has no such heading",
        "#twice-2: that file has no such heading",
    ]


@pytest.mark.parametrize("path", ["core/plan.py", "core/", "tests/unit/test_*.py", "docs/other.md", "tests/unit/"])
def test_a_path_on_a_map_may_be_of_the_package_or_of_the_repository(repository: Path, path: str) -> None:
    page = repository / "docs" / "architecture.md"
    page.write_text(f"See `{path}`, `hubs/call`, `make lint`, `<hub>/x.py` and `plan()`.")

    assert list(broken(page, repository)) == []


@pytest.mark.parametrize(
    "path", ["core/planner.py", "core/plans/", "core/plan.py/", "tests/unit/test_b*.py", "plan.py"]
)
def test_a_missing_path_on_a_map_is_rejected(repository: Path, path: str) -> None:
    page = repository / "docs" / "architecture.md"
    page.write_text(f"See `{path}`.")

    (why,) = broken(page, repository)

    assert why.startswith(f"`{path}`: there is no such path")


def test_paths_of_other_pages_are_not_read_as_a_map(repository: Path) -> None:
    page = repository / "docs" / "other.md"
    page.write_text("Write `core/mine.py`.")

    assert list(broken(page, repository)) == []
