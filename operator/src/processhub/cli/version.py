"""``kubectl hub version``: the versions of this program, of the operator and of the API server."""

from __future__ import annotations

from typing import Any

import msgspec

from processhub import __version__
from processhub.cli.errors import DONE, FAILED
from processhub.cli.output import out, say, structured
from processhub.cli.shared import Output, Target
from processhub.cli.target import connection
from processhub.client.errors import HubError
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ForbiddenError, readable
from processhub.cluster.kinds import untyped

_DEPLOYMENTS = untyped("apps/v1", "deployments")
_OPERATORS = "app.kubernetes.io/name=processhub,app.kubernetes.io/component=operator"
_VERSION = "app.kubernetes.io/version"
_NAMES = {"client": "Client", "operator": "Operator", "server": "Server"}


async def version(target: Target, *, client_only: bool) -> int:
    """Print the versions; returns the exit code, 1 if the cluster does not answer."""
    found: dict[str, Any] = {"client": __version__}
    trouble = ""
    if not client_only:
        try:
            async with connection(target) as (client, _):
                body = await client.raw("GET", "/version")
                with readable("its version"):
                    answer = msgspec.json.decode(body, type=dict[str, Any])
                found["server"] = str(answer.get("gitVersion", ""))
                found["operator"], why = await _operators(client)
                if why:
                    say(f"warning: {why}")
        except ApiError as error:
            trouble = f"the API server does not answer: {error.message}"
        except HubError as error:
            trouble = str(error)
    if target.output in (Output.JSON, Output.YAML):
        structured(found, target.output)
    else:
        for part, name in _NAMES.items():
            if value := found.get(part):
                out(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
    if trouble:
        say(f"error: {trouble}")
    return FAILED if trouble else DONE


async def _operators(client: Client) -> tuple[list[str], str]:
    """The version of each operator in the cluster with its namespace, or why that is not known."""
    try:
        items, _ = await client.list(_DEPLOYMENTS, None, labels=_OPERATORS)
    except ForbiddenError as error:
        return [], f"the operator's version is not known: {error.message}"
    metadata = [item["metadata"] for item in items if isinstance(item, dict)]
    found = [f"{one['labels'].get(_VERSION, 'unknown')} (namespace {one['namespace']})" for one in metadata]
    return sorted(found), "" if found else "no Deployment of the operator was found; was it installed by the chart?"
