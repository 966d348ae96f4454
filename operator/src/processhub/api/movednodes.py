"""The nodes of a guided child that was moved by an order. They are an annotation, because spec belongs to its users.

The annotation ``processhub.dev/nodes`` of a Child has the members of the move, and the spec.nodes that it replaces. So
a later edit of spec.nodes ends the move, and an edit of another field does not.
"""

from __future__ import annotations

import msgspec

from processhub.api.child import Child
from processhub.api.meta import Wire
from processhub.api.naming import ANNOTATION_NODES
from processhub.api.wording import wrong_json


class MovedNodes(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The value of the annotation: ``nodes`` replace the spec.nodes that were ``instead_of``."""

    nodes: tuple[str, ...]
    instead_of: tuple[str, ...]


_decode = msgspec.json.Decoder(MovedNodes).decode


def format_moved_nodes(nodes: tuple[str, ...], instead_of: tuple[str, ...]) -> str | None:
    """The value of the annotation; None, which removes it, if the child moves back to its spec.nodes."""
    if nodes == instead_of:
        return None
    return msgspec.json.encode(MovedNodes(nodes=nodes, instead_of=instead_of)).decode()


def moved_nodes(child: Child) -> tuple[str, ...] | None:
    """The nodes that the child was moved to, or None if its spec.nodes are in effect."""
    text = child.metadata.annotations.get(ANNOTATION_NODES)
    if not text:
        return None
    try:
        moved = _decode(text)
    except msgspec.MsgspecError:
        return None
    return moved.nodes if moved.nodes and moved.instead_of == child.spec.nodes else None


def problem_of(child: Child) -> str:
    """Why the annotation can't be read, and what to write instead; "" if it can."""
    text = child.metadata.annotations.get(ANNOTATION_NODES) or '{"nodes":[],"insteadOf":[]}'
    try:
        _decode(text)
    except msgspec.DecodeError as error:
        why = wrong_json(error, text, MovedNodes)
        return (
            f"annotation {ANNOTATION_NODES} can't be read and is removed ({why}); use kubectl hub move, or write a "
            'JSON object such as {"nodes": ["my-hub-1"], "insteadOf": ["my-hub-0"]}'
        )
    return ""


def guided_nodes(child: Child) -> tuple[str, ...]:
    """The members that run the child on a Guided hub: those of its latest move, else its spec.nodes."""
    return moved_nodes(child) or child.spec.nodes
