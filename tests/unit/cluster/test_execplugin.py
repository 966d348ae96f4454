"""Exec plug-ins of a kubeconfig: programs of the test, run as client-go runs them."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from processhub.cluster.client import Client
from processhub.cluster.config import Config, ConfigError
from processhub.cluster.errors import ForbiddenError
from processhub.cluster.kinds import HUBS
from processhub.cluster.kubeconfig import read_config

V1, BETA = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"
# Adds a line to the file "runs", and prints the file "answer".
PLUGIN = f"""#!{sys.executable}
import os, pathlib, sys
here = pathlib.Path(__file__).parent
with open(here / "runs", "a") as file:
    file.write(os.environ["KUBERNETES_EXEC_INFO"] + "\\n")
print("this is for the user", file=sys.stderr)
print((here / "answer").read_text().replace("ARGS", " ".join(sys.argv[1:])).replace("MINE", os.environ.get("MINE", "")))
sys.exit(int(os.environ.get("CODE", "0")))
"""


class Site:
    """A folder with a plug-in and a kubeconfig that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.plugin = folder / "bin" / "plugin"
        self.plugin.write_text(PLUGIN)
        self.plugin.chmod(0o755)

    def answers(self, version: str = V1, **status: str) -> None:
        """Let the plug-in return this status."""
        answer = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        (self.folder / "bin" / "answer").write_text(json.dumps(answer))

    @property
    def runs(self) -> list[Any]:
        """The input of the plug-in in each of its runs."""
        path = self.folder / "bin" / "runs"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def kubeconfig(
        self, *, server: str = "http://127.0.0.1:1", cluster: dict[str, Any] | None = None, **spec: Any
    ) -> str:
        """A kubeconfig whose user has this ``exec``."""
        plugin = {"apiVersion": V1, "command": "bin/plugin", "interactiveMode": "Never", **spec}
        path = self.folder / "config"
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
                    "users": [{"name": "u", "user": {"exec": plugin}}],
                }
            )
        )
        return str(path)

    async def config(self, **spec: Any) -> Config:
        return await read_config(None, self.kubeconfig(**spec))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def after(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("version", [V1, BETA])
async def test_a_plugins_token_is_kept_until_it_expires(site: Site, version: str) -> None:
    site.answers(version, token="MINE ARGS", expirationTimestamp=after(3600))
    config = await site.config(
        apiVersion=version, args=["get", "token"], env=[{"name": "MINE", "value": "own"}], provideClusterInfo=True
    )

    assert [await config.token() for _ in range(3)] == ["Bearer own get token"] * 3
    (given,) = site.runs
    assert given == {
        "apiVersion": version,
        "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": {"server": "http://127.0.0.1:1"}},
    }


async def test_a_plugin_runs_again_when_its_credential_has_expired(site: Site) -> None:
    site.answers(token="first", expirationTimestamp=after(-1))
    config = await site.config()
    site.answers(token="second", expirationTimestamp=after(3600))

    assert [await config.token() for _ in range(3)] == ["Bearer second"] * 3
    assert len(site.runs) == 2


async def test_a_plugin_runs_again_when_the_server_rejects_its_token(site: Site) -> None:
    site.answers(token="old")
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(next(line for line in head.splitlines() if line.startswith("Authorization")))
        good, body = "new" in asked[-1], b'{"metadata": {"name": "n"}}'
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (200 if good else 401, len(body))
        )
        writer.write(body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with await Client.connect(kubeconfig=site.kubeconfig(server=url)) as client:
            site.answers(token="new")
            await client.get(HUBS, "prod", "n")

    assert asked == ["Authorization: Bearer old", "Authorization: Bearer new"]


async def test_a_request_without_a_credential_fails_with_the_plugins_name(site: Site) -> None:
    site.answers(token="first", expirationTimestamp=after(-1))
    async with await Client.connect(kubeconfig=site.kubeconfig()) as client:
        site.answers()
        with pytest.raises(ForbiddenError, match="the exec plug-in bin/plugin gave neither a token nor a client cert"):
            await client.get(HUBS, "prod", "n")


async def test_a_plugins_certificate_is_used_for_tls(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(_: ssl.SSLContext, file: str) -> None:
        loaded.append(Path(file).read_text())

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    site.answers(clientCertificateData="cert 1", clientKeyData="key 1", expirationTimestamp=after(-1))
    config = await site.config(server="https://h")
    site.answers(clientCertificateData="cert 2", clientKeyData="key 2", expirationTimestamp=after(3600))

    assert await config.token() is None
    assert loaded == ["cert 1\nkey 1", "cert 2\nkey 2"]
    assert config.credentials.certificate == b"cert 1"


BAD: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("no command", {"command": ""}, {}, "users[].user.exec has no command; name the plug-in's program"),
    ("version", {"apiVersion": "client.authentication.k8s.io/v1alpha1"}, {}, f"v1alpha1; write {V1} or {BETA}"),
    (
        "no such program",
        {"command": "no-such", "installHint": "get it\nhere"},
        {},
        "can't be run: No such file or directory; get it here",
    ),
    ("exit code", {"env": [{"name": "CODE", "value": "3"}]}, {"token": "t"}, "bin/plugin ended with exit code 3"),
    ("other version", {"apiVersion": BETA}, {"token": "t"}, f"printed kind ExecCredential of {V1}; expected an"),
    ("nothing", {}, {}, "gave neither a token nor a client certificate"),
    ("no key", {}, {"clientCertificateData": "c"}, "gave a client certificate without its key"),
    ("no time", {}, {"token": "t", "expirationTimestamp": "soon"}, "expirationTimestamp that is no RFC 3339 time"),
    ("asks", {"interactiveMode": "Always"}, {"token": "t"}, "must ask you something (interactiveMode Always)"),
]


@pytest.mark.parametrize(("spec", "status", "sentence"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_a_failing_plugin_is_reported_in_a_sentence(
    site: Site, spec: dict[str, Any], status: dict[str, str], sentence: str
) -> None:
    site.answers(**status)

    with pytest.raises(ConfigError) as raised:
        await site.config(**spec)

    assert sentence in str(raised.value)


async def test_output_that_is_no_credential_is_named(site: Site) -> None:
    (site.folder / "bin" / "answer").write_text("hello")

    with pytest.raises(ConfigError, match="printed no ExecCredential"):
        await site.config()


@pytest.mark.parametrize("spec", [{"args": True}, {"env": "A=b"}, {"env": [None]}, {"env": [{"value": "b"}]}])
async def test_arguments_and_variables_of_another_form_are_named(site: Site, spec: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="args must be a list of texts, and env a list of name and value"):
        await site.config(**spec)
