"""Which members of a hub somebody ordered to be emptied: the annotation ``processhub.dev/drained`` of the Hub.

``my-hub-1,my-hub-2=force``: names parted by commas; with ``=force`` guided and pinned children are stopped there too.
"""

from __future__ import annotations

from collections.abc import Mapping

_FORCE = "force"


def parse_drained(text: str) -> dict[str, bool]:
    """Member → whether by force."""
    parts = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): how.strip() == _FORCE for name, _, how in parts}


def format_drained(drained: Mapping[str, bool]) -> str:
    """As the annotation has it, by name."""
    return ",".join(f"{name}={_FORCE}" if force else name for name, force in sorted(drained.items()))
