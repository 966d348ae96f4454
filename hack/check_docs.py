"""Checks that the links and paths in this repository's Markdown pages exist. Prints those that don't, and exits 1 then.

Two things are checked. Each relative link must lead to a file, and its anchor to a heading of that file. In the pages
that name parts of the source, each path between backticks must lead to a file or folder.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reference.markdown import anchor

ROOT = Path(__file__).resolve().parent.parent
# Paths of the source are written from the package, all others from the root of the repository.
BASES = ("operator/src/processhub", ".")
MAPS = ("CONTRIBUTING.md", "docs/architecture.md", "docs/decisions/*.md")  # pages whose paths are checked
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_CODE = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ +(.+?) *#*$", re.M)
_NAMED = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
# A path ends with a slash or with the suffix of a kind of file that this repository has; "*" stands for any name.
_PATH = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*(?:/|\.(?:ini|json|lock|md|mod|py|sh|toml|txt|ya?ml))")


def pages(root: Path) -> list[Path]:
    """The Markdown files of the repository, without those in folders at its root that begin with a dot."""
    tops = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    return [page for top in tops for page in (sorted(top.rglob("*.md")) if top.is_dir() else [top]) if _is_page(page)]


def broken(page: Path, root: Path = ROOT) -> Iterator[str]:
    """The broken links of a page, and the broken paths of a page in MAPS, each as a sentence."""
    text = _FENCE.sub("", page.read_text())
    for target, heading in _LINK.findall(_CODE.sub("", text)):
        there = page.parent / target if target else page
        if not there.exists():
            yield f"{target}: there is no such file"
        elif heading and heading not in anchors(there):
            yield f"{target}#{heading}: that file has no such heading"
    if any(page.relative_to(root).match(pattern) for pattern in MAPS):
        for path in filter(_PATH.fullmatch, _CODE.findall(text)):
            if not any(_exists(root / base, path) for base in BASES):
                yield f"`{path}`: there is no such path, neither in {BASES[0]} nor in the repository"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page, and those that it names itself."""
    if not _is_page(page):
        return set()
    text = _FENCE.sub("", page.read_text())
    seen = Counter[str]()
    found = set(_NAMED.findall(text))
    for heading in _HEADING.findall(text):
        name = anchor(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", ""))
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def _is_page(path: Path) -> bool:
    return path.is_file() and path.suffix == ".md"


def _exists(base: Path, path: str) -> bool:
    """Whether the path, or with a ``*`` any match, exists below ``base``; with a slash at its end, as a folder."""
    found = base.glob(path) if "*" in path else [base / path]
    return any(each.is_dir() if path.endswith("/") else each.exists() for each in found)


def main() -> int:
    """Check all pages; returns 0 if nothing is broken, else 1."""
    found = [f"{page.relative_to(ROOT)}: {why}" for page in pages(ROOT) for why in broken(page)]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
