"""Kubeconfigs read without the official loader, and the messages for bad ones."""

from __future__ import annotations

import ast
import asyncio
import base64
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from processhub.client.errors import Unreachable
from processhub.client.hub import Hub
from processhub.cluster import kubeconfig
from processhub.cluster.client import Client
from processhub.cluster.config import Config, ConfigError, Impersonation, Overrides
from processhub.cluster.errors import ApiError, ConnectionFailedError, ForbiddenError
from processhub.cluster.kinds import HUBS
from processhub.cluster.kubeconfig import read_config


def written(
    folder: Path, *, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **top: Any
) -> str:
    path = folder / "config"
    content = {
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "prod"}},
            {"name": "two", "context": {"cluster": "c", "user": "u"}},
            {"name": "astray", "context": {"cluster": "nowhere", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1/", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
        **top,
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


async def test_the_current_context_has_server_namespace_and_token(tmp_path: Path) -> None:
    config = await read_config(None, written(tmp_path))

    assert (config.host, config.namespace, config.ssl) == ("http://127.0.0.1:1", "prod", False)
    assert await config.token() == "Bearer secret"


async def test_a_context_can_be_named_and_has_a_default_namespace(tmp_path: Path) -> None:
    config = await read_config("two", written(tmp_path))

    assert config.namespace == "default"


async def test_a_token_file_is_read_for_each_request(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    config = await read_config(None, written(tmp_path, user={"tokenFile": "token"}))
    assert await config.token() == "Bearer first"

    (tmp_path / "token").write_text("second\n")
    assert await config.token() == "Bearer second"


async def test_the_server_of_an_insecure_cluster_is_not_verified(tmp_path: Path) -> None:
    config = await read_config(
        None, written(tmp_path, cluster={"server": "https://h", "insecure-skip-tls-verify": True})
    )

    assert isinstance(config.ssl, ssl.SSLContext)
    assert config.ssl.verify_mode is ssl.CERT_NONE


async def test_auth_providers_are_left_to_the_official_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def official(path: str, context: str | None) -> Config:
        asked.append((path, context))
        return Config("http://h", "", False, kubeconfig._constant_token(""))

    monkeypatch.setattr(kubeconfig, "load_officially", official)
    path = written(tmp_path, user={"auth-provider": {"name": "oidc"}})

    assert (await read_config(None, path)).namespace == "prod"
    await read_config("two", f"{path}:{path}")
    assert asked == [(path, None), (f"{path}:{path}", "two")]
    with pytest.raises(ConfigError, match=r"its user has an auth-provider, .* leave out --server"):
        await read_config(None, path, Overrides(server="http://other"))


async def test_several_files_are_merged_and_the_first_of_a_name_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (second / "token").write_text("secret of second")
    one = written(first, contexts=[], clusters=[{"name": "c", "cluster": {"server": "http://first"}}], users=[])
    two = written(second, user={"tokenFile": "token"}, **{"current-context": "two"})

    config = await read_config(None, f"{one}:{two}:{tmp_path / 'none'}")

    assert (config.host, config.namespace) == ("http://first", "prod")
    assert await config.token() == "Bearer secret of second"


async def test_options_override_the_fields_of_the_kubeconfig(tmp_path: Path) -> None:
    given = Overrides(server="http://other", token="given", tls_server_name="n", request_timeout=3, user="v")
    users = [{"name": "u", "user": {"token": "secret"}}, {"name": "v", "user": {"token": "of v"}}]
    path = written(tmp_path, users=users)

    config = await read_config(None, path, given)
    assert (config.host, config.namespace, config.server_hostname) == ("http://other", "prod", "n")
    assert (await config.token(), config.request_timeout) == ("Bearer given", 3)
    assert await (await read_config(None, path, Overrides(user="v"))).token() == "Bearer of v"
    with pytest.raises(ConfigError, match="has no cluster 'd'; it has c"):
        await read_config(None, path, Overrides(cluster="d"))
    with pytest.raises(ConfigError, match="has no user 'w'; it has u, v"):
        await read_config(None, path, Overrides(user="w"))


async def test_a_server_option_needs_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service_account(tmp_path, monkeypatch, authority="")

    config = await read_config(None, None, Overrides(server="https://h", token="t", insecure_skip_tls_verify=True))

    assert (config.host, config.namespace, await config.token()) == ("https://h", "default", "Bearer t")
    assert isinstance(config.ssl, ssl.SSLContext)
    assert config.ssl.verify_mode is ssl.CERT_NONE


BAD: list[tuple[str, str | None, dict[str, Any], str]] = [
    ("unknown context", "three", {}, "has no context 'three'; it has astray, one, two"),
    ("context without its cluster", "astray", {}, "has no cluster 'nowhere'; it has c"),
    ("no current context", None, {"current-context": ""}, "has no current-context; name one with --context"),
    ("missing user", None, {"users": []}, "has no user 'u'; it has none"),
    (
        "certificate that is no base64",
        None,
        {"user": {"client-certificate-data": "%%", "client-key-data": "%%"}, "cluster": {"server": "https://h"}},
        "credentials can't be read",
    ),
    ("cluster without a server", None, {"cluster": {"server": ""}}, "cluster c has no server; write its URL"),
    ("missing token file", None, {"user": {"tokenFile": "nowhere"}}, "credentials can't be read"),
]


@pytest.mark.parametrize(("context", "content", "sentence"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_a_bad_kubeconfig_is_reported_in_a_sentence(
    tmp_path: Path, context: str | None, content: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        await read_config(context, written(tmp_path, **content))

    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "can't be read"),
        ("a: 2026-13-01", "can't be read"),
        ("- a", "is not a kubeconfig"),
        ("", "is not a kubeconfig"),
        ("contexts: true", "contexts must be a list, not a bool"),
    ],
)
async def test_a_file_that_is_no_kubeconfig_is_rejected(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)

    with pytest.raises(ConfigError, match=sentence):
        await read_config(None, str(path))


@pytest.mark.parametrize("content", [b"two\nlines", b"\xff\xfe"])
async def test_a_token_that_is_no_line_of_text_is_an_error_that_callers_know(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(b"good")
    async with await Client.connect(kubeconfig=written(tmp_path, user={"tokenFile": "token"})) as client:
        (tmp_path / "token").write_bytes(content)

        with pytest.raises(ForbiddenError, match="the token"):
            await client.get(HUBS, "prod", "n")


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere not found"):
        await read_config(None, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("named", "why"),
    [("k" * 300, "File name too long"), ("~no-such-user/config", "Could not determine home directory")],
    ids=["no name of a file", "a home that is not there"],
)
async def test_a_kubeconfig_that_cannot_be_looked_at_is_named(
    monkeypatch: pytest.MonkeyPatch, named: str, why: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", named)

    with pytest.raises(ConfigError, match=rf"kubeconfig .* can't be read: {why}"):
        await read_config()


async def test_a_home_that_may_not_be_looked_into_has_no_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOME of an image may be one of another user."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(kubeconfig, "DEFAULT_KUBECONFIG", tmp_path / ("x" * 300) / "config")

    with pytest.raises(ConfigError, match="no cluster to talk to"):
        await read_config()


def service_account(folder: Path, monkeypatch: pytest.MonkeyPatch, authority: str) -> None:
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", folder)
    monkeypatch.setattr(kubeconfig, "DEFAULT_KUBECONFIG", folder / "none")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for name, text in {"ca.crt": authority, "namespace": "prod\n", "token": "first\n"}.items():
        (folder / name).write_text(text)


async def test_a_pod_connects_with_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service_account(tmp_path, monkeypatch, authority="")
    config = await read_config()

    assert (config.host, config.namespace) == ("https://[fd00::1]:443", "prod")
    assert await config.token() == "Bearer first"

    (tmp_path / "token").write_text("second\n")
    assert await config.token() == "Bearer second"


async def test_a_program_of_ours_takes_its_service_account_before_the_kubeconfig_of_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (account := tmp_path / "account").mkdir()
    service_account(account, monkeypatch, authority="")
    monkeypatch.setattr(kubeconfig, "DEFAULT_KUBECONFIG", Path(written(tmp_path)))

    assert (await read_config(pod_first=True)).host == "https://[fd00::1]:443"
    assert (await read_config()).host == (await read_config(None, written(tmp_path))).host, "as kubectl does"
    monkeypatch.setenv("KUBECONFIG", written(tmp_path))
    assert (await read_config(pod_first=True)).host == (await read_config()).host, "it is no pod of ours"
    monkeypatch.setenv("HUB_NAMESPACE", "other")
    assert (await read_config(pod_first=True)).host == (await read_config()).host


@pytest.mark.parametrize("variable", ["HUB_NAMESPACE", "POD_NAMESPACE"])
async def test_the_kubeconfig_of_children_is_not_that_of_their_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (account := tmp_path / "account").mkdir()
    service_account(account, monkeypatch, authority="")
    monkeypatch.setenv(variable, "prod")

    for named in (written(tmp_path), str(tmp_path / "not in this image")):
        monkeypatch.setenv("KUBECONFIG", named)
        assert (await read_config(pod_first=True)).host == "https://[fd00::1]:443"


async def test_a_client_in_a_child_is_of_the_cluster_that_the_child_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (account := tmp_path / "account").mkdir()
    service_account(account, monkeypatch, authority="")
    other = written(tmp_path)
    for name, value in {"KUBECONFIG": other, "HUB_NAMESPACE": "prod", "HUB_MEMBER": "hub-0"}.items():
        monkeypatch.setenv(name, value)
    asked: list[str] = []

    async def get(self: Client, *_: object) -> None:
        asked.append(self.config.host)
        raise ConnectionFailedError("no")

    monkeypatch.setattr(Client, "get", get)
    for hub in (Hub.connect("hub"), Hub.connect("hub", kubeconfig=other)):
        with pytest.raises(Unreachable):
            await hub.__aenter__()
    monkeypatch.delenv("HUB_MEMBER")
    with pytest.raises(Unreachable):
        await Hub.connect("hub").__aenter__()

    assert asked == ["https://[fd00::1]:443", *[(await read_config(None, other)).host] * 2]


def test_each_connection_of_our_programs_is_made_by_that_rule() -> None:
    """The Lease of a member and of the leader have connections of their own, on threads of their own."""
    folder = Path(kubeconfig.__file__).parent.parent
    paths = [path for part in ("agent", "controller") for path in sorted((folder / part).rglob("*.py"))]
    found = [
        f"{path.relative_to(folder)}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "Client.connect"
    ]

    assert len(paths) > 100
    assert found == [], "a kubeconfig of the image comes first there"


async def test_a_pods_broken_service_account_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service_account(tmp_path, monkeypatch, authority="nonsense")

    with pytest.raises(ConfigError, match="the pod's service account can't be read"):
        await read_config()


async def test_the_error_without_a_kubeconfig_outside_a_pod_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service_account(tmp_path, monkeypatch, authority="")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")

    with pytest.raises(ConfigError, match="this is no pod; set KUBECONFIG or --kubeconfig"):
        await read_config()


AS = {
    "as": "viewer",
    "as-uid": "u-1",
    "as-groups": ["team-a", "team-b"],
    "as-user-extra": {"scopes.example/of": ["read", "list"]},
}


async def test_every_request_has_the_user_to_impersonate(tmp_path: Path) -> None:
    config = await read_config(None, written(tmp_path, user={"token": "secret", **AS}))

    assert list((await config.headers()).items()) == [
        ("Impersonate-User", "viewer"),
        ("Impersonate-Group", "team-a"),
        ("Impersonate-Group", "team-b"),
        ("Impersonate-Uid", "u-1"),
        ("Impersonate-Extra-scopes.example/of", "read"),
        ("Impersonate-Extra-scopes.example/of", "list"),
        ("Authorization", "Bearer secret"),
    ]


async def test_an_impersonation_option_replaces_the_user_of_the_kubeconfig(tmp_path: Path) -> None:
    given = Overrides(impersonation=Impersonation("root", ("ops",)))
    config = await read_config(None, written(tmp_path, user={"token": "secret", **AS}), given)

    assert (await config.headers()).getall("Impersonate-User") == ["root"]
    assert (await config.headers()).getall("Impersonate-Group") == ["ops"]


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        ({"as-groups": ["a"]}, "need as, the user to impersonate"),
        ({"as": "x", "as-groups": "a"}, "as-groups must be a list"),
        ({"as": "x", "as-user-extra": ["a"]}, "as-user-extra a mapping"),
    ],
)
async def test_wrong_fields_of_impersonation_are_named(tmp_path: Path, user: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        await read_config(None, written(tmp_path, user=user))


async def test_the_official_loader_keeps_the_impersonated_user_too(tmp_path: Path) -> None:
    path = written(tmp_path, user={"token": "secret", **AS}, cluster={"proxy-url": "http://proxy:3128"})

    config = await kubeconfig.load_officially(f"{path}:{path}", None)

    assert config.impersonation == Impersonation(
        "viewer", ("team-a", "team-b"), "u-1", (("scopes.example/of", ("read", "list")),)
    )
    assert config.proxy == "http://proxy:3128"


@pytest.mark.parametrize(
    ("server", "given", "environment", "proxy"),
    [
        ("https://h:6443", "http://own:1", {"HTTPS_PROXY": "http://other:2"}, "http://own:1"),
        ("https://h:6443", "", {"HTTPS_PROXY": "http://other:2"}, "http://other:2"),
        ("https://h:6443", "", {"HTTPS_PROXY": "other:2"}, "http://other:2"),
        ("https://h:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "g,h"}, None),
        ("https://h:6443", "", {"HTTP_PROXY": "http://other:2"}, None),
        ("http://h:8080", "", {"HTTP_PROXY": "http://other:2"}, "http://other:2"),
        ("https://h:6443", "", {}, None),
        # As with kubectl, a cluster on this machine (kind) needs no NO_PROXY, and NO_PROXY may have networks.
        ("https://127.0.0.1:6443", "", {"HTTPS_PROXY": "http://other:2"}, None),
        ("https://[::1]:6443", "", {"HTTPS_PROXY": "http://other:2"}, None),
        ("https://localhost:6443", "", {"HTTPS_PROXY": "http://other:2"}, None),
        ("https://127.0.0.1:6443", "http://own:1", {}, "http://own:1"),
        ("https://10.1.2.3:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "x, 10.0.0.0/8"}, None),
        (
            "https://11.1.2.3:6443",
            "",
            {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "10.0.0.0/8,y/z"},
            "http://other:2",
        ),
        ("https://h.corp:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "*.corp"}, None),
        # An entry may name a port, and an address may be written in several ways.
        ("https://h.corp:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "x,H.corp:6443"}, None),
        ("https://h.corp:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "h.corp:443"}, "http://other:2"),
        ("https://h.corp", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": ".corp:443"}, None),
        ("https://[fd00::1]:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "fd00:0::1"}, None),
        ("https://[fd00::1]:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "[fd00::1]:6443"}, None),
        ("https://ah.corp:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "h.corp"}, "http://other:2"),
        ("https://a.h.corp:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "h.corp"}, None),
        ("https://h.corp:6443", "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "x,*"}, None),
    ],
)
async def test_the_proxy_is_taken_from_the_cluster_or_else_from_the_environment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    given: str,
    environment: dict[str, str],
    proxy: str | None,
) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    config = await read_config(None, written(tmp_path, cluster={"server": server, "proxy-url": given}))

    assert config.proxy == proxy


@pytest.mark.parametrize("user", ["", "user:secret@"])
async def test_a_proxy_of_another_kind_is_rejected(tmp_path: Path, user: str) -> None:
    path = written(tmp_path, cluster={"proxy-url": f"socks5://{user}proxy:1080"})

    with pytest.raises(ConfigError, match=r"proxy-url socks5://proxy:1080 can't be used; it must be an http:// or"):
        await read_config(None, path)


async def test_requests_go_through_the_proxy(tmp_path: Path) -> None:
    """The server's name can't be resolved here: only the proxy can."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0])
        body = b'{"metadata": {"name": "n", "resourceVersion": "7"}}'
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        cluster = {"server": "http://api.invalid:8080", "proxy-url": f"http://127.0.0.1:{port}"}
        async with await Client.connect(kubeconfig=written(tmp_path, cluster=cluster)) as client:
            found = await client.get(HUBS, "prod", "n")

    assert found.metadata.resource_version == "7"
    assert asked == ["GET http://api.invalid:8080/apis/processhub.dev/v1alpha1/namespaces/prod/hubs/n HTTP/1.1"]


@pytest.mark.parametrize("server", ["https://api.invalid:6443", "http://api.invalid:8080"])
async def test_a_proxy_gets_its_user_and_password_which_no_error_shows(tmp_path: Path, server: str) -> None:
    asked: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.extend((await reader.readuntil(b"\r\n\r\n")).decode().splitlines())
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        cluster = {"server": server, "proxy-url": f"http://us%40er:p%3Aw@127.0.0.1:{port}"}
        async with await Client.connect(kubeconfig=written(tmp_path, cluster=cluster)) as client:
            with pytest.raises(ApiError, match="407") as raised:
                await client.get(HUBS, "prod", "n")

    assert f"Proxy-Authorization: Basic {base64.b64encode(b'us@er:p:w').decode()}" in asked
    assert "p%3Aw" not in str(raised.value)
    if server.startswith("https"):
        assert f"the proxy 127.0.0.1:{port} answered 407: Proxy Authentication Required" in str(raised.value)


def test_a_user_without_a_home_has_no_kubeconfig() -> None:
    """OpenShift runs pods as users that are not in /etc/passwd."""
    program = """
import os, pwd
del os.environ["HOME"]
pwd.getpwuid = lambda uid: {}[uid]
from processhub.cluster.kubeconfig import DEFAULT_KUBECONFIG
print(DEFAULT_KUBECONFIG)
"""

    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert answer.stdout == "/.kube/config\n"
