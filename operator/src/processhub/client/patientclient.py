"""The API client of users: it waits where an overloaded API server asks for that, as kubectl does."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from processhub.cluster.client import Client
from processhub.cluster.errors import UnavailableError

_TOO_MANY_REQUESTS = 429
_ATTEMPTS = 5
_LEAST_SECONDS, _MOST_SECONDS = 0.2, 5.0


class PatientClient(Client):
    """A client that sends a request again after a 429, which says that nothing was done."""

    async def _request(self, method: str, path: str, **options: Any) -> bytes:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await super()._request(method, path, **options)
            except UnavailableError as error:
                if error.status != _TOO_MANY_REQUESTS or attempt == _ATTEMPTS:
                    raise
                pause = min(max(error.retry_after, _LEAST_SECONDS), _MOST_SECONDS)
                await asyncio.sleep(pause * random.uniform(1.0, 1.25))  # noqa: S311 so that not all come back at once
        raise AssertionError("unreachable")
