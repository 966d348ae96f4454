"""A pod's log as a stream of lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote, urlencode

import aiohttp

from processhub.cluster.client import Client
from processhub.cluster.errors import ConnectionFailedError, api_error, reason_of
from processhub.cluster.sending import new_session

_CONNECT_SECONDS = 10.0


async def pod_log(
    client: Client, namespace: str, pod: str, *, container: str, follow: bool, query: Mapping[str, str] | None = None
) -> AsyncIterator[bytes]:
    """Yield the container's log, line by line; with ``follow`` until the container ends. Raises ApiError.

    ``query``: more options of the API server's request. The client's limit for a request is that of the whole log, and
    with ``follow`` of the time until the log begins to come.
    """
    config = client.config
    asked = {"container": container, **({"follow": "true"} if follow else {}), **(query or {})}
    url = f"{config.host}/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/log?{urlencode(asked)}"
    limit = config.request_timeout
    timeout = aiohttp.ClientTimeout(total=None if follow else limit, sock_connect=_CONNECT_SECONDS)
    try:
        async with new_session() as session:
            sent = session.get(url, headers=await config.headers(), timeout=timeout, **config.connection)
            async with await asyncio.wait_for(sent, limit) as answer:
                if answer.status >= 400:
                    raise api_error(answer.status, await answer.read())
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line
                if rest:
                    yield rest
    except TimeoutError as error:
        why = f"it did not come within the {limit:g} s of --request-timeout" if limit else reason_of(error)
        raise ConnectionFailedError(f"the log of pod {pod} broke off: {why}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionFailedError(f"the log of pod {pod} broke off: {reason_of(error)}") from error
