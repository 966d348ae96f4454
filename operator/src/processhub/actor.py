"""``Actor``: what a Python child derives from. Standard library only: it is imported by the children's own Python.

from processhub import Actor

class Counter(Actor):
    async def init(self, args):
        self.state = args.get("start", 0)

    async def handle_call(self, request):
        self.state += 1
        return self.state
"""

from __future__ import annotations

from typing import Any


class HubHandle:
    """The hub as an actor sees it: ``self.hub``."""

    def __init__(self, name: str, namespace: str, member: str) -> None:
        self.name, self.namespace, self.member = name, namespace, member

    async def call(self, child_id: str, request: Any, *, timeout: float | None = None) -> Any:
        """Ask another child and return its answer.

        Raises NotImplementedError: requests between children come with a later version.
        """
        raise NotImplementedError(f"hub.call({child_id!r}) is not supported yet: requests come with a later version")

    async def cast(self, child_id: str, message: Any) -> None:
        """Tell another child something.

        Raises NotImplementedError: requests between children come with a later version.
        """
        raise NotImplementedError(f"hub.cast({child_id!r}) is not supported yet: requests come with a later version")


class Actor:
    """A small stateful worker. One message is handled at a time; an exception is a crash, and it is restarted.

    All methods are ``async``. An actor may block (``time.sleep``) without harm to others, but it can't be stopped
    while it does: one that still blocks stopSeconds after the order takes its runner process with it.
    """

    id: str
    member: str
    epoch: int
    role: str
    hub: HubHandle
    state: Any = None

    async def init(self, args: dict[str, Any]) -> None:
        """Get ready; ``args`` are those of the Child. The child is Running when this returns."""

    async def handle_call(self, request: Any) -> Any:
        """Answer a request; the result goes back as JSON."""
        raise NotImplementedError(f"{type(self).__name__} does not define handle_call")

    async def handle_cast(self, message: Any) -> None:
        """Take a message that nobody waits for an answer to."""
        raise NotImplementedError(f"{type(self).__name__} does not define handle_cast")

    async def handle_info(self, message: Any) -> None:
        """Take a message of the hub itself."""

    async def redundancy_signal(self, role: str) -> None:
        """Hear of the role, ``Active`` or ``Passive``: once after init, then on each change."""

    async def prepare_handover(self) -> Any:
        """The state to hand over to this child's next member; it must fit JSON."""
        return self.state

    async def accept_handover(self, state: Any) -> None:
        """Take over the state from this child's last member."""
        self.state = state

    async def can_migrate(self) -> bool | float:
        """Whether it may be moved now; a number asks to wait so many seconds."""
        return True

    async def terminate(self, reason: str) -> None:
        """The last call before it ends in order; not called after a crash."""
