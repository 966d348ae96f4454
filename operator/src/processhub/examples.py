"""Two actors and a hook's handler to try the hub with. Standard library only, as all that runs in a runner.

``python -m processhub.examples PORT`` is a receiver for webhooks that prints what it is told.
"""

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


def enrich(event: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """A handler for PreChildStart (entry point ``enrich``): the child gets ``args["metadata"]`` and ``args["tags"]``.

    Where its metadata lack one of the keys that ``args["require"]`` lists, it is not started.
    """
    missing = [key for key in args.get("require", ()) if key not in event["data"]["metadata"]]
    if missing:
        return {"allow": False, "reason": f"the child's metadata lack {', '.join(missing)}"}
    return {"metadata": args.get("metadata", {}), "tags": args.get("tags", [])}


def receive(port: int) -> None:
    """Take events on ``port`` (0: any) of all addresses until interrupted; each is a line on stdout."""
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
            """Nothing beside the events."""

    with ThreadingHTTPServer(("", port), Handler) as server:
        sys.stdout.write(f"listening on port {server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    import sys

    receive(int(sys.argv[1]) if len(sys.argv) > 1 else 8088)
