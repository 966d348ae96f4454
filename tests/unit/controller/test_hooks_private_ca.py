"""A webhook with a private certificate authority, mounted as the chart's README says."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from localcluster.ports import free_port

# In its own process, like the operator: authorities are read when aiohttp is imported.
OPERATOR = """
import asyncio, sys
from processhub.api.hooks import Webhook
from processhub.controller.hooks.hubevent import CloudEventText
from processhub.controller.hooks.webhook import HookError, new_session, post

async def main(url):
    async with new_session() as session:
        try:
            print((await post(session, Webhook(url=url), CloudEventText("1", {}, b"{}"))).decode())
        except HookError as error:
            print(error)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[str]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="taken")

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def called(url: str, **environ: str) -> str:
    """Return what the operator's process reports of its call."""
    command = (sys.executable, "-c", OPERATOR, url)
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environ}, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return said.decode().strip()


async def test_a_hook_is_verified_with_the_mounted_authority(receiver: str, tmp_path: Path) -> None:
    address = receiver.removeprefix("https://").rstrip("/")
    refused = f"can't be reached: the certificate of {address} is not accepted: "
    assert (await called(receiver)).startswith(f"{refused}[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")

    assert await called(receiver, SSL_CERT_FILE=str(tmp_path / "ca.crt")) == "taken"


async def test_a_receiver_that_does_not_listen_is_named_in_plain_words() -> None:
    port = free_port()

    assert await called(f"http://127.0.0.1:{port}/") == (
        f"can't be reached: no connection to 127.0.0.1:{port}: Connection refused"
    )
