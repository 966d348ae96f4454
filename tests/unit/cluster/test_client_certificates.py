"""A client whose cluster replaces its certificate authority while the client runs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from aiohttp import web

from processhub.cluster.client import Client
from processhub.cluster.errors import ConnectionFailedError
from processhub.cluster.kinds import HUBS

PATH = "/apis/processhub.dev/v1alpha1/namespaces/n/hubs"


@asynccontextmanager
async def api_server(authority: trustme.CA, port: int = 0) -> AsyncIterator[tuple[int, list[str]]]:
    """Run an API server with a certificate of ``authority``; yield its port and the methods of its requests."""
    came: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        came.append(request.method)
        return web.json_response({"metadata": {"name": "h", "resourceVersion": "7"}})

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    app = web.Application()
    app.router.add_route("*", PATH + "{name:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context)
        await site.start()
        yield runner.addresses[0][1], came
    finally:
        await runner.cleanup()


def kubeconfig(folder: Path, port: int) -> str:
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "clusters": [
            {"name": "c", "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.crt"}}
        ],
        "users": [{"name": "c", "user": {}}],
    }
    (folder / "config").write_text(yaml.safe_dump(content))
    return str(folder / "config")


async def read(client: Client) -> Any:
    return await client.get(HUBS, "n", "h")


async def write(client: Client) -> Any:
    return await client.create(HUBS, "n", {"metadata": {"name": "h"}})


async def watch(client: Client) -> Any:
    with pytest.raises(ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
        await anext(client.watch(HUBS, "n", "7"))
    return await read(client)


@pytest.mark.parametrize(("use", "method"), [(read, "GET"), (write, "POST"), (watch, "GET")])
async def test_a_replaced_authority_is_read_from_its_file_and_the_request_is_sent_once(
    tmp_path: Path, use: Any, method: str
) -> None:
    old, new = trustme.CA(), trustme.CA()
    old.cert_pem.write_to_path(tmp_path / "ca.crt")
    async with api_server(old) as (port, _):
        client = await Client.connect(kubeconfig=kubeconfig(tmp_path, port))
        async with client:
            assert (await read(client)).metadata.name == "h"
    async with client, api_server(new, port) as (_, came):
        new.cert_pem.write_to_path(tmp_path / "ca.crt")

        assert (await use(client)).metadata.name == "h"

        assert came == [method]


async def test_a_server_of_another_authority_is_rejected(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    async with (
        api_server(trustme.CA()) as (port, came),
        await Client.connect(kubeconfig=kubeconfig(tmp_path, port)) as client,
    ):
        with pytest.raises(ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
            await read(client)

        assert came == []
