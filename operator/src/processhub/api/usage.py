"""The usage of a member's children, which its agent writes to the member's Lease at each renewal."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The CPU, in thousandths of a core, and the memory, in MiB, that the processes of ``children`` children use."""

    cpu: int = 0
    memory: int = 0
    children: int = 0


def format_usage(usage: Usage) -> str:
    """The value of the annotation, such as ``cpu=250m memory=128Mi children=12``."""
    return f"cpu={usage.cpu}m memory={usage.memory}Mi children={usage.children}"


def parse_usage(text: str) -> Usage | None:
    """Parse the annotation; None if it can't be read, as an agent of another version may have written it."""
    try:
        given = dict(part.split("=") for part in text.split())
        return Usage(
            cpu=int(given["cpu"].removesuffix("m")),
            memory=int(given["memory"].removesuffix("Mi")),
            children=int(given["children"]),
        )
    except (ValueError, KeyError):
        return None
