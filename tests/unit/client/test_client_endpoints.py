"""The endpoints at which a client looks for members."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from processhub.api.hub import MemberStatus
from processhub.client import endpoints
from processhub.client.endpoints import MemberEndpoints

ELSEWHERE = "203.0.113.7"  # reserved for documentation (RFC 5737): never an address of this machine


class Forward:
    """A port-forward that can't be opened."""

    def __init__(self, *_: Any) -> None:
        pass

    async def open(self) -> str:
        raise TimeoutError

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("address", "in_a_pod", "bases"),
    [
        (ELSEWHERE, False, []),
        (ELSEWHERE, True, ["http://h.n.svc:8080", f"http://{ELSEWHERE}:9090"]),
        ("127.3.4.5", False, ["http://127.3.4.5:9090"]),
        ("::1", False, ["http://[::1]:9090"]),
    ],
)
async def test_a_pods_address_is_used_only_where_it_belongs_to_that_pod(
    monkeypatch: pytest.MonkeyPatch, address: str, in_a_pod: bool, bases: list[str]
) -> None:
    """Outside the cluster another host may have the address, and would get the client's token."""

    async def answers(*_: Any) -> bool:
        return True  # whoever it is

    monkeypatch.setattr(endpoints, "_answers", answers)
    monkeypatch.setattr(endpoints, "PortForward", Forward)
    monkeypatch.delenv("HUB_URL", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if in_a_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    member = MemberStatus(name="h-0", pod="h-0", pod_ip=address, port=9090, ready=True)
    session: Any = SimpleNamespace(
        name="h",
        namespace="n",
        client=None,
        living_hub=lambda: SimpleNamespace(status=SimpleNamespace(members=(member,))),
    )

    assert [base async for base in MemberEndpoints(session).bases()] == bases
