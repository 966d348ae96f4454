"""The members of a hub to be emptied: the annotation ``processhub.dev/drained`` of the Hub.

Its value is a list of names, separated by commas: ``my-hub-1,my-hub-2=force``. With ``=force``, guided and pinned
children are stopped there too.
"""

from __future__ import annotations

from collections.abc import Mapping

_FORCE = "force"


def parse_drained(text: str) -> dict[str, bool]:
    """Parse the annotation; returns member → whether by force."""
    return {name: how == _FORCE for name, how in _parts(text)}


def unknown_ways(text: str) -> dict[str, str]:
    """The members of the annotation that have something else than ``force``, and what. They are drained without."""
    return {name: how for name, how in _parts(text) if how not in ("", _FORCE)}


def _parts(text: str) -> list[tuple[str, str]]:
    parts = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return [(name.strip(), how.strip().lower()) for name, _, how in parts]


def format_drained(drained: Mapping[str, bool]) -> str:
    """The value of the annotation, ordered by name."""
    return ",".join(f"{name}={_FORCE}" if force else name for name, force in sorted(drained.items()))
