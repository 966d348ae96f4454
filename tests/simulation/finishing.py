"""Children that have finished: nothing may start them again, wherever they are moved (docs/protocol.md, rule 34)."""

from __future__ import annotations

from memoryapi import Json
from memoryrequests import Key

from .machines import Run
from .trace import Trace

_Work = tuple[str, tuple[str, ...]]  # the uid of a Child, and its command


class Finished:
    """The Children whose end is known for good, by id."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._works: dict[str, _Work] = {}
        self._unseen: dict[str, _Work] = {}  # Their end is not in their status yet.

    def finish(self, run: Run, *, seen: bool) -> None:
        """Let a run finish. With ``seen`` its end counts only once the status of its Child has it."""
        works = self._unseen if seen else self._works
        works[run.child_id] = (run.uid, run.command)
        run.finish()

    def stored(self, key: Key, before: Json | None, after: Json | None) -> None:
        """Follow a change at the API server."""
        if key.plural == "children":
            self._child_stored(key.name, after)
        elif key.plural == "hubs" and (after is None or after["spec"].get("suspend")):
            self.forget_all()
        elif key.plural == "registryslices" and after is None and before is not None:
            # With the slice, somebody has deleted what its member had reported.
            self._forget(*before["spec"]["entries"], *before.get("status", {}).get("entries", {}))

    def _child_stored(self, name: str, after: Json | None) -> None:
        if after is None or after["spec"].get("suspend"):
            self._forget(name)  # When it is resumed it runs again.
            return
        status, unseen = after.get("status", {}), self._unseen.get(name)
        if unseen is None or unseen[0] != after["metadata"]["uid"]:
            return
        of_now = status.get("observedGeneration") == after["metadata"]["generation"]
        if of_now and status.get("state") == "Stopped" and status["nodes"][0].get("lastExit") == "exit code 0":
            self._works[name] = self._unseen.pop(name)

    def forget_all(self) -> None:
        """Forget all ends."""
        self._forget(*self._works, *self._unseen)

    def _forget(self, *ids: str) -> None:
        for child_id in ids:
            self._works.pop(child_id, None)
            self._unseen.pop(child_id, None)

    def check_start(self, run: Run) -> None:
        """Check that a run that begins is not of a child that has finished."""
        if self._works.get(run.child_id) == (run.uid, run.command):
            self._trace.break_promise(f"child {run.child_id} starts on {run.where}, and had finished")
        elif self._unseen.get(run.child_id) == (run.uid, run.command):
            del self._unseen[run.child_id]  # Its end was not known when it was started again.


def rests(item: Json) -> bool:
    """Whether a Child without a process has ended by its restart policy."""
    spec, state = item["spec"], item.get("status", {}).get("state")
    return spec.get("restartPolicy") == "Temporary" and state == "Stopped" and not spec.get("suspend")
