"""A pod's log as a stream of lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote, urlencode

import aiohttp

from processhub.cluster.client import Client
from processhub.cluster.errors import ConnectionFailedError, api_error, reason_of
from processhub.cluster.sending import new_session


async def pod_log(client: Client, namespace: str, pod: str, *, container: str, follow: bool) -> AsyncIterator[bytes]:
    """Yield the container's log, line by line; with ``follow`` until the container ends. Raises ApiError."""
    config = client.config
    query = {"container": container, **({"follow": "true"} if follow else {})}
    url = f"{config.host}/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/log?{urlencode(query)}"
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    try:
        async with (
            new_session() as session,
            session.get(url, headers=await config.headers(), timeout=timeout, **config.connection) as answer,
        ):
            if answer.status >= 400:
                raise api_error(answer.status, await answer.read())
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line
            if rest:
                yield rest
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionFailedError(f"the log of pod {pod} broke off: {reason_of(error)}") from error
