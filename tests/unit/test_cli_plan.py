"""``kubectl hub plan`` on files: no cluster, the operator's own planner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from processhub.api.hub import Hub
from processhub.api.meta import ObjectMeta
from processhub.cli.main import main
from processhub.cli.outlook import new_names

SLEEP = {"command": ["sleep"]}


def files(folder: Path, objects: list[dict[str, Any]], **spec: Any) -> str:
    hub = {"apiVersion": "processhub.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "my-hub"}, "spec": spec}
    manifests = [
        {
            "apiVersion": "processhub.dev/v1alpha1",
            "kind": "Child",
            "metadata": {"name": f"child-{index}"},
            "spec": {"hub": "my-hub", "exec": SLEEP, **child},
        }
        for index, child in enumerate(objects)
    ]
    path = folder / "all.yaml"
    path.write_text(yaml.safe_dump_all([hub, *manifests]))
    return str(path)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main(["plan", *arguments, "-o", "json"]) == code
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_new_hub_places_every_child_once_within_the_cap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files(tmp_path, [{} for _ in range(300)], children=[{"id": "static", "exec": SLEEP}])

    found = planned(capsys, "-f", path)

    assert len({entry["id"] for entry in found["placed"]}) == 301
    assert not found["moves"]
    assert sum(member["after"] for member in found["members"].values()) == 301
    assert max(member["after"] for member in found["members"].values()) <= -(-301 * 125 // 300)


def test_join_moves_only_onto_the_joiner_and_about_its_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{} for _ in range(400)])

    found = planned(capsys, "-f", path, "--add", "1")

    assert {move["to"] for move in found["moves"]} == {"my-hub-3"}
    assert 60 <= len(found["moves"]) <= 140
    assert found["members"]["my-hub-3"] == {"before": 0, "after": len(found["moves"])}


def test_removal_empties_the_member_and_names_whom_it_strands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(
        tmp_path,
        [{"nodes": [f"my-hub-{index % 3}"]} for index in range(9)],
        distribution={"strategy": "Guided"},
    )

    found = planned(capsys, "-f", path, "--remove", "my-hub-1")

    assert not found["moves"]
    assert found["stranded"] == {"my-hub-1": ["child-1", "child-4", "child-7"]}


def test_every_child_of_a_removed_member_moves_to_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{} for _ in range(100)])

    found = planned(capsys, "-f", path, "--remove", "my-hub-1")

    assert {move["from"] for move in found["moves"]} == {"my-hub-1"}
    assert found["members"]["my-hub-1"]["after"] == 0
    assert len(found["moves"]) == found["members"]["my-hub-1"]["before"]


def test_child_that_would_be_refused_is_named_and_the_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{"nodes": ["my-hub-0"]}, {}])

    assert main(["plan", "-f", path]) == 1

    said = capsys.readouterr()
    assert "child child-0 would be refused: InvalidChildMapping" in said.err
    assert "1 are placed; nothing was changed" in said.out


def test_guided_child_without_nodes_fails_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files(tmp_path, [{}], distribution={"strategy": "Guided"})

    assert main(["plan", "-f", path]) == 1

    assert "these children have no nodes: child-0" in capsys.readouterr().err


def test_capacity_leaves_the_rest_unplaced_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files(tmp_path, [{} for _ in range(7)], members={"replicas": 2, "maxChildren": 3})

    found = planned(capsys, "-f", path)

    assert [entry["reason"] for entry in found["unplaced"]] == ["CapacityExceeded"]
    assert len(found["placed"]) == 6


def test_next_members_get_the_next_free_names() -> None:
    hub = Hub(metadata=ObjectMeta(name="my-hub"))

    assert new_names(hub, {"my-hub-0", "my-hub-1"}, 2) == ["my-hub-2", "my-hub-3"]
    assert new_names(hub, {"my-hub-1"}, 2) == ["my-hub-0", "my-hub-2"]
