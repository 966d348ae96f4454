"""``kubectl hub call`` and ``cast``: a request to a child from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from processhub.cli.durations import seconds
from processhub.cli.errors import DONE, UsageError
from processhub.cli.options import Output, Target
from processhub.cli.output import out, structured
from processhub.cli.target import impersonation_of, resolve
from processhub.client.hub import Hub
from processhub.client.session import Session, connected


async def call(child_id: str, request: str, target: Target, *, timeout: str) -> int:
    """Send a request to a child and print its answer; returns the exit code.

    ``-o json`` and ``-o yaml`` print any answer in that format. Otherwise text is printed unchanged, and any other
    answer as JSON in one line.
    """
    value, limit = _json(request), seconds(timeout)
    async with _hub(child_id, target) as hub:
        answer = await hub.call(child_id, value, limit)
    if target.output in (Output.JSON, Output.YAML):
        structured(answer, target.output)
    elif isinstance(answer, str):
        out(answer)
    else:
        out(json.dumps(answer, ensure_ascii=False))
    return DONE


async def cast(child_id: str, message: str, target: Target, *, everywhere: bool, timeout: str) -> int:
    """Send a message to a child; with ``everywhere``, print the members that accepted it. Returns the exit code."""
    value, limit = _json(message), seconds(timeout)
    async with _hub(child_id, target) as hub:
        members = await hub.cast(child_id, value, "all" if everywhere else "one", timeout=limit)
    if target.output in (Output.JSON, Output.YAML):
        structured({"id": child_id, "members": members}, target.output)
    elif everywhere:
        out("\n".join(members))
    return DONE


@asynccontextmanager
async def _hub(child_id: str, target: Target) -> AsyncIterator[Hub]:
    """Open the hub's client without reading the registry, because the member that gets the request has its own."""
    async with connected(target.namespace, target.context, target.kubeconfig, impersonation_of(target)) as (
        client,
        namespace,
    ):
        hub = await resolve(client, namespace, target.hub, (child_id,))
        session = Session(client, namespace, hub)
        attached = Hub.attached(session)
        try:
            yield attached
        finally:
            await attached.close_requests()
            await session.close()


def _json(text: str) -> Any:
    given = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise UsageError(
            f'the request is not JSON ({error}); write for example \'{{"op": "get"}}\', and text in double quotes:'
            " '\"text\"'"
        ) from None
