"""``kubectl hub call`` and ``cast``: a request to a child from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from processhub.cli.durations import seconds
from processhub.cli.errors import DONE, UsageError
from processhub.cli.output import out, say, structured, takes_unicode
from processhub.cli.shared import Output, Target
from processhub.cli.target import connection, resolve
from processhub.client.hub import Hub
from processhub.client.session import Session
from processhub.client.waiting import why_not_running
from processhub.cluster.errors import ApiError
from processhub.cluster.tasks import cancel_all

_PATIENCE_SECONDS = 0.5  # how long an answer may take before the reason is looked for


async def call(child_id: str, request: str, target: Target, *, timeout: str) -> int:
    """Send a request to a child and print its answer; returns the exit code.

    ``-o json`` and ``-o yaml`` print any answer in that format. Otherwise text is printed unchanged, and any other
    answer as JSON in one line.
    """
    value, limit = _json(request), seconds(timeout)
    async with _hub(child_id, target) as (hub, session), _telling_why(session, child_id):
        answer = await hub.call(child_id, value, limit)
    if target.output in (Output.JSON, Output.YAML):
        structured(answer, target.output)
    elif isinstance(answer, str):
        out(answer)
    else:
        out(json.dumps(answer, ensure_ascii=not takes_unicode()))
    return DONE


async def cast(child_id: str, message: str, target: Target, *, everywhere: bool, timeout: str) -> int:
    """Send a message to a child; with ``everywhere``, print the members that accepted it. Returns the exit code."""
    value, limit = _json(message), seconds(timeout)
    async with _hub(child_id, target) as (hub, session), _telling_why(session, child_id):
        members = await hub.cast(child_id, value, "all" if everywhere else "one", timeout=limit)
    if target.output in (Output.JSON, Output.YAML):
        structured({"id": child_id, "members": members}, target.output)
    elif everywhere:
        out("\n".join(members))
    return DONE


@asynccontextmanager
async def _hub(child_id: str, target: Target) -> AsyncIterator[tuple[Hub, Session]]:
    """Open the hub's client without reading the registry, because the member that gets the request has its own."""
    async with connection(target) as (client, namespace):
        hub = await resolve(client, namespace, target.hub, (child_id,))
        session = Session(client, namespace, hub)
        attached = Hub.attached(session)
        try:
            yield attached, session
        finally:
            await attached.close_requests()
            await session.close()


@asynccontextmanager
async def _telling_why(session: Session, child_id: str) -> AsyncIterator[None]:
    """Say why the child does not run, as soon as that is known, while the block waits for its answer."""

    async def tell() -> None:
        await asyncio.sleep(_PATIENCE_SECONDS)
        with contextlib.suppress(ApiError):
            await session.read()
            if why := await why_not_running(session, child_id):
                say(f"child {child_id!r} does not run: {why}; waiting until it does")

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        await cancel_all([telling])


def _json(text: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if text == "-" else text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"the request is not JSON (see line {error.lineno}, column {error.colno});"
            ' write for example \'{"op": "get"}\', and text in double quotes:'
            " '\"text\"'"
        ) from None
    except (ValueError, RecursionError) as error:  # text that is not UTF-8, a number or nesting beyond all bounds
        raise UsageError(f"the request can't be read: {error}") from None
