"""Write docs/reference; ``--check`` writes nothing and exits 1 if a page is not current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from reference import commands, http, python, vocabulary
from reference.crds import Kind
from reference.markdown import NotDescribedError, link, table

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
SOURCE = ROOT / "operator" / "src" / "processhub"
_MADE = "<!-- Made by `make docs`; do not edit. -->"
# Child comes first, because the other pages link to its workloads.
_KINDS = ("children", "hubs", "childsets", "registryslices")


def pages() -> dict[str, str]:
    """The text of each page by the name of its file. Raises NotDescribedError."""
    package = python.load()
    known: dict[str, str] = {}
    kinds = []
    for plural in _KINDS:
        kind = Kind(yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text()), known)
        kinds.append((kind, kind.page()))
        known = known or kind.workloads()
    made = {kind.file: page for kind, page in kinds}
    made["cli.md"] = commands.page()
    made["client.md"] = _client(package)
    made["extensions.md"] = _extensions(package)
    made["reasons.md"] = vocabulary.page(package)
    made["labels.md"] = vocabulary.labels(package)
    made["http.md"] = http.page(SOURCE)
    made["README.md"] = _index([kind for kind, _ in kinds])
    return {name: f"{_MADE}\n\n{text}" for name, text in made.items()}


def _client(package: object) -> str:
    page = python.Page(
        package,
        "Python client",
        "`pip install ./operator`. [Concepts](../concepts.md) describes how requests, moves and hooks behave.",
    )
    page.heading(
        "The client", "One object for each hub. Look-ups are local, from a registry that a watch keeps up to date."
    )
    page.classes("client.hub.Hub", "client.sync.SyncHub")
    page.heading("Results", "The objects that its calls return.")
    page.classes(
        "client.results.Result",
        "client.results.StopResult",
        "client.results.Rollback",
        "client.errors.ChildError",
        "client.moves.DrainResult",
        "client.records.Spec",
        "client.records.Processes",
    )
    page.heading(
        "Errors",
        "Each error is a `HubError`, and its message names the object and what to do. Import them from "
        "`processhub`. Only after `OutcomeUnknown` and `Timeout` may a failed request have run.",
    )
    page.errors(("requesterrors", "client.errors"))
    return page.text()


def _extensions(package: object) -> str:
    page = python.Page(
        package,
        "Extensions in Python",
        "The base classes of python children and of your own strategies. Handlers of hooks are plain functions, "
        "entry points of the group `processhub.hooks`: [hooks](../concepts.md#hooks).",
    )
    page.module("actor", "Children")
    page.classes("actor.Actor", "actor.HubHandle")
    page.module("methods", "Methods that are called by name")
    page.module("testing", "Tests of actors")
    page.classes("testing.HostedActor")
    page.module("strategies", "Strategies")
    page.classes(*(f"strategies.{name}" for name in ("Distribution", "Redundancy", "Migration", "Partition")))
    page.heading("Arguments of strategies", "The objects that their methods get.")
    page.classes(
        "strategies.Child",
        "strategies.Member",
        "strategies.Move",
        "strategies.Way",
        "strategies.Seen",
    )
    return page.text()


def _index(kinds: list[Kind]) -> str:
    rows = [
        *((link(kind.name, page=kind.file), kind.description) for kind in sorted(kinds, key=lambda kind: kind.name)),
        (link("kubectl hub", page="cli.md"), "The command line: every verb with its options, and the exit codes."),
        (link("Python client", page="client.md"), "`Hub`, what its calls return, and the errors."),
        (link("Extensions in Python", page="extensions.md"), "`Actor`, and the base classes of strategies."),
        (
            link("Reasons and events", page="reasons.md"),
            "The reasons, states and roles in conditions, Events, hooks and results.",
        ),
        (
            link("Labels and annotations", page="labels.md"),
            "The labels and annotations of objects, and the annotations that are orders.",
        ),
        (link("HTTP and metrics", page="http.md"), "The routes and the metrics of members and operator."),
    ]
    return (
        "\n\n".join(
            [
                "# Reference",
                "Generated from the code by `make docs`, so it describes exactly this version. How the parts work "
                "together: [concepts](../concepts.md). Values of the chart: "
                "[charts/processhub](../../charts/processhub). Something to begin with: [examples](../../examples).",
                table(("page", "description"), rows),
            ]
        )
        + "\n"
    )


def main() -> int:
    """Generate the pages; returns 0 if all are current or were written, else 1."""
    parser = argparse.ArgumentParser(prog="python -m reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is not current")
    check = bool(parser.parse_args().check)
    try:
        wanted = pages()
    except NotDescribedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    there = {path.name: path.read_text() for path in FOLDER.glob("*")} if FOLDER.is_dir() else {}
    differ = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    for name in differ:
        path = FOLDER / name
        if check:
            print(f"{path.relative_to(ROOT)} is not current: run make docs")
        elif name in wanted:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name])
            print(f"{path.relative_to(ROOT)} written")
        else:
            path.unlink()
            print(f"{path.relative_to(ROOT)} removed")
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
