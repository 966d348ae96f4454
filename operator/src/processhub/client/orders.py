"""Orders to move a child. They are annotations of its Child, or of the ChildSet that it belongs to, never its spec."""

from __future__ import annotations

from typing import Any

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.movednodes import format_moved_nodes, guided_nodes
from processhub.api.naming import ANNOTATION_MOVE_REFUSED, ANNOTATION_MOVE_TO, ANNOTATION_NODES
from processhub.api.setorders import SetOrderError, format_set_orders, parse_set_orders
from processhub.client.errors import HubError
from processhub.client.session import Session
from processhub.client.writes import with_retries
from processhub.cluster.errors import ConflictError
from processhub.cluster.kinds import CHILD_SETS, CHILDREN

_ATTEMPTS = 10


class Outcome(msgspec.Struct, frozen=True):
    """The state of an order: it ``stands`` until the operator has handled it; ``refused`` says why it was rejected."""

    stands: bool
    refused: str = ""


class OnChild:
    """Orders for a child that has a Child object."""

    def __init__(self, session: Session, child: Child) -> None:
        self._session, self._child = session, child

    @property
    def id(self) -> str:
        """The child's id."""
        return self._child.id

    @property
    def spec(self) -> ChildSpec:
        """The child's spec."""
        return self._child.spec

    @property
    def nodes(self) -> tuple[str, ...]:
        """The members that run the child on a Guided hub."""
        return guided_nodes(self._child)

    async def give(self, member: str) -> None:
        """Order the child to be moved to ``member``. Raises ApiError."""
        await self._patch({"metadata": {"annotations": {ANNOTATION_MOVE_TO: member, ANNOTATION_MOVE_REFUSED: None}}})

    async def map_to(self, nodes: tuple[str, ...]) -> None:
        """Have these members run the child until its spec.nodes are edited. Raises ApiError."""
        # An earlier refusal would look like the answer to this order, so it is removed.
        annotations = {
            ANNOTATION_NODES: format_moved_nodes(nodes, self._child.spec.nodes),
            ANNOTATION_MOVE_REFUSED: None,
        }
        await self._patch({"metadata": {"annotations": annotations}})

    async def _patch(self, patch: dict[str, Any]) -> None:
        metadata = self._child.metadata
        patch.setdefault("metadata", {})["uid"] = metadata.uid
        await with_retries(lambda: self._session.client.patch(CHILDREN, metadata.namespace, metadata.name, patch))

    async def outcome(self) -> Outcome:
        """The present state of the child's order. Raises ApiError."""
        now = await with_retries(lambda: self._session.client.get(CHILDREN, *self._child.metadata.key))
        annotations = now.metadata.annotations
        return Outcome(ANNOTATION_MOVE_TO in annotations, annotations.get(ANNOTATION_MOVE_REFUSED, ""))


class OnSet:
    """Orders for a child of a ChildSet."""

    def __init__(self, session: Session, owner: ChildSet, child_id: str) -> None:
        self._session, self._owner, self.id = session, owner, child_id

    @property
    def spec(self) -> ChildSpec:
        """The child's spec: the template of the set."""
        return self._owner.spec.template

    @property
    def nodes(self) -> tuple[str, ...]:
        """The members that run the children of the set on a Guided hub."""
        return self._owner.spec.template.nodes

    async def give(self, member: str) -> None:
        """Order the child to be moved to ``member``. Raises HubError, ApiError."""
        for _ in range(_ATTEMPTS):
            now = await self._look()
            orders, refused = _read(now, ANNOTATION_MOVE_TO), _read(now, ANNOTATION_MOVE_REFUSED)
            refused.pop(self.id, None)
            annotations = {
                ANNOTATION_MOVE_TO: format_set_orders({**orders, self.id: member}),
                ANNOTATION_MOVE_REFUSED: format_set_orders(refused),
            }
            version = {"uid": now.metadata.uid, "resourceVersion": now.metadata.resource_version}
            patch = {"metadata": {**version, "annotations": annotations}}
            try:
                await self._session.client.patch(CHILD_SETS, *now.metadata.key, patch)
            except ConflictError:
                continue  # the ChildSet was written after it was read: its status, or another child's order
            return
        raise HubError(f"childset/{self._owner.metadata.name} changes too quickly; try again")

    async def map_to(self, nodes: tuple[str, ...]) -> None:
        """Raise HubError, because all children of a ChildSet share its spec.nodes."""
        raise HubError(
            f"child {self.id!r} is of childset/{self._owner.metadata.name}, whose spec.template.nodes names where all "
            "of its children are; edit that"
        )

    async def outcome(self) -> Outcome:
        """The present state of the child's order. Raises ApiError."""
        now = await self._look()
        return Outcome(self.id in _read(now, ANNOTATION_MOVE_TO), _read(now, ANNOTATION_MOVE_REFUSED).get(self.id, ""))

    async def _look(self) -> ChildSet:
        metadata = self._owner.metadata
        return await with_retries(lambda: self._session.client.get(CHILD_SETS, metadata.namespace, metadata.name))


def _read(item: ChildSet, annotation: str) -> dict[str, str]:
    try:
        return parse_set_orders(item.metadata.annotations.get(annotation, ""))
    except SetOrderError:
        return {}  # the operator can't read it either
