"""Actors for the agent's tests; they block and print on purpose."""
# ruff: noqa: ASYNC110, ASYNC230, ASYNC240, ASYNC251, T201

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from processhub import Actor, Hub


class Ticker(Actor):
    """Writes a line for each tick, from its own task."""

    async def init(self, args: dict[str, Any]) -> None:
        self.path = Path(args["file"])
        self.seconds = float(args.get("seconds", 0.01))
        self.task = asyncio.create_task(self.tick())

    async def tick(self) -> None:
        while True:
            with open(self.path, "a") as file:
                file.write(f"{time.monotonic()}\n")
            await asyncio.sleep(self.seconds)

    async def terminate(self, reason: str) -> None:
        with open(self.path, "a") as file:
            file.write(f"terminated {reason}\n")


class Sleeper(Actor):
    """Blocks its thread from its own task, so that it is Running meanwhile."""

    async def init(self, args: dict[str, Any]) -> None:
        self.task = asyncio.create_task(self.block(float(args.get("seconds", 60))))

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)


class SlowInit(Actor):
    """Takes long to start: it waits or blocks."""

    async def init(self, args: dict[str, Any]) -> None:
        if args.get("block"):
            time.sleep(float(args["seconds"]))
        else:
            await asyncio.sleep(float(args["seconds"]))


class Crasher(Actor):
    """Ends at once in the way that its args name."""

    async def init(self, args: dict[str, Any]) -> None:
        print("about to crash")
        how = args["how"]
        if how == "exit":
            raise SystemExit(3)
        if how == "kill":
            os.kill(os.getpid(), 9)
        if how == "background":
            self.task = asyncio.create_task(self.leave())
            return
        raise ValueError("as told")

    async def leave(self) -> None:
        raise SystemExit(4)


class Reader(Actor):
    """Uses file descriptors, a thread and a subprocess inside its own event loop."""

    async def init(self, args: dict[str, Any]) -> None:
        process = await asyncio.create_subprocess_exec("echo", "from below", stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert out == b"from below\n"
        assert await asyncio.to_thread(lambda: 7) == 7
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"ping\n")
        line = await asyncio.wait_for(reader.readline(), 5)
        assert line == b"PING\n"
        print("all worked", flush=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()


class Worker(Actor):
    """Does what each request says: waits, ends, writes a line or calls another child."""

    async def init(self, args: dict[str, Any]) -> None:
        self.args, self.served = args, 0
        if file := args.get("starts"):
            with open(file, "a") as log:
                log.write(f"{self.id} {self.member} {self.epoch}\n")

    async def handle_call(self, request: Any) -> Any:
        self.served += 1
        self.write("begin", request)
        if seconds := request.get("sleep"):
            await asyncio.sleep(seconds)
        if (path := request.get("until")) is not None:
            while not Path(path).exists():
                await asyncio.sleep(0.01)
        if request.get("crash"):
            raise ValueError("as told")
        answer: Any = {"id": self.id, "member": self.member, "served": self.served, "key": self.idempotency_key}
        answer["headers"] = self.headers
        if other := request.get("ask"):
            answer["asked"] = await self.hub.call(other, request.get("with", {}), timeout=request.get("timeout"))
        if other := request.get("tell"):
            await self.hub.cast(other, request.get("with", {}))
        if "echo" in request:
            answer["echo"] = request["echo"]
        self.write("end", request)
        return answer

    async def handle_cast(self, message: Any) -> None:
        await self.handle_call(message)

    def write(self, what: str, request: Any) -> None:
        if file := self.args.get("file"):
            with open(file, "a") as log:
                log.write(f"{what} {request.get('n', '')}\n")


class Mover(Actor):
    """Answers `can_migrate` with its args in turn, and with the last one from then on."""

    async def init(self, args: dict[str, Any]) -> None:
        self.answers: list[bool | float] = args["ready"]

    async def can_migrate(self) -> bool | float:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Hoarder(Actor):
    """Agrees to move, but does not hand its state over."""

    async def prepare_handover(self) -> Any:
        await asyncio.sleep(600)


class Sync(Actor):
    """An actor whose `init` is not async, which is rejected."""

    def init(self, args: dict[str, Any]) -> None:  # type: ignore[override]
        pass


NOT_A_CLASS = 3


class Neighbours(Actor):
    """Returns its environment, and what a client finds that connects without arguments."""

    async def handle_call(self, message: Any) -> dict[str, Any]:
        async with Hub.connect(os.environ["HUB_NAME"]) as hub:
            return {"secret": os.environ["DB_PASSWORD"], "members": sorted(hub.nodes())}
