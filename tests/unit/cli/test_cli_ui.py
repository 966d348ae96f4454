"""``kubectl hub ui``: the page has what the registry has now."""

from __future__ import annotations

from pathlib import Path

import pytest
from clihub import HUB, started, with_cluster
from onethread import Cluster

from processhub.cli import ui
from processhub.cli.scope import opened_scope


def test_the_page_shows_hubs_and_the_children_that_the_filter_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(cluster: Cluster) -> None:
        await started("eu/1", "us/1")
        async with opened_scope(HUB, everywhere=False) as scope:
            (hub,) = ui.shown(scope, "")
            assert (hub["hub"], hub["registrySize"], len(hub["members"])) == ("hub", 2, 3)
            found = [(child["id"], child["nodes"][0]["state"]) for child in hub["registry"]]
            assert found == [("eu/1", "Running"), ("us/1", "Running")]
            assert [child["id"] for child in ui.shown(scope, "eu")[0]["registry"]] == ["eu/1"]
            assert ui.shown(scope, "nobody")[0]["registry"] == []

    with_cluster(tmp_path, monkeypatch, run)
