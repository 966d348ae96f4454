"""Deletes Child objects under their uids, and waits until nothing is left of them."""

from __future__ import annotations

from collections.abc import Mapping

from processhub.client.errors import ChildError, ClientReason
from processhub.client.session import Session
from processhub.client.waiting import Stop
from processhub.client.writes import each, with_retries
from processhub.cluster.errors import ApiError, ConflictError, ForbiddenError, NotFoundError
from processhub.cluster.kinds import CHILDREN


class Removal:
    """Removes children. ``ordered`` has the uids of those deleted, by id; ``gone`` are the ids of those that ended."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: set[str] = set()
        self.ordered: dict[str, str] = {}
        self.absent: set[str] = set()  # ids without an object, or with an object of another uid
        self.gone: set[str] = set()
        self.errors: dict[str, ChildError] = {}

    async def delete(self, objects: Mapping[str, tuple[str, str]]) -> None:
        """Delete ``{id: (object's name, uid)}``. An object with another uid is not deleted."""

        async def one(child_id: str) -> None:
            name, uid = objects[child_id]
            if self._session.registry.holds(child_id, uid):
                self._seen.add(child_id)
            try:
                await with_retries(
                    lambda: self._session.client.delete(CHILDREN, self._session.namespace, name, uid=uid)
                )
            except (NotFoundError, ConflictError):
                self.absent.add(child_id)
            except ForbiddenError as error:
                self.errors[child_id] = ChildError(ClientReason.FORBIDDEN, error.message)
                return
            except ApiError as error:
                self.errors[child_id] = ChildError(error.reason or ClientReason.UNREACHABLE, error.message)
                return
            self.ordered[child_id] = uid

        await each(objects, one)

    async def wait(self, deadline: float | None) -> None:
        """Wait until all deleted children have ended, or until ``deadline`` on the event loop's clock."""
        stop = Stop(self._session, self.ordered, self._seen)
        await stop.until(deadline)
        self.gone = self.ordered.keys() - stop.pending.keys()
        for child_id in stop.pending:
            self.errors[child_id] = ChildError(
                ClientReason.TIMEOUT, "its object is deleted, but it had not ended within the timeout"
            )
