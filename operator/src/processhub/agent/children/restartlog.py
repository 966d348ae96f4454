"""The times of restarts in files, so that the window of restarts.max outlives the agent's container.

Without them, a child would have all its restarts again after each end of the container. The files are on a volume of
the pod, beside those of the child. The times are of the machine's monotonic clock, which all containers share. After a
restart of the machine they lie in the future, and do not count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from processhub.agent.children.child import Child
from processhub.agent.registry.slicewatcher import DesiredRun

_NAME = "restarts"
log = logging.getLogger(__name__)


class _Restarts(msgspec.Struct):
    """The content of a file: of which incarnation, and when it was restarted within the window."""

    uid: str
    epoch: int
    times: list[float]


_decode = msgspec.json.Decoder(_Restarts).decode


class RestartLog:
    """The files of all children. ``folder_of(child_id)`` is the folder of a child, which is removed with it."""

    def __init__(self, folder_of: Callable[[str], Path]) -> None:
        self._folder_of = folder_of

    def keep(self, child: Child) -> None:
        """Write the child's restarts. A file that can't be written costs no more than a longer window."""
        desired = child.started_for or child.desired
        if desired is None or not child.limits.restarts_max:
            return
        entry = desired.assignment
        folder = self._folder_of(child.id)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            scratch = folder / f"{_NAME}.new"
            times = list(child.history.backoff.times)
            scratch.write_bytes(msgspec.json.encode(_Restarts(entry.uid, entry.started_with, times)))
            scratch.replace(folder / _NAME)
        except OSError as error:
            log.warning("its restarts can't be kept: %s", error, extra={"child": child.id})

    def times(self, child_id: str, desired: DesiredRun, now: float) -> list[float]:
        """When this incarnation was restarted, as an earlier agent of this pod kept it; ``now``: monotonic seconds."""
        try:
            found = _decode((self._folder_of(child_id) / _NAME).read_bytes())
        except (OSError, msgspec.MsgspecError):
            return []
        entry = desired.assignment
        same = (found.uid, found.epoch) == (entry.uid, entry.started_with)
        return [time for time in found.times if time <= now] if same else []
