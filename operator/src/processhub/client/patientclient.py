"""The API client of users: it waits where an overloaded API server asks for that, as kubectl does."""

from __future__ import annotations

from functools import partial
from typing import Any

from processhub.client.writes import TOO_MANY_REQUESTS, retried
from processhub.cluster.client import Client


class PatientClient(Client):
    """A client that sends a request again after a 429, which says that nothing was done."""

    async def _request(self, method: str, path: str, **options: Any) -> bytes:
        send = partial(super()._request, method, path, **options)
        return await retried(send, lambda error: error.status == TOO_MANY_REQUESTS)
