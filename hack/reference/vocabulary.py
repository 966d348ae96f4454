"""The pages of reasons, events, states and roles, and of labels and annotations, from the texts below the values."""

from __future__ import annotations

from typing import Any

import griffe

from reference.markdown import NotDescribedError, code, prose, table, words

# Each enum and its heading.
_ENUMS = (
    ("api.reasons.Reason", "Reasons of conditions"),
    ("api.reasons.GroupReason", "Reasons of Hubs and ChildSets"),
    ("client.errors.ClientReason", "Reasons of the client"),
    ("api.reasons.EventReason", "Events"),
    ("api.hooks.HookEvent", "Events of hooks"),
    ("api.reasons.State", "States"),
    ("api.reasons.Role", "Roles"),
    ("api.reasons.RestartPolicy", "Restart policies"),
)


def page(package: Any) -> str:
    """The page of reasons, events, states, roles and restart policies."""
    parts = [
        "# Reasons and events",
        "The fixed values in conditions, Events, hooks, statuses and results. Programs may rely on them. The "
        "message beside a reason is for people and may change.",
    ]
    for path, title in _ENUMS:
        enum = package[path]
        rows = [(code(_value(member)), _text(member)) for member in enum.members.values() if _is_word(member)]
        parts += [f"## {title}", prose(enum.docstring.value), table(("word", "means"), rows)]
    return "\n\n".join(parts) + "\n"


def labels(package: Any) -> str:
    """The page of labels and annotations, from the constants that hold their names."""
    module = package["api.naming"]
    parts = [
        "# Labels and annotations",
        "The labels and annotations of objects, and the annotations by which ProcessHub takes orders. Orders are "
        "written by `kubectl hub`, by the client, or by hand. All others are written by machines.",
    ]
    for prefix, title in (("LABEL_", "Labels"), ("ANNOTATION_", "Annotations")):
        members = [member for name, member in module.members.items() if name.startswith(prefix) and not member.is_alias]
        rows = [(code(_value(member)), _text(member)) for member in members]
        parts += [f"## {title}", table((title.lower().removesuffix("s"), "description"), rows)]
    return "\n\n".join(parts) + "\n"


def _is_word(member: Any) -> bool:
    return isinstance(member, griffe.Attribute) and member.name.isupper()


def _value(member: Any) -> str:
    return str(member.value).strip("'\"")


def _text(member: Any) -> str:
    if member.docstring:
        return words(" ".join(member.docstring.value.split()))
    raise NotDescribedError(f"{member.path} has no text; write one under it, in quotes")
