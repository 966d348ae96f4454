"""The states of children that are on this member: those that children left here, and those from other members.

Small states of actors are kept in memory, all others in files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from processhub.agent.peers.statesender import Content
from processhub.api.naming import id_hash


class HeldState(msgspec.Struct, frozen=True):
    """A state that is on this member; ``checksum`` is set if it came from another member."""

    uid: str
    content: Content
    checksum: str = ""


class HeldStates:
    """The states by id. ``folder`` is where the files are."""

    def __init__(self, folder: Path) -> None:
        self.left: dict[str, HeldState] = {}  # by id: the state that the child left here
        self.received: dict[str, HeldState] = {}  # by id: the state that came from another member
        self._writing: set[str] = set()  # ids of children that may write their state to a file
        self._folder = folder
        self._tries = 0

    def find(self, child_id: str, uid: str, checksum: str) -> HeldState | None:
        """The state that is here for the object with this uid: the one with this checksum, or what it left; or None."""
        got = self.received.get(child_id)
        if got is not None and checksum and (got.uid, got.checksum) == (uid, checksum):
            return got
        left = self.left.get(child_id)
        return left if left is not None and left.uid == uid else None

    def receive(self, child_id: str, held: HeldState) -> None:
        """Keep a state that came from another member, instead of the one that came before."""
        before, self.received[child_id] = self.received.get(child_id), held
        if before is not None and isinstance(before.content, Path) and before.content != held.content:
            before.content.unlink(missing_ok=True)

    def adopt(self, child_id: str, uid: str, by: str) -> None:
        """Keep the states of the object with this uid for the one that has its child now."""
        for states in (self.left, self.received):
            if (held := states.get(child_id)) is not None and held.uid == uid:
                states[child_id] = msgspec.structs.replace(held, uid=by)

    def discard(self, child_id: str) -> None:
        """Remove the states of the child, with their files."""
        if child_id in self._writing:
            self._writing.remove(child_id)
            self.own_path(child_id).unlink(missing_ok=True)
        for held in (self.left.pop(child_id, None), self.received.pop(child_id, None)):
            if held is not None and not isinstance(held.content, bytes):
                held.content.unlink(missing_ok=True)

    def own_path(self, child_id: str) -> Path:
        """The path at which the child leaves its state."""
        return self._folder / f"{id_hash(child_id)}.left"

    def fresh_path(self, child_id: str) -> Path:
        """The path at which the child leaves its state, once no earlier state is there."""
        self.make_folder()
        self._writing.add(child_id)
        path = self.own_path(child_id)
        path.unlink(missing_ok=True)
        return path

    def make_folder(self) -> None:
        """Create the folder, if this is the first handover."""
        self._folder.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def receiving(self, child_id: str, epoch: int) -> Iterator[tuple[Path, Path]]:
        """The path of a received state, and the path where it is to be written first.

        Each attempt has a scratch file of its own, because the last one may still be running. It is removed at the end.
        """
        self.make_folder()
        self._tries += 1
        path = self._folder / f"{id_hash(child_id)}.{epoch}.got"
        scratch = path.with_suffix(f".{self._tries}.part")
        try:
            yield path, scratch
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
