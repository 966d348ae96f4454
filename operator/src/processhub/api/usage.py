"""What a member's children use, as its agent writes it on the member's Lease at each renewal."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """``cpu`` in thousandths of a core, ``memory`` in MiB, of the processes of so many ``children``."""

    cpu: int = 0
    memory: int = 0
    children: int = 0


def format_usage(usage: Usage) -> str:
    """As the annotation has it: ``cpu=250m memory=128Mi children=12``."""
    return f"cpu={usage.cpu}m memory={usage.memory}Mi children={usage.children}"


def parse_usage(text: str) -> Usage | None:
    """The usage; None where the text is no such annotation, as an agent of another version may write it."""
    try:
        given = dict(part.split("=") for part in text.split())
        return Usage(
            cpu=int(given["cpu"].removesuffix("m")),
            memory=int(given["memory"].removesuffix("Mi")),
            children=int(given["children"]),
        )
    except (ValueError, KeyError):
        return None
