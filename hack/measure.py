"""Measures of the code base: how many concepts its readers must know, and how large its parts are.

``python hack/measure.py`` prints them. With ``--check`` it exits 1 if one is worse than its bound, so that none gets
worse unnoticed. A bound is lowered when the code has become better. The number of lines is printed and has no bound.
"""

from __future__ import annotations

import ast
import configparser
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ROOT / "operator" / "src" / "processhub"
LONG_FUNCTION = 50  # lines, including decorators and docstring


class Bound(NamedTuple):
    """The worst value that passes."""

    least: int | None = None
    most: int | None = None

    def holds(self, value: int) -> bool:
        """Whether the value is within the bound."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        """The bound as the table shows it."""
        return f"≥ {self.least}" if self.least is not None else f"≤ {self.most}" if self.most is not None else ""


class Measure(NamedTuple):
    """One line of the table. ``where`` names the source of the value: the largest item, or all items that count."""

    name: str
    value: int
    bound: Bound
    where: str = ""


class Module(NamedTuple):
    """A parsed file of the product."""

    path: Path
    lines: int
    tree: ast.Module

    @property
    def name(self) -> str:
        """The module's path from the package's folder."""
        return str(self.path.relative_to(PRODUCT))


def measures() -> list[Measure]:
    """All measures of the checkout."""
    modules = list(_modules())
    classes = [(module, item) for module in modules for item in ast.walk(module.tree) if isinstance(item, ast.ClassDef)]
    longest = max(modules, key=lambda module: module.lines)
    attributes, largest = max((len(_state(item)), f"{item.name} in {module.name}") for module, item in classes)
    twice = sorted(name for name, count in Counter(item.name for _, item in classes).items() if count > 1)
    long = [f"{item.name} in {module.name}" for module in modules for item in _long_functions(module.tree)]
    circle = _circle()
    return [
        Measure("contracts of imports", _contracts(), Bound(least=12)),
        Measure("modules in a circle of imports", len(circle), Bound(most=0), ", ".join(circle)),
        Measure("class names used for two things", len(twice), Bound(most=3), ", ".join(twice)),
        Measure("attributes of the largest class", attributes, Bound(most=15), largest),
        Measure(f"functions of more than {LONG_FUNCTION} lines", len(long), Bound(most=0), ", ".join(long)),
        Measure("lines of the longest file", longest.lines, Bound(most=450), longest.name),
        Measure("lines of the product", sum(module.lines for module in modules), Bound()),
    ]


def _modules() -> Iterator[Module]:
    for path in sorted(PRODUCT.rglob("*.py")):
        text = path.read_text()
        yield Module(path, len(text.splitlines()), ast.parse(text))


def _state(item: ast.ClassDef) -> set[str]:
    """The names of the attributes that a class sets on its own instances."""
    found = set()
    for method in item.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= {
                node.attr
                for node in ast.walk(method)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            }
    return found


def _long_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for item in ast.walk(tree):
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([item.lineno, *(decorator.lineno for decorator in item.decorator_list)])
            if (item.end_lineno or item.lineno) - first + 1 > LONG_FUNCTION:
                yield item


def _circle() -> list[str]:
    """The modules that import each other in a loop, imports for type checkers included."""
    graph = grimp.build_graph("processhub", cache_dir=None)
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    found: list[str] = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            cycle = set(error.args[1])
            found += sorted(module.removeprefix("processhub.") for module in cycle)
            for module in cycle:
                left[module] -= cycle
        else:
            return found


def _contracts() -> int:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    return sum(section.startswith("importlinter:contract:") for section in config.sections())


def main(arguments: list[str]) -> int:
    """Print the measures; with ``--check`` only those that are worse than their bounds."""
    found = measures()
    broken = [measure for measure in found if not measure.bound.holds(measure.value)]
    for measure in broken if "--check" in arguments else found:
        where = f"  {measure.where}" if measure.where else ""
        print(f"{measure.value:6}  {measure.bound!s:6}  {measure.name}{where}")
    return 1 if broken and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
