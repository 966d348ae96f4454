"""Unreachable members are named, however the client tried to reach them."""

from __future__ import annotations

from pathlib import Path

import pytest

from processhub.api.hub import Hub, HubSpec, HubStatus, MemberStatus, Timeouts
from processhub.api.meta import ObjectMeta
from processhub.cli.target import unreachable_member
from processhub.client.errors import NoOwner, NotAllowed
from processhub.client.requests import Requests
from processhub.client.session import Session
from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.cluster.errors import ConnectionFailedError, InvalidError

NOBODY = "127.0.0.1:1"  # where nothing listens


def session(client: Client) -> Session:
    member = MemberStatus(name="shop-1", pod="shop-x", pod_ip="127.66.0.9", node="node-2", ready=True)
    hub = Hub(
        metadata=ObjectMeta(name="shop", namespace="ns"),
        spec=HubSpec(timeouts=Timeouts(request_seconds=1)),
        status=HubStatus(members=(member,)),
    )
    return Session(client, "ns", hub)


async def no_token() -> None:
    return None


async def test_a_request_that_reaches_no_member_names_each_that_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HUB_URL", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    async with Client(Config(f"http://{NOBODY}", "ns", ssl=False, token=no_token)) as client:
        requests = Requests(session(client))
        with pytest.raises(NoOwner) as raised:
            await requests.call("a", {}, None, "")
        await requests.close()

    said = str(raised.value)
    assert said.startswith("no member of hub shop could be reached: member shop-1 by a port-forward to its pod: ")
    assert said.endswith(f"no connection to {NOBODY}: Connection refused")


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), (b"\xff\xfe", "it is no text"), (b"two\nlines", "it has several lines")],
    ids=["missing", "bytes", "lines"],
)
async def test_a_token_file_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    monkeypatch.setenv("HUB_TOKEN_FILE", str(tmp_path / "token"))
    host, _, port = NOBODY.partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    async with Client(Config(f"http://{NOBODY}", "ns", ssl=False, token=no_token)) as client:
        requests = Requests(session(client))
        with pytest.raises(NotAllowed, match=why):
            await requests.call("a", {}, None, "")
        await requests.close()


def test_a_kubelet_that_does_not_answer_is_named_by_member_and_node() -> None:
    with_member = session(Client(Config("", "ns", ssl=False, token=no_token)))

    lost = unreachable_member(with_member, "shop-1", "the log can't be read", ConnectionFailedError("no answer"))
    refused = unreachable_member(with_member, "shop-1", "the log can't be read", InvalidError(400, "", "no container"))

    assert lost.sentence == "the log can't be read: member shop-1 on node node-2 can't be reached: no answer"
    assert refused.sentence == "the log can't be read: no container"
