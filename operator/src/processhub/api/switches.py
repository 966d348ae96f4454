"""Annotations of a Hub that are switches, and the one with the members to be emptied, ``processhub.dev/drained``.

Of a switch ``true`` is on, and ``false`` or nothing is off, spelled as YAML allows. The members to be emptied are names
separated by commas: ``my-hub-1,my-hub-2=force``. With ``=force``, guided and pinned children are stopped there too.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from processhub.api.naming import (
    ANNOTATION_DRAINED,
    ANNOTATION_FORCE_SCALE_DOWN,
    ANNOTATION_HOOKS,
    ANNOTATION_MOVE_REFUSED,
    ANNOTATION_MOVE_TO,
    ANNOTATION_PAUSED,
    ANNOTATION_QUORUM_RESET,
    ANNOTATION_STOP,
)

_ORDERS = (
    ANNOTATION_PAUSED,
    ANNOTATION_DRAINED,
    ANNOTATION_FORCE_SCALE_DOWN,
    ANNOTATION_QUORUM_RESET,
    ANNOTATION_MOVE_TO,
    ANNOTATION_STOP,
    ANNOTATION_HOOKS,
)
_OF_HUBS = (*_ORDERS, ANNOTATION_MOVE_REFUSED)
_DOMAIN = "processhub.dev/"
_NAMED = 5  # Unknown annotations of which there is a sentence.
_SWITCHES = (ANNOTATION_PAUSED, ANNOTATION_FORCE_SCALE_DOWN)
_SHOWN = 100  # Characters of a value that a message shows.
_FORCE = "force"
_ON, _OFF = ("true", "True", "TRUE"), ("false", "False", "FALSE", "")  # Argo CD's script has the first ones too.


def is_on(annotations: Mapping[str, str], name: str) -> bool:
    """Whether the switch is on. A value that is neither on nor off counts as off."""
    return annotations.get(name, "") in _ON


def why_ignored(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each value that is neither on nor off, each unknown way to drain and each unknown annotation.

    It says what to write instead.
    """
    switches = (
        f"the annotation {name} is {annotations[name][:_SHOWN]!r}, which means nothing: write true, or remove it"
        for name in _SWITCHES
        if annotations.get(name, "") not in (*_ON, *_OFF)
    )
    drained = _parts(annotations.get(ANNOTATION_DRAINED, ""))
    ways = {member: way for member, way in drained if way not in ("", _FORCE)}
    drains = (
        f"the annotation {ANNOTATION_DRAINED} has {f'{member}={way}'[:_SHOWN]!r}, by which the member is drained"
        f" without force: write {member[:_SHOWN]}=force, or the name alone"
        for member, way in ways.items()
    )
    unknown = sorted(name for name in annotations if name.startswith(_DOMAIN) and name not in _OF_HUBS)
    return (*switches, *drains, *(_unknown(name) for name in unknown[:_NAMED]))


def parse_drained(text: str) -> dict[str, bool]:
    """Parse the annotation of the members to be emptied; returns member → whether by force."""
    return {name: how == _FORCE for name, how in _parts(text)}


def format_drained(drained: Mapping[str, bool]) -> str:
    """The value of that annotation, ordered by name."""
    return ",".join(f"{name}={_FORCE}" if force else name for name, force in sorted(drained.items()))


def _parts(text: str) -> list[tuple[str, str]]:
    parts = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return [(name.strip(), how.strip().lower()) for name, _, how in parts]


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(
        name.removeprefix(_DOMAIN), [order.removeprefix(_DOMAIN) for order in _ORDERS], 1, 0.6
    )
    what = f"write {_DOMAIN}{near[0]}" if near else f"there are {', '.join(_ORDERS)}"
    return f"the annotation {name[:_SHOWN]} means nothing on a Hub: {what}"
