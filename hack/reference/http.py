"""The page of HTTP routes and metrics, from the calls in the source that make them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from processhub.agent import metrics as members_metrics
from processhub.agent.env import PORT
from reference.markdown import NotDescribedError, code, prose, table, words

_METHODS = {"get": "GET", "post": "POST", "put": "PUT", "delete": "DELETE", "route": "ANY"}
_METRICS = {
    "Gauge": "gauge",
    "Counter": "counter",
    "Histogram": "histogram",
    "GaugeMetricFamily": "gauge",
}


def page(source: Path) -> str:
    """The page of HTTP routes and metrics, of member and operator."""
    members = [
        (name, family.kind, ", ".join(map(code, family.labels)), words(family.text))
        for name, family in members_metrics.FAMILIES.items()
    ]
    return (
        "\n\n".join(
            [
                "# HTTP and metrics",
                "The HTTP routes of members and operator. [Requests](../concepts.md#requests) describes who may send "
                "requests to a member, what a caller can rely on, and the errors.",
                "## A member's routes",
                f"On port `members.port` ({PORT}) of each member, and {PORT} of the hub's Service. Errors are RFC 9457 "
                "problems.",
                table(("route", "description"), _routes(source / "agent" / "requests" / "server.py")),
                "## A member's metrics",
                "`GET /metrics` on the same port.",
                _metrics_table(members),
                "## The operator's routes",
                "On each replica: the leader and the standbys.",
                table(("route", "description"), _routes(source / "controller" / "lead" / "health.py")),
                "## The operator's metrics",
                "`GET /metrics`, on the leader. Standbys have no metrics of hubs.",
                _metrics_table(_metrics(source / "controller" / "metrics.py")),
            ]
        )
        + "\n"
    )


def _metrics_table(rows: Iterable[tuple[str, ...]]) -> str:
    return table(("metric", "type", "labels", "description"), sorted((code(name), *more) for name, *more in rows))


def _routes(path: Path) -> Iterator[tuple[str, str]]:
    """The calls ``web.get("/path", handler)``, and the handlers' docstrings."""
    tree = ast.parse(path.read_text())
    handlers = {node.name: ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}
    for call in _calls(tree):
        function = call.func
        if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
            continue
        if function.value.id != "web" or function.attr not in _METHODS:
            continue
        route, handler = ast.literal_eval(call.args[-2]), call.args[-1]
        name = handler.attr if isinstance(handler, ast.Attribute) else ast.unparse(handler)
        text = handlers.get(name)
        if not text:
            raise NotDescribedError(f"{path.name}: the handler {name} of {route} has no docstring")
        shown = route.replace("{id:.+}", "{id}").replace("{path:.*}", "{path}")
        yield code(f"{_METHODS[function.attr]} {shown}"), prose(text).replace("\n\n", " ")


def _metrics(path: Path) -> Iterator[tuple[str, ...]]:
    """The calls that make a metric with a literal name and help text."""
    for call in _calls(ast.parse(path.read_text())):
        kind = _METRICS.get(call.func.id) if isinstance(call.func, ast.Name) else None
        if kind is None or not all(isinstance(argument, ast.Constant) for argument in call.args[:2]):
            continue
        name, text = (str(ast.literal_eval(argument)) for argument in call.args[:2])
        labels = [keyword.value for keyword in call.keywords if keyword.arg == "labels"] or call.args[2:3]
        shown = ", ".join(code(label) for label in ast.literal_eval(labels[0])) if labels else ""
        yield f"{name.removesuffix('_total')}_total" if kind == "counter" else name, kind, shown, words(text)


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls in a module, in the order of the source."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    yield from sorted(calls, key=lambda call: (call.lineno, call.col_offset))
