"""The counterparts of ProcessHub's errors: raised for a call, in the result for a child, on the Child for kubectl."""

from __future__ import annotations

from pathlib import Path

import pytest
from hookworld import condition, edit
from livehub import WAIT, Live, sleepers, started
from sharedhubs import NEVER_UP, without_quorum

from processhub import Hub
from processhub.client.errors import (
    ChildMappingMismatch,
    HubNotFound,
    MissingChildMapping,
    NoChildren,
    Partitioned,
    Timeout,
    Unreachable,
)


@pytest.mark.row("Errors: no_children")
async def test_a_call_without_children_is_an_error(plain: Hub) -> None:
    with pytest.raises(NoChildren):
        await plain.start_children([])


@pytest.mark.row("Errors: already_started")
async def test_an_id_that_exists_is_an_error(product: Live, plain: Hub) -> None:
    await started(plain, sleepers("twice"))

    again = await plain.start_children(sleepers("twice"))
    await product.child("twice-again", "plain", id="twice")

    assert again.errors["twice"].reason == "AlreadyStarted"
    await condition(product, "twice-again", "Accepted", "AlreadyStarted")


@pytest.mark.row("Errors: not_found")
async def test_a_hub_that_does_not_exist_is_an_error(product: Live) -> None:
    with pytest.raises(HubNotFound, match="there are: "):
        async with product.connect("nowhere"):
            pytest.fail("connected")


@pytest.mark.row("Errors: no_response")
async def test_a_server_or_child_that_does_not_answer_is_an_error(product: Live, tight: Hub, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        '{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}],'
        ' "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}]}'
    )
    with pytest.raises(Unreachable):
        async with Hub.connect("plain", kubeconfig=str(config)):
            pytest.fail("connected")

    await edit(product, "tight", timeouts={"startSeconds": 1})
    result = await tight.start_children([{"id": "silent", "python": NEVER_UP}], wait=True, timeout=WAIT)
    await edit(product, "tight", timeouts={"startSeconds": 10})

    assert result.errors["silent"].reason == "StartTimeout"
    await tight.stop_children(["silent"], wait=True)


@pytest.mark.row("Errors: partitioned")
async def test_a_hub_without_a_quorum_starts_nothing(product: Live, quorum: Hub) -> None:
    async with without_quorum(product, quorum):
        with pytest.raises(Partitioned):
            await quorum.start_children(sleepers("refused"))
        await product.child("waits", "quorum")
        await condition(product, "waits", "Placed", "Partitioned")

    assert (await quorum.wait_children(["waits"], timeout=WAIT)).ok
    assert quorum.child_lookup("refused") is None


@pytest.mark.row("Errors: missing_child_mapping")
async def test_a_guided_child_without_members_is_rejected(product: Live, guided: Hub) -> None:
    with pytest.raises(MissingChildMapping):
        await guided.start_children(sleepers("unmapped"))

    await product.child("unmapped", "guided")
    await condition(product, "unmapped", "Accepted", "MissingChildMapping")


@pytest.mark.row("Errors: invalid_child_mapping")
async def test_unknown_members_and_members_of_an_unguided_hub_are_rejected(plain: Hub, guided: Hub) -> None:
    nobody = await guided.start_children(
        sleepers("nobody"), wait=True, timeout=WAIT, child_mapping={"nobody": ["guided-9"]}
    )
    unasked = await plain.start_children(sleepers("unasked"), child_mapping={"unasked": ["plain-0"]})

    assert nobody.errors["nobody"].reason == unasked.errors["unasked"].reason == "InvalidChildMapping"
    await guided.stop_children(["nobody"])


@pytest.mark.row("Errors: child_mapping_mismatch")
async def test_members_for_an_id_that_is_not_started_are_an_error(guided: Hub) -> None:
    with pytest.raises(ChildMappingMismatch) as raised:
        await guided.start_children(sleepers("here", nodes=["guided-0"]), child_mapping={"elsewhere": ["guided-1"]})

    assert raised.value.ids == ("elsewhere",)
    assert guided.child_lookup("here") is None


@pytest.mark.row("Errors: child_replication_mismatch")
async def test_more_members_than_copies_are_rejected(product: Live, guided: Hub) -> None:
    both = ["guided-0", "guided-1"]

    result = await guided.start_children(sleepers("spread"), child_mapping={"spread": both})
    await product.child("spread", "guided", nodes=both)

    assert result.errors["spread"].reason == "ChildReplicationMismatch"
    await condition(product, "spread", "Accepted", "ChildReplicationMismatch")


@pytest.mark.row("Errors: timeout")
async def test_a_wait_that_takes_too_long_is_a_timeout_error(plain: Hub) -> None:
    await plain.start_children([{"id": "slow", "python": NEVER_UP}])

    with pytest.raises(Timeout) as raised:
        await plain.wait_children(["slow"], timeout=1)

    assert raised.value.pending == ("slow",)
    await plain.stop_children(["slow"])
