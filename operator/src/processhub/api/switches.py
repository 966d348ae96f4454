"""Annotations of a Hub that are switches: ``true`` is on, ``false`` or nothing is off, spelled as YAML allows."""

from __future__ import annotations

from collections.abc import Mapping

from processhub.api.naming import ANNOTATION_FORCE_SCALE_DOWN, ANNOTATION_PAUSED

_SWITCHES = (ANNOTATION_PAUSED, ANNOTATION_FORCE_SCALE_DOWN)
_ON, _OFF = ("true", "True", "TRUE"), ("false", "False", "FALSE", "")  # Argo CD's script has the first ones too.


def is_on(annotations: Mapping[str, str], name: str) -> bool:
    """Whether the switch is on. A value that is neither on nor off counts as off."""
    return annotations.get(name, "") in _ON


def why_ignored(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each switch whose value is neither on nor off, with what to write instead."""
    return tuple(
        f"the annotation {name} is {annotations[name][:100]!r}, which means nothing: write true, or remove it"
        for name in _SWITCHES
        if annotations.get(name, "") not in (*_ON, *_OFF)
    )
