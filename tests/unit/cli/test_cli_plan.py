"""``kubectl hub plan`` on files: no cluster, with the operator's own planner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import make_hub
from processhub.cli.main import main
from processhub.cli.whatif import new_names

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


def test_a_new_hub_places_every_child_once_within_the_cap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files(tmp_path, [{} for _ in range(300)], children=[{"id": "static", "exec": SLEEP}])

    found = planned(capsys, "-f", path)

    assert len({entry["id"] for entry in found["placed"]}) == 301
    assert not found["moves"]
    assert sum(member["after"] for member in found["members"].values()) == 301
    assert max(member["after"] for member in found["members"].values()) <= -(-301 * 125 // 300)


def test_every_copy_is_printed_and_counted_with_the_active_one_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"strategy": "Replication", "replicationModel": "ActivePassive"}
    path = files(tmp_path, [{"nodes": ["my-hub-2", "my-hub-0"]}], distribution={"strategy": "Guided"}, redundancy=spec)

    found = planned(capsys, "-f", path)

    assert found["placed"] == [{"id": "child-0", "member": "my-hub-2", "members": ["my-hub-2", "my-hub-0"]}]
    assert {name: member["after"] for name, member in found["members"].items()} == {
        "my-hub-0": 1,
        "my-hub-1": 0,
        "my-hub-2": 1,
    }
    assert main(["plan", "-f", path]) == 0
    assert "child-0   my-hub-2, my-hub-0" in capsys.readouterr().out


def with_set(folder: Path, *, children: list[dict[str, Any]] | None = None, **spec: Any) -> str:
    path = Path(files(folder, children or []))
    found = {
        "apiVersion": "processhub.dev/v1alpha1",
        "kind": "ChildSet",
        "metadata": {"name": "many"},
        "spec": {"hub": "my-hub", "template": {"exec": SLEEP}, **spec},
    }
    path.write_text(f"{path.read_text()}---\n{yaml.safe_dump(found)}")
    return str(path)


@pytest.mark.parametrize(
    ("spec", "ids"), [({"replicas": 3}, {"many-0", "many-1", "many-2"}), ({"ids": ["a", "b/1"]}, {"a", "b/1"})]
)
def test_children_of_a_set_are_placed_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any], ids: set[str]
) -> None:
    found = planned(capsys, "-f", with_set(tmp_path, **spec))

    assert {entry["id"] for entry in found["placed"]} == ids


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "a ChildSet has exactly one of spec.replicas and spec.ids"),
        ({"replicas": 1, "ids": []}, "a ChildSet has exactly one of spec.replicas and spec.ids"),
        ({"replicas": 1, "template": None}, "a ChildSet needs a spec with hub, replicas or ids, and a template"),
        ({"replicas": 1, "template": {"id": "x"}}, "spec.template has id; leave it out"),
        ({"replicas": 1, "template": {"tags": ["x"]}}, "exactly one of exec, python, pod is needed"),
    ],
)
def test_a_set_with_neither_or_both_of_replicas_and_ids_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any], said: str
) -> None:
    assert main(["plan", "-f", with_set(tmp_path, **spec)]) == 2

    assert said in capsys.readouterr().err


def test_a_folder_is_planned_without_its_objects_of_other_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files(tmp_path, [{}])
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}}
    deployed = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    listed = {"apiVersion": "v1", "kind": "List", "items": [config, deployed, config]}
    (tmp_path / "others.json").write_text(json.dumps(listed))
    (tmp_path / "README.md").write_text("# no manifest")
    (tmp_path / "base.yaml").mkdir()

    assert main(["plan", "-f", str(tmp_path), "-o", "name"]) == 0

    printed = capsys.readouterr()
    assert printed.out == "child-0\n"
    assert printed.err == "note: objects of other kinds are left out: ConfigMap (2), Deployment (1)\n"


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "has no .yaml, .yml or .json file"),
        ({"apiVersion": "processhub.dev/v1alpha1", "kind": "Chlid"}, "expected kind Hub or Child or ChildSet of"),
        ({"apiVersion": "v1", "kind": "Hub"}, "expected kind Hub or Child or ChildSet of processhub.dev/v1alpha1, got"),
    ],
    ids=["empty", "a misspelt kind", "another group"],
)
def test_a_folder_without_anything_to_plan_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], manifest: dict[str, Any] | None, said: str
) -> None:
    if manifest is not None:
        (tmp_path / "one.yml").write_text(yaml.safe_dump(manifest))

    assert main(["plan", "-f", str(tmp_path)]) == 2

    assert said in capsys.readouterr().err


def test_an_export_with_the_objects_of_static_children_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(files(tmp_path, [{}, {}], children=[{"id": "child-1", "exec": SLEEP}]))
    hub, own, static = yaml.safe_load_all(path.read_text())
    static["metadata"]["ownerReferences"] = [{"kind": "Hub", "name": "my-hub", "uid": "u", "controller": True}]
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [hub, own, static]}))

    assert main(["plan", "-f", str(path), "-o", "name"]) == 0

    assert capsys.readouterr().out == "child-0\nchild-1\n"


def test_an_id_of_a_set_and_of_a_child_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_set(tmp_path, children=[{"id": "many-1"}], replicas=2)

    assert main(["plan", "-f", path]) == 2

    assert "the files have child 'many-1' twice" in capsys.readouterr().err


def test_join_moves_only_onto_the_joiner_and_about_its_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{} for _ in range(400)])

    found = planned(capsys, "-f", path, "--add", "1")

    assert {move["to"] for move in found["moves"]} == {"my-hub-3"}
    assert 60 <= len(found["moves"]) <= 140
    assert found["members"]["my-hub-3"] == {"before": 0, "after": len(found["moves"])}


def test_a_removal_empties_the_member_and_names_the_children_that_cannot_move(
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


def test_each_child_that_a_removal_strands_has_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guided: dict[str, Any] = {"nodes": ["my-hub-0"]}
    specs = [{"pinned": True}, guided, {**guided, "pinned": True}, {}]
    bound = files(tmp_path, [{"nodes": ["my-hub-0"], **spec} for spec in specs], distribution={"strategy": "Guided"})

    assert main(["plan", "-f", bound, "--remove", "my-hub-0"]) == 0
    assert capsys.readouterr().err == (
        "warning: 4 children can't leave my-hub-0: child-0, child-2 (pinned); child-1, child-3 (guided to it by its"
        " nodes)\n"
    )

    everywhere = ("--remove", "my-hub-0", "--remove", "my-hub-1", "--remove", "my-hub-2")
    assert main(["plan", "-f", files(tmp_path, [{}]), *everywhere]) == 0
    assert "1 child can't leave my-hub-" in (said := capsys.readouterr().err)
    assert said.endswith(": child-0 (no other member is left)\n")


def test_every_child_of_a_removed_member_moves_to_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{} for _ in range(100)])

    found = planned(capsys, "-f", path, "--remove", "my-hub-1")

    assert {move["from"] for move in found["moves"]} == {"my-hub-1"}
    assert found["members"]["my-hub-1"]["after"] == 0
    assert len(found["moves"]) == found["members"]["my-hub-1"]["before"]


def test_a_child_that_would_be_rejected_is_named_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{"nodes": ["my-hub-0"]}, {}])

    assert main(["plan", "-f", path]) == 1

    said = capsys.readouterr()
    assert "child child-0 would be refused: InvalidChildMapping" in said.err
    assert "1 is placed; nothing was changed" in said.out


def test_a_guided_child_without_nodes_fails_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files(tmp_path, [{}], distribution={"strategy": "Guided"})

    assert main(["plan", "-f", path]) == 1

    assert "these children have no nodes: child-0" in capsys.readouterr().err


def test_children_over_the_capacity_are_unplaced_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{} for _ in range(7)], members={"replicas": 2, "maxChildren": 3})

    found = planned(capsys, "-f", path)

    assert [entry["reason"] for entry in found["unplaced"]] == ["CapacityExceeded"]
    assert len(found["placed"]) == 6


def test_new_members_get_the_next_free_names() -> None:
    hub = make_hub("my-hub")

    assert new_names(hub, {"my-hub-0", "my-hub-1"}, 2) == ["my-hub-2", "my-hub-3"]
    assert new_names(hub, {"my-hub-1"}, 2) == ["my-hub-0", "my-hub-2"]


def test_the_plan_of_a_modulo_hub_moves_the_children_whose_number_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{"id": str(number)} for number in range(24)], distribution={"strategy": "Modulo"})

    found = planned(capsys, "-f", path, "--add", "1")

    assert {move["id"]: move["to"] for move in found["moves"]} == {
        str(number): f"my-hub-{number % 4}" for number in range(24) if number % 3 != number % 4
    }


def test_a_plan_fails_if_the_hubs_strategy_is_not_installed_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, [{}], distribution={"strategy": "ByRegion"})

    assert main(["plan", "-f", path]) == 1
    assert "the hub's distribution strategy 'ByRegion' is not known here" in capsys.readouterr().err
