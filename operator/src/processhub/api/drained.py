"""The members of a hub to be emptied: the annotation ``processhub.dev/drained`` of the Hub.

Its value is a list of names, separated by commas: ``my-hub-1,my-hub-2=force``. With ``=force``, guided and pinned
children are stopped there too.
"""

from __future__ import annotations

from collections.abc import Mapping

_FORCE = "force"


def parse_drained(text: str) -> dict[str, bool]:
    """Parse the annotation; returns member → whether by force."""
    parts = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): how.strip().lower() == _FORCE for name, _, how in parts}


def format_drained(drained: Mapping[str, bool]) -> str:
    """The value of the annotation, ordered by name."""
    return ",".join(f"{name}={_FORCE}" if force else name for name, force in sorted(drained.items()))
