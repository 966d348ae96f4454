"""Moves by hand through the client: the request that it writes, and what it takes for the result."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

from builders import client_of, make_child
from processhub.api.child import ChildSpec
from processhub.api.hub import Hub
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_MOVE_REFUSED, ANNOTATION_NODES
from processhub.api.reasons import Role
from processhub.client import moves
from processhub.client.errors import HubError
from processhub.client.orders import OnChild, Outcome
from processhub.client.session import Session
from processhub.cluster.kinds import CHILDREN

_OLD = "hub-9: the hub has no member 'hub-9'"


class Order:
    """Requests for child ``a``, which moves at once; an earlier request was rejected."""

    id = "a"

    def __init__(self, *nodes: str, on: tuple[str, ...] = (), refuses: str = "") -> None:
        self.spec, self.nodes = ChildSpec(hub="hub", nodes=nodes), nodes
        self.mapped: tuple[str, ...] | None = None
        self.given: str | None = None
        self.refused = _OLD
        self._refuses = refuses
        self.records: dict[str, Any] = {}
        self._be_on(*on)

    async def map_to(self, nodes: tuple[str, ...]) -> None:
        self.mapped = nodes
        self._be_on(*nodes)

    async def give(self, member: str) -> None:
        self.given, self.refused = member, self._refuses
        if not self._refuses:
            self._be_on(member)

    async def outcome(self) -> Outcome:
        return Outcome(stands=False, refused=self.refused)

    def _be_on(self, *names: str) -> None:
        nodes = [
            SimpleNamespace(name=name, waiting=False, role=Role.PASSIVE if number else Role.ACTIVE)
            for number, name in enumerate(names)
        ]
        if nodes:
            self.records["a"] = SimpleNamespace(nodes=tuple(nodes), running=True, locked=False)


async def move(order: Order, distribution: str, **redundancy: Any) -> None:
    hub = msgspec.convert(
        {
            "metadata": {"name": "hub", "namespace": "ns", "uid": "u"},
            "spec": {"distribution": {"strategy": distribution}, "redundancy": redundancy},
            "status": {"members": [{"name": f"hub-{number}", "ready": True} for number in range(4)]},
        },
        Hub,
    )
    registry = SimpleNamespace(records=order.records, listen=lambda _: lambda: None)
    session = SimpleNamespace(living_hub=lambda: hub, registry=registry, name="hub")
    await moves.move_child(cast(Any, session), "a", "hub-1", wait=True, timeout=0.1)


@pytest.fixture
def order_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(order: Order) -> Order:
        async def found(*_: Any) -> Order:
            return order

        monkeypatch.setattr(moves, "_order_of", found)
        return order

    return use


@pytest.mark.parametrize("nodes", [(), ("hub-0",), ("hub-0", "hub-2"), ("hub-0", "hub-1")])
async def test_a_single_copy_is_mapped_to_the_member(order_of: Any, nodes: tuple[str, ...]) -> None:
    order = order_of(Order(*nodes, on=("hub-0",)))

    await move(order, "Guided")

    assert (order.mapped, order.given) == (("hub-1",), None)


@pytest.mark.parametrize(
    ("nodes", "on", "mapped"),
    [
        (("hub-0", "hub-2"), ("hub-2", "hub-0"), ("hub-1", "hub-0")),
        (("hub-0", "hub-2"), (), ("hub-1", "hub-0")),
        ((), ("hub-0", "hub-2"), ("hub-1", "hub-2")),
        ((), ("hub-0", "hub-1"), ("hub-1", "hub-0")),
        ((), (), ("hub-1",)),
    ],
)
async def test_of_several_copies_the_active_one_is_mapped_again(
    order_of: Any, nodes: tuple[str, ...], on: tuple[str, ...], mapped: tuple[str, ...]
) -> None:
    order = order_of(Order(*nodes, on=on))

    await move(order, "Guided", strategy="Replication", replicationFactor=2)

    assert order.mapped == mapped


async def test_the_result_of_an_earlier_request_does_not_count_without_a_request(order_of: Any) -> None:
    order = order_of(Order(on=("hub-1",)))

    await move(order, "ConsistentHashing")

    assert (order.given, order.refused) == (None, _OLD)


async def test_the_result_of_an_earlier_request_does_not_count_for_a_mapping(order_of: Any) -> None:
    order = order_of(Order("hub-0", on=("hub-0",)))

    await move(order, "Guided")

    assert (order.mapped, order.refused) == (("hub-1",), _OLD)


async def test_the_rejection_of_the_request_is_its_result(order_of: Any) -> None:
    order = order_of(Order(on=("hub-0",), refuses="hub-1: it is full"))

    with pytest.raises(HubError, match="child 'a' is not moved to hub-1: it is full"):
        await move(order, "ConsistentHashing")


async def test_a_mapping_removes_an_earlier_rejection() -> None:
    sent: list[Any] = []

    async def patch(*request: Any) -> None:
        sent.append(request)

    child = make_child(uid="u1", spec={"nodes": ["hub-0"]})
    await OnChild(cast(Any, SimpleNamespace(client=SimpleNamespace(patch=patch))), child).map_to(("hub-1",))

    moved = '{"nodes":["hub-1"],"insteadOf":["hub-0"]}'
    metadata = {"uid": "u1", "annotations": {ANNOTATION_NODES: moved, ANNOTATION_MOVE_REFUSED: None}}
    assert sent == [(CHILDREN, "ns", "a", {"metadata": metadata})]


async def test_a_connection_that_breaks_while_a_move_is_awaited_does_not_fail_it() -> None:
    child, broken = make_child("a"), [1, 2]

    async def answer(request: web.Request) -> web.Response:
        if broken:
            broken.pop()
            assert request.transport is not None
            request.transport.abort()
        return web.Response(body=msgspec.json.encode(child), content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with client_of(app) as client:
        session = Session(client, "ns", Hub(metadata=ObjectMeta(name="hub", namespace="ns")))

        assert await OnChild(session, child).outcome() == Outcome(stands=False)
    assert not broken
