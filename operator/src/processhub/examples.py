"""Two actors to try the hub with. Standard library only, as all that runs in a runner."""

from __future__ import annotations

import random
from typing import Any

from processhub.actor import Actor


class Counter(Actor):
    """Counts: ``{"op": "add", "by": 2}`` adds and answers the new value, anything else answers the value."""

    async def init(self, args: dict[str, Any]) -> None:
        """Start at ``args["start"]``, 0 where it is left out."""
        self.state = int(args.get("start", 0))

    async def handle_call(self, request: Any) -> int:
        """Add where it is asked for; answer the value."""
        if isinstance(request, dict) and request.get("op") == "add":
            self.state += int(request.get("by", 1))
        value: int = self.state
        return value

    async def handle_cast(self, message: Any) -> None:
        """The same without an answer."""
        await self.handle_call(message)


class Cache(Actor):
    """One place that a tenant's requests go through: it answers the same random number while it lives."""

    async def init(self, args: dict[str, Any]) -> None:
        """Choose the number, 1 to 1000."""
        self.state = random.randint(1, 1000)  # noqa: S311 an example, no secret

    async def handle_call(self, request: Any) -> dict[str, Any]:
        """The number, and the member that it was answered on."""
        return {"value": self.state, "member": self.member}
