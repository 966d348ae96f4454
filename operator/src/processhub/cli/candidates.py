"""The names that a word of a command line may be completed to, as read from the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable

import typer

from processhub.api.naming import natural_order
from processhub.cli.scope import Scope
from processhub.cli.shared import Output, Target
from processhub.cli.target import connection
from processhub.client.session import Session

_SECONDS = 3.0  # a Tab that takes longer completes nothing


def child_ids(context: typer.Context, incomplete: str) -> list[str]:
    """The ids that begin so, in the hubs that the command line leaves."""
    return _matching((child_id for session in _sessions(context) for child_id in session.registry.records), incomplete)


def member_names(context: typer.Context, incomplete: str) -> list[str]:
    """The members whose names begin so."""
    names = (member.name for session in _sessions(context) for member in session.living_hub().status.members)
    return _matching(names, incomplete)


def hub_names(context: typer.Context, incomplete: str) -> list[str]:
    """The hubs whose names begin so."""
    return _matching((session.name for session in _sessions(context, named=False)), incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)}, key=natural_order)


def _sessions(context: typer.Context, *, named: bool = True) -> list[Session]:
    """The hubs of the command line's namespace, or the one that it names; none if they can't be read in time."""
    fields = Target.__dataclass_fields__
    given = {name: value for name, value in context.params.items() if name in fields and value is not None}
    target = Target(**{**given, "output": Output.TABLE})
    hub = target.hub or os.environ.get("HUB_NAME") or ""
    with contextlib.suppress(Exception):  # completion never fails: there is nobody to read why
        return asyncio.run(_read(target, hub if named else ""))
    return []


async def _read(target: Target, hub: str) -> list[Session]:
    async with asyncio.timeout(_SECONDS), connection(target) as (client, namespace):
        scope = Scope(client, namespace, hub)
        await scope.read()
        return scope.sessions
