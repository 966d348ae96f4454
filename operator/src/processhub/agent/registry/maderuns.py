"""The runs that this member has started by itself, and the room for their reports in the status of slice 0."""

from __future__ import annotations

from collections import UserDict
from typing import TypeVar

from processhub.api.slice import MAX_BYTES, SliceSpec, stored_bytes

OBJECT_MAX = 1536 * 1024  # etcd's limit of a request, --max-request-bytes
ENVELOPE = 64 * 1024  # metadata and managed fields, and the request around the object
_REPORT_BYTES = 140  # of a report without texts for people
_SPEC_BYTES = MAX_BYTES + 64 * 1024  # the size that a spec grows to by new entries, and some changes of them
Run = TypeVar("Run")


def bytes_by_view(child_id: str) -> int:
    """The most bytes, as stored, of the report of a child that its member has started by itself."""
    return stored_bytes(child_id) + _REPORT_BYTES + 4


def room_by_view(spec: SliceSpec) -> int:
    """The bytes that such reports may take in the status beside this spec, and beside the reports of its entries."""
    entries = sum(bytes_by_view(child_id) for child_id in spec.entries)
    return OBJECT_MAX - ENVELOPE - max(stored_bytes(spec), _SPEC_BYTES) - entries


class MadeRuns(UserDict[str, Run]):
    """The runs that are not on record, by id. ``bytes`` is what their reports take in a status, at most."""

    def __init__(self) -> None:
        self.bytes = 0
        super().__init__()

    def __setitem__(self, child_id: str, made: Run) -> None:
        """Add a run, or replace that of the same id."""
        if child_id not in self.data:
            self.bytes += bytes_by_view(child_id)
        self.data[child_id] = made

    def __delitem__(self, child_id: str) -> None:
        """Remove a run."""
        del self.data[child_id]
        self.bytes -= bytes_by_view(child_id)
