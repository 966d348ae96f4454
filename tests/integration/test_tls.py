"""TLS between members and from clients to members: turned on in a hub at work, renewed, and required."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from agentharness import token_of
from hubcalls import Caller
from hubcli import Cli
from livehub import COUNTER, Live, live, started
from waiting import eventually, until

from localcluster.cluster import Cluster
from processhub import Hub
from processhub.api.hub import Hub as HubObject
from processhub.api.hub import TlsStatus
from processhub.client.errors import HubError
from processhub.cluster.client import Client
from processhub.cluster.kinds import HUBS, PODS, untyped
from processhub.cluster.trust import trusting

# A certificate is renewed after 7 s, and the authority is replaced after 13 s. Both go on while the tests run.
SHORT = json.dumps({"certificateSeconds": 20, "caSeconds": 40})
IDS = [f"c-{number}" for number in range(6)]


@dataclass
class Asking:
    """Calls to all children, one after the other, for as long as the block lasts."""

    hub: Hub
    counts: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Asking:
        self._task = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            for child_id in IDS:
                try:
                    answer = await self.hub.call(child_id, {"op": "add"})
                    if answer != self.counts.get(child_id, 0) + 1:
                        self.failed.append(f"{child_id} counted {answer} after {self.counts.get(child_id, 0)}")
                    self.counts[child_id] = answer
                except HubError as error:
                    self.failed.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.02)

    async def rounds(self, number: int) -> None:
        """Wait until each child was called so often more."""
        before = dict(self.counts)
        await until(
            lambda: all(self.counts.get(each, 0) >= before.get(each, 0) + number for each in IDS), "calls", within=60
        )


@dataclass
class Encrypted:
    """A hub in which TLS was turned on while its children were called."""

    product: Live
    hub: Hub
    name: str
    failed: list[str]
    pods_before: dict[str, str]

    async def status(self) -> TlsStatus:
        found: HubObject = await self.product.api.get(HUBS, self.product.namespace, self.name)
        assert found.status.tls is not None
        return found.status.tls

    async def addresses(self) -> list[str]:
        found: HubObject = await self.product.api.get(HUBS, self.product.namespace, self.name)
        return [member.pod_ip for member in found.status.members]

    async def pods(self) -> dict[str, str]:
        """The uids of the members' pods, with the number of their restarts."""
        items, _ = await self.product.api.list(PODS, self.product.namespace, labels=f"processhub.dev/hub={self.name}")
        return {
            item.metadata.name: f"{item.metadata.uid} {item.status.container_statuses[0].restart_count}"
            for item in items
            if not isinstance(item, tuple)
        }


@pytest_asyncio.fixture(scope="module")
async def encrypted(
    cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Encrypted]:
    async with live(cluster, api, tmp_path_factory.mktemp("live")) as product:
        name = await product.hub("safe", migration={"strategy": "HotSwap"})
        async with product.connect(name) as hub:
            places = await started(hub, [{"id": child_id, "python": COUNTER} for child_id in IDS])
            assert len(set(places.values())) == 2, "calls go from member to member"
            made = Encrypted(product, hub, name, [], {})
            made.pods_before = await made.pods()
            async with Asking(hub) as asking:
                await asking.rounds(3)
                await product.operator.restart(PROCESSHUB_TLS=SHORT)
                await eventually(lambda: _required(made), "TLS required", within=90)
                await asking.rounds(3)
            made.failed = asking.failed
            yield made


async def _required(made: Encrypted) -> bool:
    found: HubObject = await made.product.api.get(HUBS, made.product.namespace, made.name)
    return found.status.tls is not None and found.status.tls.required


async def token(encrypted: Encrypted) -> str:
    return await token_of(encrypted.product.api, encrypted.product.namespace, f"processhub-{encrypted.name}")


async def certificate_of(address: str, verified: ssl.SSLContext, name: str) -> dict[str, Any]:
    _, writer = await asyncio.open_connection(address, 8080, ssl=verified, server_hostname=name)
    found: dict[str, Any] = writer.get_extra_info("peercert")
    writer.close()
    return found


async def test_it_is_turned_on_in_a_hub_at_work_without_a_lost_call_or_a_restart(encrypted: Encrypted) -> None:
    assert encrypted.failed == []
    assert await encrypted.pods() == encrypted.pods_before


async def test_without_it_nothing_but_probes_and_metrics_is_answered(encrypted: Encrypted) -> None:
    held = await token(encrypted)
    for address in await encrypted.addresses():
        async with Caller(held) as caller:
            refused = await caller.call(address, IDS[0], {"op": "get"})
            probe, numbers = [await caller.get(f"http://{address}:8080/{path}") for path in ("healthz", "metrics")]

        assert (refused.status, refused.code) == (426, "tls_required")
        assert f"safe.{encrypted.product.namespace}.svc" in refused.value["detail"]
        assert probe.status == 200
        assert "processhub_agent_children" in numbers.value


async def test_any_http_client_verifies_a_member_by_what_the_cluster_says(encrypted: Encrypted) -> None:
    status, product = await encrypted.status(), encrypted.product
    kept = await product.api.get(untyped("v1", "configmaps"), product.namespace, f"processhub-{encrypted.name}-ca")
    held = await token(encrypted)

    for address in await encrypted.addresses():
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {held}"}) as session,
            session.get(
                f"https://{address}:8080/v1/members",
                ssl=trusting(kept["data"]["ca.crt"]),
                server_hostname=status.server_name,
            ) as answer,
        ):
            assert {member["name"] for member in await answer.json()} == {"safe-0", "safe-1"}


async def test_the_command_line_calls_a_child(encrypted: Encrypted) -> None:
    done = await Cli(encrypted.product, encrypted.name)(f"call {IDS[0]}", '{"op": "get"}')

    assert done.code == 0, done.err
    assert int(done.out) > 0


async def test_a_state_moves_to_another_member(encrypted: Encrypted) -> None:
    hub = encrypted.hub
    before = await hub.call(IDS[0], {"op": "get"})
    ((member, _),) = hub.process_list()[IDS[0]]
    target = next(name for name in ("safe-0", "safe-1") if name != member)

    await hub.migrate_child(IDS[0], target)
    await until(lambda: [name for name, _ in hub.process_list().get(IDS[0], [])] == [target], "moved", within=60)

    assert await hub.call(IDS[0], {"op": "get"}) == before


async def test_certificates_and_the_authority_are_renewed_while_calls_go_on(encrypted: Encrypted) -> None:
    status = await encrypted.status()
    address = (await encrypted.addresses())[0]
    first = await certificate_of(address, trusting(status.authorities), status.server_name)

    async def all_is_new() -> bool:
        now = await encrypted.status()
        if any(part in now.authorities for part in parts(status.authorities)):
            return False  # the members' certificates of the former authority are verified until it ends
        last = await certificate_of(address, trusting(now.authorities), now.server_name)
        return bool(last["serialNumber"] != first["serialNumber"])

    counts = {child_id: await encrypted.hub.call(child_id, {"op": "get"}) for child_id in IDS}
    async with Asking(encrypted.hub, counts) as asking:
        await eventually(all_is_new, "another authority", within=120)
        await asking.rounds(3)

    assert asking.failed == []
    assert await encrypted.pods() == encrypted.pods_before


def parts(authorities: str) -> list[str]:
    """The certificates of a PEM text."""
    end = "-----END CERTIFICATE-----\n"
    return [part + end for part in authorities.split(end) if part.strip()]
