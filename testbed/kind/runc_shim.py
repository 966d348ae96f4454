#!/usr/bin/python3 -IS
"""runc for a machine without CAP_SYS_RESOURCE: removes from a container's specification what runc can't grant there.

A privileged container requests every capability, and containers request limits above dockerd's own; both make runc fail
if dockerd itself lacks them. dockerd calls this program in place of runc (see daemon.py). It has no other module and
imports little, because it runs once for each container and each ``docker exec``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_WITHHELD = "CAP_SYS_RESOURCE"
_STARTING = ("create", "run", "restore")


def permitted(process: dict[str, Any]) -> dict[str, Any]:
    """An OCI process without the withheld capability and without rlimits (raising one needs that capability)."""
    allowed = {name: value for name, value in process.items() if name != "rlimits"}
    if capabilities := process.get("capabilities"):
        allowed["capabilities"] = {
            kind: [name for name in names or () if name != _WITHHELD] for kind, names in capabilities.items()
        }
    return allowed


def edited(command: str, document: dict[str, Any]) -> dict[str, Any]:
    """The document for runc: a container's config.json for ``create`` and similar commands, a process for ``exec``."""
    if command == "exec":
        return permitted(document)
    return {**document, "process": permitted(document["process"])} if "process" in document else document


def document_of(arguments: list[str]) -> tuple[str, str] | None:
    """The command and the file that it will read; None if it reads none."""
    command = next((word for word in arguments if word in (*_STARTING, "exec")), None)
    if command in _STARTING:
        return command, os.path.join(_option(arguments, "--bundle", "-b") or ".", "config.json")  # noqa: PTH118 - quick
    process = _option(arguments, "--process", "-p") if command else None
    return ("exec", process) if process else None


def _option(arguments: list[str], *names: str) -> str | None:
    """The value of ``--name value`` or ``--name=value``."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in names:
            return following
        name, equals, value = word.partition("=")
        if equals and name in names:
            return value
    return None


def main() -> None:
    """Edit the document, then become runc. A file that can't be read or parsed is left for runc to report."""
    arguments = sys.argv[1:]
    if found := document_of(arguments):
        command, path = found
        try:
            with open(path) as file:
                document = json.load(file)
            with open(f"{path}.permitted", "w") as file:
                json.dump(edited(command, document), file)
            os.replace(f"{path}.permitted", path)  # noqa: PTH105 - pathlib would double the start time
        except (OSError, ValueError):
            pass
    os.execvp("runc", ["runc", *arguments])  # noqa: S606 - the caller's own arguments


if __name__ == "__main__":
    main()
