"""A hub whose members have only IPv6 addresses."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
import pytest_asyncio
from agentharness import token_of
from hubcalls import Caller
from hubcli import Cli
from livehub import COUNTER, Live, live, started
from waiting import until

from localcluster.cluster import Cluster
from localcluster.faults import Faults
from localcluster.kubelet.addresses import IP_FAMILY
from processhub.api.addresses import url_host
from processhub.cluster.client import Client

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or not Path("/proc/net/if_inet6").exists(),
    reason="IPv6 addresses of pods need root, the program ip and a kernel with IPv6",
)
# Adds to a counter at its child's URL, and writes the answer to a file.
ASKING = """
import os, sys, time, urllib.request
from pathlib import Path
url = os.environ["HUB_URL"] + "/v1/children/counter/call"
headers = {"Authorization": "Bearer " + Path(os.environ["HUB_TOKEN_FILE"]).read_text()}
answer = urllib.request.urlopen(urllib.request.Request(url, data=b'{"op": "add", "by": 5}', headers=headers)).read()
new = Path(sys.argv[1] + ".new")
new.write_bytes(answer)
new.rename(sys.argv[1])
time.sleep(1000)
"""


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("ipv6")) as running:
        yield running


@pytest.mark.nightly
async def test_children_of_ipv6_members_are_found_called_and_moved_with_their_state(
    product: Live, faults: Faults, tmp_path: Path
) -> None:
    name = await product.hub(
        members={"template": {"metadata": {"annotations": {IP_FAMILY: "IPv6"}}}}, migration={"strategy": "HotSwap"}
    )
    answer = tmp_path / "answer"
    async with product.connect(name) as hub:
        addresses = {member.name: member.pod_ip for member in hub._session.living_hub().status.members}
        assert all(IPv6Address(address) for address in addresses.values())
        places = await started(
            hub,
            [
                {"id": "counter", "python": COUNTER},
                {"id": "program", "exec": {"command": [sys.executable, "-c", ASKING, str(answer)]}},
            ],
        )
        await until(answer.exists, "the program has asked the counter")
        assert answer.read_text() == "5"

        async with Caller(await token_of(product.api, product.namespace, "default")) as caller:
            for address in addresses.values():  # one of them forwards the request to the other
                reply = await caller.call(url_host(address), "counter", {"op": "add"})
                assert reply.status == 200

        (target,) = addresses.keys() - {places["counter"]}
        await hub.migrate_child("counter", target, wait=True)
        assert await hub.call("counter", {"op": "get"}) == 7
        assert (await Cli(product, name)("call counter", '{"op":"get"}')).out == "7\n"

        await faults.kill_pod(f"{product.namespace}/{target}")
        assert await hub.call("counter", {"op": "get"}) == 0, "it begins anew, as after any crash"
