"""Edits of annotations by the client whose answer is lost, and those that other writers come before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import virtualtime
from memoryapi import Key, MemoryApi, MemoryClient, Wire

from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_DRAINED
from processhub.client.asynchub import AsyncHub
from processhub.client.errors import HubNotFound, Timeout
from processhub.client.session import Session
from processhub.cluster.errors import ConnectionFailedError, api_error

HUB = Key("hubs", "ns", "hub")
LOST = [api_error(504, b"", None), ConnectionFailedError("the connection broke")]


class Lossy(MemoryClient):
    """A client whose first patch is stored and has no answer; ``then`` is what happens next."""

    def __init__(self, api: MemoryApi, error: Exception, then: Callable[[], object]) -> None:
        super().__init__(api, Wire())
        self._error: Exception | None = error
        self._then = then

    async def patch(self, *given: Any, **options: Any) -> Any:
        stored = await super().patch(*given, **options)
        if self._error is None:
            return stored
        error, self._error = self._error, None
        self._then()
        raise error


def with_hub(
    drained: str, test: Callable[[AsyncHub, MemoryApi], Awaitable[None]], lost: Exception, then: str = ""
) -> None:
    """Run the test with a hub whose drained members these are; ``then``: what another writer makes of them."""

    def edit(hub: dict[str, Any]) -> None:
        hub["metadata"]["annotations"] = {ANNOTATION_DRAINED: then}

    async def main() -> None:
        api = MemoryApi()
        members = [{"name": name, "ready": True} for name in ("hub-0", "hub-1", "hub-2")]
        metadata = {"name": "hub", "annotations": {ANNOTATION_DRAINED: drained}}
        stored = api.create("hubs", {"metadata": metadata, "spec": {}, "status": {"members": members}})
        client = Lossy(api, lost, lambda: then and api.update(HUB, edit))
        await test(AsyncHub.attached(Session(client, "ns", msgspec.convert(stored, Hub, strict=False))), api)

    virtualtime.run(main())


def drained_of(api: MemoryApi) -> str:
    return str(api.get("hubs", "hub")["metadata"].get("annotations", {}).get(ANNOTATION_DRAINED, ""))


@pytest.mark.parametrize("lost", LOST)
def test_a_drain_that_is_stored_without_an_answer_is_done(lost: Exception) -> None:
    async def test(hub: AsyncHub, api: MemoryApi) -> None:
        assert (await hub.drain("hub-1")).left == ()
        assert drained_of(api) == "hub-1"

    with_hub("", test, lost)


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("then", ["", "hub-2"])
def test_an_undrain_that_is_stored_without_an_answer_has_changed_the_hub(lost: Exception, then: str) -> None:
    async def test(hub: AsyncHub, api: MemoryApi) -> None:
        assert await hub.undrain("hub-1")
        assert drained_of(api) == then
        assert not await hub.undrain("hub-1")

    with_hub("hub-1", test, lost, then)


def test_an_edit_that_others_come_before_every_time_is_given_up() -> None:
    async def test(hub: AsyncHub, api: MemoryApi) -> None:
        class Busy(MemoryClient):
            async def patch(self, *given: Any, **options: Any) -> Any:
                api.update(HUB, lambda item: item["status"].update(summary={"members": str(api.version)}))
                return await super().patch(*given, **options)

        hub._session.client = Busy(api, Wire())
        with pytest.raises(Timeout, match="hub hub is edited too often: its annotations could not be changed in 20"):
            await hub.drain("hub-1")
        api.delete("hubs", "hub")
        with pytest.raises(HubNotFound, match="hub hub in namespace ns was deleted"):
            await hub.drain("hub-1")

    with_hub("", test, LOST[0])
