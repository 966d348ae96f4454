"""A complete program as a child: it serves requests, knows its role, ends in order and takes its state along.

It uses the standard library only. A program in any other language does the same with its own HTTP server.
"""

import http.server
import json
import os
import signal
import socketserver
import threading
from pathlib import Path

HANDOVER = Path(os.environ["HUB_HANDOVER_FILE"])
# 1. Start: take over the state that the last run left, if there is one.
state = json.loads(HANDOVER.read_text()) if HANDOVER.exists() else {"total": 0}


class Handler(http.server.BaseHTTPRequestHandler):
    """2. Requests: POST /call has an answer, POST /cast has none. They come one at a time."""

    def do_POST(self) -> None:
        """Add, and answer the total."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state["total"] += request.get("add", 0)
        # A store that keeps the highest epoch it has seen, and refuses lower ones, is safe from a late writer.
        epoch = int(Path(os.environ["HUB_EPOCH_FILE"]).read_text())
        role = Path(os.environ["HUB_ROLE_FILE"]).read_text().strip()
        answer = json.dumps({"total": state["total"], "role": role, "epoch": epoch}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        """3. Liveness: exec.liveness asks for /healthz. A program that hangs does not answer, and is restarted."""
        self.send_response(204)
        self.end_headers()

    def address_string(self) -> str:
        """Name the caller in the log: a Unix socket has no address."""
        return "the hub"


def leave(*_: object) -> None:
    """4. The stop signal: leave the state, whole or not at all, then end. SIGKILL follows after stopSeconds."""
    scratch = HANDOVER.with_name("handover.new")
    scratch.write_text(json.dumps(state))
    scratch.rename(HANDOVER)
    threading.Thread(target=server.shutdown).start()


server = socketserver.UnixStreamServer(os.environ["HUB_SOCKET"], Handler)
signal.signal(signal.SIGTERM, leave)
print(os.environ["HUB_CHILD_ID"], "starts with", state["total"], flush=True)  # noqa: T201 its log
server.serve_forever(poll_interval=0.1)
