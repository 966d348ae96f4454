"""``-f FILE`` as kubectl takes it: null fields are left out, and the namespace of an object counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from clihub import HUB, with_cluster
from onethread import Cluster

from processhub.api.meta import API_VERSION
from processhub.cli import start
from processhub.cli.errors import DONE
from processhub.cli.main import main
from processhub.client.errors import HubNotFound

CHILD = "apiVersion: processhub.dev/v1alpha1\nkind: Child\nspec: {hub: shop, exec: {command: [sleep]}}\n"
NULLS = """
apiVersion: processhub.dev/v1alpha1
kind: Hub
metadata: {name: shop, labels: , annotations: null}
spec:
  members: {replicas: 2, weights: , image: , template: , serviceAccount: null}
  distribution:
  hooks: null
  onDemand: null
---
apiVersion: processhub.dev/v1alpha1
kind: Child
metadata: {name: a}
spec: {hub: shop, tags: , metadata: null, nodes: null, exec: {command: [sleep], env: , args: null}, python: null}
---
apiVersion: processhub.dev/v1alpha1
kind: ChildSet
metadata: {name: web}
spec: {hub: shop, replicas: 2, ids: null, template: {exec: {command: [sleep]}, pod: null}}
"""


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("HUB_NAME", raising=False)


def test_fields_that_are_null_are_left_out_as_by_the_api_server(capsys: pytest.CaptureFixture[str]) -> None:
    Path("all.yaml").write_text(NULLS)

    assert main(["plan", "-f", "all.yaml", "-o", "json"]) == 0

    placed: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["placed"]
    assert {entry["id"] for entry in placed} == {"a", "web-0", "web-1"}


@pytest.mark.parametrize(
    ("metadata", "options", "sentence"),
    [
        (["{name: a, namespace: prod}"], ("-n", "test"), "have objects of namespace prod, and -n names test"),
        (
            ["{name: a, namespace: prod}", "{name: b, namespace: test}"],
            (),
            "have objects of different namespaces: prod, test",
        ),
        (["[a]"], (), "all.yaml, document 1: metadata must be a mapping"),
    ],
    ids=["another than -n", "two", "metadata as a list"],
)
def test_a_namespace_that_can_not_be_meant_is_a_mistake(
    metadata: list[str], options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("all.yaml").write_text("---\n".join(f"{CHILD}metadata: {each}\n" for each in metadata))

    assert main(["start", "-f", "all.yaml", *options]) == 2

    assert sentence in capsys.readouterr().err


def test_children_are_started_in_the_namespace_of_their_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ns", "elsewhere"):
        Path(name).write_text(f"{CHILD.replace('shop', 'hub')}metadata: {{name: a, namespace: {name}}}\n")

    async def test(_: Cluster) -> None:
        with pytest.raises(HubNotFound, match="hub hub not found in namespace elsewhere"):
            await start.start_children(
                start.Order(files=("elsewhere",)), HUB, on_failure="continue", wait=False, timeout="30s"
            )
        order = start.Order(files=("ns",))
        assert await start.start_children(order, HUB, on_failure="continue", wait=True, timeout="30s") == DONE

    with_cluster(tmp_path, monkeypatch, test)


def test_children_of_several_files_and_of_a_folder_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("folder")
    folder.mkdir()
    for path in (Path("a.yaml"), Path("b.txt"), folder / "c.yml", folder / "d.json", folder / "README.md"):
        text = f"{CHILD.replace('shop', 'hub')}metadata: {{name: {path.stem}}}\n"
        path.write_text(json.dumps(yaml.safe_load(text)) if path.suffix == ".json" else text)

    Path("b.txt").write_text(Path("b.txt").read_text().replace("{name: b}", "{name: b, labels: {team: x}}"))

    async def test(_: Cluster) -> None:
        order = start.Order(files=("a.yaml", "b.txt", "folder"))
        assert await start.start_children(order, HUB, on_failure="continue", wait=False, timeout="30s") == DONE

    with_cluster(tmp_path, monkeypatch, test)
    said = capsys.readouterr()
    assert said.out == "a created\nb created\nc created\nd created\n"
    warning = "warning: b.txt, document 1: start leaves out metadata.labels; kubectl apply keeps them\n"
    assert said.err == warning


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_windows_are_read(encoding: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("all.yaml").write_bytes(f"# ü{NULLS}".replace("\n", "\r\n").encode(encoding))

    assert main(["plan", "-f", "all.yaml", "-o", "name"]) == 0

    assert sorted(capsys.readouterr().out.split()) == ["a", "web-0", "web-1"]


def test_a_plan_is_for_one_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    items = [
        {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}
        for namespace, child in (("prod", "a"), ("test", "b"))
        for kind, name, spec in (
            ("Hub", "shop", {}),
            ("Child", child, {"hub": "shop", "exec": {"command": ["sleep"]}}),
        )
    ]
    Path("all.yaml").write_text(yaml.safe_dump_all(items))

    assert main(["plan", "-f", "all.yaml", "-o", "name"]) == 2
    assert "the files have objects of different namespaces: prod, test" in capsys.readouterr().err
    assert main(["plan", "-f", "all.yaml", "-o", "name", "-n", "prod"]) == 0
    assert capsys.readouterr().out == "a\n"
