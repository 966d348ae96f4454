"""Other projects' figures, measured beside this one in one run on one machine.

Each of them had three members, sidecars or nodes. The versions, the programs and the load generator are those of the
text in ``HOW``; the figures are in docs/benchmarks.md and, as points, in its plots.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.measure import Topic

COMMIT = "d8b600b"
HOW = f"""\
Each row was measured in one run on one machine (2 cores AMD EPYC, 24 GiB), with this project at commit {COMMIT}. Each
project had three members, sidecars or nodes there. So a row compares the two columns; the tables above are of another
commit.

- **ProcessHub 0.6.1** for Elixir, three Erlang nodes on one machine: `start_children` in one call or in batches of
  1,000, until the registry of every node has all. It stores nothing, and no child is an object of an API server.
- **Dapr 1.17**, a Go application with three sidecars: requests to actors by the HTTP API of a sidecar. For calls the
  load came from the same Python program for both, for the floor from wrk.
- **Erlang**: `GenServer.call` to a process of another node. It has no HTTP, JSON or token.
"""


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, here and there."""

    topic: Topic
    what: str
    here: str
    there: str


@dataclass(frozen=True)
class Line:
    """A line of a plot: (x, y) points."""

    topic: Topic
    name: str
    points: tuple[tuple[float, float], ...]


HERE = f"this project at {COMMIT}"
ROWS: tuple[Row, ...] = (
    Row(
        "starts",
        "10,000 children until all run (here one ChildSet of `python` children)",
        "2.5–2.7 s",
        "ProcessHub: 0.56–0.60 s in one call, 0.27–0.34 s in batches",
    ),
    Row("starts", "50,000 children", "16.3 s", "ProcessHub: 1.9–2.3 s"),
    Row(
        "starts",
        "memory of a member",
        "92 MiB idle, 153–197 MiB with 2,500 `python` children",
        "ProcessHub: 37–56 MiB with 3,333 children",
    ),
    Row(
        "activations",
        "new names, 1 caller",
        "4/s, p50 111 ms, p99 1,053 ms",
        "Dapr: 1,117/s, p50 0.88 ms",
    ),
    Row("activations", "new names, 64 callers", "106/s", "Dapr: 3,425/s"),
    Row("calls", "one child, 1 caller", "1,730/s, p50 0.53 ms", "Dapr: 1,218/s, p50 0.75 ms"),
    Row("calls", "300 children on their own members, 64 callers", "4,199/s", "Dapr: 4,122/s"),
    Row("calls", "one child, 64 callers", "2,847/s", "Dapr: 2,969/s"),
    Row("calls", "through another member, 1 caller", "875/s, p50 1.06 ms", "Dapr: 1,218/s (any sidecar)"),
    Row("calls", "through another member, 64 callers", "2,169/s", "Dapr: 4,122/s"),
    Row(
        "calls",
        "by wrk, 64 connections: own member, any member",
        "5,620/s, 2,148/s",
        "Dapr: 5,942/s; Erlang: 38,896/s; a bare aiohttp server with the same bytes: 34,983/s",
    ),
    Row(
        "moves",
        "a fourth member joins, 10,000 children (here with the start of its pod); share moved",
        "2.6–3.5 s; 24.6 %",
        "ProcessHub: 0.92 s; 27.65 % (25 % is the ideal)",
    ),
    Row("moves", "a member is killed, 10,000 children", "1.6 s", "ProcessHub: 0.72 s"),
)
LINES: tuple[Line, ...] = (
    Line("starts", "ProcessHub 0.6.1, in one call", ((10_000, 0.58), (50_000, 2.1))),
    Line("starts", f"ChildSet, {HERE}", ((10_000, 2.6), (50_000, 16.3))),
    Line("activations", "Dapr 1.17", ((1, 1117), (64, 3425))),
    Line("activations", HERE, ((1, 4), (64, 106))),
    Line("calls", "Dapr 1.17", ((1, 1218), (64, 4122))),
    Line("calls", "Erlang, no HTTP", ((1, 11_179), (64, 38_896))),
    Line("calls", f"own member, {HERE}", ((1, 1730), (64, 4199))),
    Line("calls", f"another member, {HERE}", ((1, 875), (64, 2169))),
    Line("moves", "ProcessHub 0.6.1", ((3, 27.65),)),
)
