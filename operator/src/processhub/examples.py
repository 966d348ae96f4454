"""Two actors and a hook handler to try the hub with. Standard library only, like everything that runs in a runner.

``python -m processhub.examples PORT`` is a receiver for webhooks, which prints the events that it gets.
"""

from __future__ import annotations

import random
from typing import Any

from processhub.actor import Actor
from processhub.methods import method


class Counter(Actor):
    """A counter: ``{"op": "add", "by": 2}`` adds and answers the new value; any other request answers the value.

    ``hub.actor("counter", Counter).add(2)`` does the same.
    """

    async def init(self, args: dict[str, Any]) -> None:
        """Start at ``args["start"]``, by default 0."""
        self.state = int(args.get("start", 0))

    async def handle_call(self, request: Any) -> int:
        """Add if the request says so; answer the value."""
        by = int(request.get("by", 1)) if isinstance(request, dict) and request.get("op") == "add" else 0
        return await self.add(by)

    @method
    async def add(self, by: int = 1) -> int:
        """Add ``by``; returns the new value."""
        self.state += by
        value: int = self.state
        return value

    async def handle_cast(self, message: Any) -> None:
        """Handle the message like a call, without an answer."""
        await self.handle_call(message)


class Cache(Actor):
    """A single place for the requests of a tenant: it answers the same random number while it lives."""

    async def init(self, args: dict[str, Any]) -> None:
        """Choose the number, from 1 to 1000."""
        self.state = random.randint(1, 1000)  # noqa: S311 an example, no secret

    async def handle_call(self, request: Any) -> dict[str, Any]:
        """Answer the number, and the member on which the actor runs."""
        return {"value": self.state, "member": self.member}


def enrich(event: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """A handler for PreChildStart (entry point ``enrich``): it adds metadata and tags from ``args`` to the child.

    If the child's metadata lack one of the keys in ``args["require"]``, the child is not started.
    """
    missing = [key for key in args.get("require", ()) if key not in event["data"]["metadata"]]
    if missing:
        return {"allow": False, "reason": f"the child's metadata lack {', '.join(missing)}"}
    return {"metadata": args.get("metadata", {}), "tags": args.get("tags", [])}


def receive(port: int) -> None:
    """Receive events on ``port`` (0: any) of all addresses until interrupted; prints each as a line on stdout."""
    import json
    import sys
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sys.stdout.write(f"{event['type']} {event['subject']} {json.dumps(event['data'])}\n")
            sys.stdout.flush()
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing besides the events."""

    with ThreadingHTTPServer(("", port), Handler) as server:
        sys.stdout.write(f"listening on port {server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    import sys

    receive(int(sys.argv[1]) if len(sys.argv) > 1 else 8088)
