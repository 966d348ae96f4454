"""A child in Python: it greets, and counts whom it has greeted."""

from typing import Any

import processhub


class Greeter(processhub.Actor):
    """A child that greets."""

    async def init(self, args: dict[str, Any]) -> None:
        """Start to count."""
        self.state = 0

    async def handle_call(self, request: Any) -> str:
        """Greet the person that the request names."""
        self.state += 1
        return f"Hello {request}, you are number {self.state}"
