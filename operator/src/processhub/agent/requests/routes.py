"""The routes of the member's HTTP server.

They are few and looked up for each request, so this costs a tenth of what ``web.Application`` takes for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from processhub.agent import web
from processhub.agent.problems import Handler, Problem

_ID = "{id:.+}"


class Routes:
    """The handlers by path and method. A path that ends in ``{id:.+}`` stands for all that begin with the rest.

    In a path for all methods (``*``), ``{id}`` stands for one part and ``{path:.*}`` for the rest, which may be empty.
    """

    def __init__(self, routes: Iterable[web.RouteDef]) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._beginnings: list[tuple[str, dict[str, Handler]]] = []
        found: dict[str, dict[str, Handler]] = {}
        self._any: list[tuple[re.Pattern[str], Handler]] = []
        for route in routes:
            if route.method == "*":
                pattern = route.path.replace("{id}", "[^/]+").replace("{path:.*}", ".*")
                self._any.append((re.compile(pattern), route.handler))  # type: ignore[arg-type]
                continue
            handlers = found.setdefault(route.path, {})
            handlers[route.method] = route.handler  # type: ignore[assignment]  # no class-based views here
            if route.method == "GET":
                handlers["HEAD"] = handlers["GET"]
        for path, handlers in found.items():
            if path.endswith(_ID):
                self._beginnings.append((path.removesuffix(_ID), handlers))
            else:
                self._exact[path] = handlers

    def find(self, method: str, path: str) -> Handler:
        """The handler for a path, which is still percent-encoded. Raises Problem 404 or 405."""
        handlers = self._exact.get(path)
        if handlers is None:
            for pattern, each in self._any:
                if pattern.fullmatch(path):
                    return each
            handlers = next(
                (
                    found
                    for beginning, found in self._beginnings
                    if path.startswith(beginning) and len(path) > len(beginning)
                ),
                None,
            )
        if handlers is None:
            raise Problem(404, "not_found", f"there is no route {path}; GET /openapi.json describes those there are")
        handler = handlers.get(method)
        if handler is None:
            allow = ",".join(sorted(handlers))
            raise Problem(405, "method_not_allowed", f"{method} {path}: Method Not Allowed", allow=allow)
        return handler
