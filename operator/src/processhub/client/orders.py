"""Orders to move a child. They are annotations of its Child, or of the ChildSet or Hub that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.grouporders import GroupOrderError, format_orders, parse_move_orders
from processhub.api.hub import Hub
from processhub.api.movednodes import format_moved_nodes, guided_nodes
from processhub.api.naming import ANNOTATION_MOVE_REFUSED, ANNOTATION_MOVE_TO, ANNOTATION_NODES
from processhub.client.annotations import Annotated, Annotations, change_annotations
from processhub.client.errors import HubError
from processhub.client.session import Session
from processhub.client.writes import with_retries
from processhub.cluster.kinds import CHILD_SETS, CHILDREN, HUBS, Kind


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
        await self._annotate({ANNOTATION_MOVE_TO: member, ANNOTATION_MOVE_REFUSED: None})

    async def map_to(self, nodes: tuple[str, ...]) -> None:
        """Have these members run the child until its spec.nodes are edited. Raises ApiError."""
        # An earlier refusal would look like the answer to this order, so it is removed.
        await self._annotate(
            {ANNOTATION_NODES: format_moved_nodes(nodes, self._child.spec.nodes), ANNOTATION_MOVE_REFUSED: None}
        )

    async def _annotate(self, annotations: Annotations) -> None:
        metadata = self._child.metadata
        patch = {"metadata": {"uid": metadata.uid, "annotations": annotations}}
        await with_retries(lambda: self._session.client.patch(CHILDREN, metadata.namespace, metadata.name, patch))

    async def outcome(self) -> Outcome:
        """The present state of the child's order. Raises ApiError."""
        key = self._child.metadata.key
        now = await with_retries(lambda: self._session.client.get(CHILDREN, *key), reads=True)
        annotations = now.metadata.annotations
        return Outcome(ANNOTATION_MOVE_TO in annotations, annotations.get(ANNOTATION_MOVE_REFUSED, ""))


class OnGroup(Generic[Annotated]):
    """Orders for a child without an object of its own: it belongs to a ChildSet, or a request has started it."""

    nodes: tuple[str, ...] = ()
    """The members that run the child on a Guided hub."""
    spec: ChildSpec = ChildSpec()
    """What the object says of where the child may run."""

    def __init__(self, session: Session, kind: Kind[Annotated], owner: Annotated, child_id: str) -> None:
        self._session, self.id = session, child_id
        self._kind: Kind[Annotated] = kind
        self._owner: Annotated = owner

    async def give(self, member: str) -> None:
        """Order the child to be moved to ``member``. Raises HubError, ApiError."""

        def ordered(owner: Annotated) -> Annotations:
            annotations = owner.metadata.annotations
            orders, refused = _read(annotations, ANNOTATION_MOVE_TO), _read(annotations, ANNOTATION_MOVE_REFUSED)
            refused.pop(self.id, None)
            return {
                ANNOTATION_MOVE_TO: format_orders({**orders, self.id: member}),
                ANNOTATION_MOVE_REFUSED: format_orders(refused),
            }

        await change_annotations(self._session, self._kind, self._owner.metadata.name, ordered)

    async def map_to(self, nodes: tuple[str, ...]) -> None:
        """Raise HubError, because the object names the members of no single child."""
        raise HubError(f"child {self.id!r} can't be mapped to members of its own")

    async def outcome(self) -> Outcome:
        """The present state of the child's order. Raises ApiError."""
        key = self._owner.metadata.key
        now = await with_retries(lambda: self._session.client.get(self._kind, *key), reads=True)
        annotations = now.metadata.annotations
        return Outcome(
            self.id in _read(annotations, ANNOTATION_MOVE_TO),
            _read(annotations, ANNOTATION_MOVE_REFUSED).get(self.id, ""),
        )


class OnHub(OnGroup[Hub]):
    """Orders for a child that a request has started. They are on its Hub."""

    def __init__(self, session: Session, child_id: str) -> None:
        super().__init__(session, HUBS, session.living_hub(), child_id)


class OnSet(OnGroup[ChildSet]):
    """Orders for a child of a ChildSet."""

    def __init__(self, session: Session, owner: ChildSet, child_id: str) -> None:
        super().__init__(session, CHILD_SETS, owner, child_id)
        self.spec, self.nodes = owner.spec.template, owner.spec.template.nodes

    async def map_to(self, nodes: tuple[str, ...]) -> None:
        """Raise HubError, because all children of a ChildSet share its spec.nodes."""
        raise HubError(
            f"child {self.id!r} is of childset/{self._owner.metadata.name}, whose spec.template.nodes names where all "
            "of its children are; edit that"
        )


def _read(annotations: Mapping[str, str], name: str) -> dict[str, str]:
    try:
        return parse_move_orders(annotations.get(name, ""))
    except GroupOrderError:
        return {}  # the operator can't read it either
