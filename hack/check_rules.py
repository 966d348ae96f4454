"""Checks that the rules of docs/protocol.md agree with the places that cite them and the tests that check them.

The tests that docs/field-report.md names are checked too.

``python hack/check_rules.py`` prints one sentence for each failure, with file and line, and exits 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = "docs/protocol.md"
WITH_TESTS = (PROTOCOL, "docs/field-report.md")  # pages that name tests
# Citations are looked for in files of these kinds in these places.
_PLACES = ("*.md", "charts", "docs", "examples", "hack", "operator", "tests")
_KINDS = (".md", ".py", ".sh", ".tpl", ".yaml")

_GAP = r"\s+(?:# +)?"  # a citation may continue in the next line, also that of a comment
_NUMBERS = rf"\d+(?:(?:,{_GAP}|{_GAP}and{_GAP}|{_GAP}to{_GAP}|[-–])\d+)*"
_CITATION = re.compile(rf"(?P<document>docs/protocol\.md,{_GAP})?\brules?{_GAP}(?P<numbers>{_NUMBERS})", re.I)
_LINK = re.compile(r"(?:protocol\.md|\()#rule-(?P<numbers>\d+)")
_ANCHOR = re.compile(r'<a id="rule-(\d+)"></a>')
_HEADING = re.compile(r"### Rule (\d+): \S")
_TEST = re.compile(r"`(?P<path>tests/[\w/]+\.py)::(?P<name>\w+)`")


class Failure(NamedTuple):
    """A failure and its place. The path is relative to the checkout."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        """The failure as compilers print theirs."""
        return f"{self.path}:{self.line}: {self.what}"


class Rule(NamedTuple):
    """A rule of the protocol with the line of its heading."""

    number: int
    line: int
    text: str


def failures(root: Path) -> list[Failure]:
    """All failures in the checkout ``root``, by file and line."""
    text = (root / PROTOCOL).read_text()
    rules = rules_of(text)
    found = list(_bad_headings(text))
    for page in WITH_TESTS:
        found += _missing_tests(root, page)
    found += [
        Failure(PROTOCOL, rule.line, f"rule {rule.number} names no test that holds it")
        for rule in rules
        if not _TEST.search(rule.text)
    ]
    numbers = {rule.number for rule in rules}
    for path in _files(root):
        found += _bad_citations(path.relative_to(root).as_posix(), path.read_text(), numbers)
    return sorted(found)


def rules_of(text: str) -> list[Rule]:
    """The rules of the protocol. The text of each ends at the next heading of its level or of a higher one."""
    lines = text.splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith(("# ", "## ", "### "))]
    return [
        Rule(int(heading[1]), start + 1, "\n".join(lines[start:end]))
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)
        if (heading := _HEADING.match(lines[start]))
    ]


def _bad_headings(text: str) -> Iterator[Failure]:
    """Rules without the anchor that links lead to, and numbers that two rules have."""
    before, seen = "", set[str]()
    for line, content in enumerate(text.splitlines(), 1):
        if heading := _HEADING.match(content):
            number = heading[1]
            anchor = _ANCHOR.fullmatch(before)
            if anchor is None or anchor[1] != number:
                yield Failure(PROTOCOL, line, f'rule {number} has no <a id="rule-{number}"></a> before its heading')
            if number in seen:
                yield Failure(PROTOCOL, line, f"rule {number} is there twice")
            seen.add(number)
        before = content or before


def _missing_tests(root: Path, page: str) -> Iterator[Failure]:
    """Tests that the page names and that do not exist."""
    known: dict[str, set[str]] = {}
    text = (root / page).read_text() if (root / page).is_file() else ""
    for match in _TEST.finditer(text):
        path, name = match["path"], match["name"]
        if path not in known:
            known[path] = _tests(root / path)
        if name not in known[path]:
            what = f"{path} has no test {name}" if (root / path).is_file() else f"there is no {path}"
            yield Failure(page, _line(text, match.start()), what)


def _tests(path: Path) -> set[str]:
    """The names of a file's tests: functions, classes, and classes that a call makes; None if there is no file."""
    names = set[str]()
    for node in ast.parse(path.read_text()).body if path.is_file() else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if name.startswith(("test_", "Test"))}


def _files(root: Path) -> Iterator[Path]:
    """The files that may cite a rule."""
    for place in _PLACES:
        for top in sorted(root.glob(place)):
            for path in sorted(top.rglob("*")) if top.is_dir() else (top,):
                if path.suffix in _KINDS and path.is_file():
                    yield path


def _bad_citations(path: str, text: str, rules: set[int]) -> Iterator[Failure]:
    """Citations of unknown rules, and, where no link is possible, those that do not name the document they cite."""
    for match in [*_CITATION.finditer(text), *_LINK.finditer(text)]:
        line = _line(text, match.start("numbers"))
        for number in map(int, re.findall(r"\d+", match["numbers"])):
            if number not in rules:
                yield Failure(path, line, f"{PROTOCOL} has no rule {number}")
        if match.re is _CITATION and not match["document"] and not path.endswith(".md"):
            yield Failure(path, line, f"write ({PROTOCOL}, {match[0]}), so that a reader finds the rule")


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def main() -> int:
    """Check the rules; returns 0 if all agree, else 1."""
    found = failures(ROOT)
    for failure in found:
        print(failure)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
