"""The objects of children, as ``-o name`` prints them: ``child/a``, ``childset/web``, ``hub/shop``."""

from __future__ import annotations

from collections.abc import Iterable

from processhub.api.naming import child_object_name
from processhub.client.resolve import list_children, list_sets
from processhub.client.session import Session, translated


class ObjectNames:
    """The objects of children of several hubs. They are listed when a child comes whose object is not known yet.

    A child of a ChildSet has the set, and one that a request has started has the Hub.
    """

    def __init__(self) -> None:
        self._by_uid: dict[str, str] = {}
        self._by_id: dict[tuple[str, str, str], str] = {}  # by namespace, hub and id

    async def of(self, session: Session, ids: Iterable[str]) -> dict[str, str]:
        """The object of each child. Raises HubError."""
        ids, records = list(ids), session.registry.records
        self._by_uid[session.registry.hub_uid] = f"hub/{session.name}"
        uids = {child_id: records[child_id].uid if child_id in records else "" for child_id in ids}
        unknown = [
            child_id
            for child_id, uid in uids.items()
            if uid not in self._by_uid and (uid or (session.namespace, session.name, child_id) not in self._by_id)
        ]
        if unknown:
            await self._read(session)
        found = {}
        for child_id, uid in uids.items():
            key = (session.namespace, session.name, child_id)
            # What is not on record any more was of the object that it had, which may be gone, too.
            name = self._by_uid.get(uid) or self._by_id.get(key) or f"child/{child_object_name(child_id)}"
            found[child_id] = self._by_id[key] = name
        return found

    async def _read(self, session: Session) -> None:
        with translated(f"children of hub {session.name} can't be listed"):
            children, sets = await list_children(session), await list_sets(session)
        for child in children:
            self._by_uid[child.metadata.uid] = f"child/{child.metadata.name}"
            self._by_id[session.namespace, session.name, child.id] = f"child/{child.metadata.name}"
        for item in sets:
            self._by_uid[item.metadata.uid] = f"childset/{item.metadata.name}"
