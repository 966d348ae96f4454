"""Markdown as GitHub shows it: texts, tables, headings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(``?)(?=\S)(.+?)(?<=\S)\1(?!`)")
_MARKS = str.maketrans({"<": "&lt;", ">": "&gt;", "*": "\\*"})


class NotDescribedError(Exception):
    """An item of the reference has no description. The message says where to write it."""


def words(text: str) -> str:
    """A text in Markdown. Only code in one or two backticks is kept as mark-up; all else is escaped."""
    parts: list[str] = []
    end = 0
    for match in _CODE.finditer(text):
        parts += [text[end : match.start()].translate(_MARKS), code(match[2])]
        end = match.end()
    return "".join([*parts, text[end:].translate(_MARKS)])


def code(text: str) -> str:
    """A text as code within a line."""
    return f"`{' '.join(text.split())}`"


def prose(text: str) -> str:
    """A docstring's text: its paragraphs, each a line, its lists, and what follows ``::`` as code."""
    blocks: list[str] = []
    literal = False
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if block.startswith("    ") and (literal or (blocks and blocks[-1].endswith("```"))):
            lines = "\n".join(line.removeprefix("    ") for line in block.splitlines())
            if blocks[-1].endswith("```"):
                blocks[-1] = f"{blocks[-1].removesuffix('```')}\n{lines}\n```"
            else:
                blocks.append(f"```{_language(lines)}\n{lines}\n```")
            continue
        literal = block.rstrip().endswith("::")
        line = " ".join(block.split())
        blocks.append(words(line.removesuffix(":") if literal else line))
    return "\n\n".join(blocks)


def _language(lines: str) -> str:
    try:
        ast.parse(lines)
    except SyntaxError:
        return ""
    return "python"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def link(title: str, heading: str = "", page: str = "") -> str:
    """A link to a heading of this page or of another."""
    return f"[{title}]({page}{'#' + anchor(heading) if heading else ''})"


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
