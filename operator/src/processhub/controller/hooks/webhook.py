"""One POST of one event to a webhook."""

from __future__ import annotations

import asyncio

import aiohttp

from processhub.api.hooks import Webhook
from processhub.api.meta import brief
from processhub.cluster.errors import reason_of
from processhub.controller.hooks.hubevent import CloudEventText

ANSWER_BYTES = 64 * 1024
TEXT_BYTES = 1024  # bytes of a hook's text that people get to read
_RETRY_AFTER_MAX_SECONDS = 30.0


class HookError(Exception):
    """A call of a hook failed. ``retry``: another attempt may succeed, after at least ``after`` seconds.

    The message may come from a foreign server, and goes into statuses, Events and logs. So it is cut, and is always
    text.
    """

    def __init__(self, message: str, *, retry: bool = False, after: float = 0.0) -> None:
        super().__init__(brief(message, TEXT_BYTES))
        self.retry, self.after = retry, after


def new_session() -> aiohttp.ClientSession:
    """A session for the connections of all hubs. It has no limit that a slow receiver of one hub could exhaust."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # the size of an answer is limited, which that of its decompressed text would not be
        headers={"Accept-Encoding": "identity"},
        trust_env=True,  # HTTPS_PROXY and NO_PROXY, as the chart's extraEnv sets them
    )


async def post(session: aiohttp.ClientSession, webhook: Webhook, event: CloudEventText) -> bytes:
    """Post the event; returns the body of a 2xx answer, ANSWER_BYTES at most. Raises HookError."""
    timeout = aiohttp.ClientTimeout(total=webhook.timeout_seconds)
    try:
        async with session.post(
            webhook.url, data=event.body, headers=event.headers, timeout=timeout, allow_redirects=False
        ) as response:
            if 200 <= response.status < 300:
                return await _body(response)
            raise _refused(response)
    except TimeoutError as error:
        raise HookError(f"no answer within {webhook.timeout_seconds} s", retry=True) from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
        raise HookError(f"can't be reached: {reason_of(error)}", retry=True) from error
    except (aiohttp.ClientError, ValueError, asyncio.LimitOverrunError) as error:
        raise HookError(f"not called: {error}") from error


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES:
            raise HookError(f"its answer is longer than {ANSWER_BYTES} bytes")
    return bytes(body)


def _refused(response: aiohttp.ClientResponse) -> HookError:
    status = response.status
    said = f"answered {status} {response.reason or ''}".rstrip()
    if 300 <= status < 400:
        return HookError(f"{said}; redirects are not followed")
    after = response.headers.get("Retry-After", "")
    seconds = min(float(after), _RETRY_AFTER_MAX_SECONDS) if after.isascii() and after.isdigit() else 0.0
    return HookError(said, retry=status >= 500 or status == 429, after=seconds)
