"""Finding the local cluster's tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from localcluster import tools
from localcluster.layout import CHECKOUT

KUBECTL = tools.BY_NAME["kubectl"]
PRETENDED = "#!/bin/sh\necho 'Client Version: v1.34.4'\n"


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PRETENDED)
    path.chmod(0o755)
    return path


def link_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["tools", "kubectl", "--bin", str(folder)])
    assert tools.main() == 0
    return folder / "kubectl"


def test_a_link_that_is_found_on_path_is_not_linked_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README lets people put .venv/bin on PATH and call make again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    binary = executable(tools.cached_path(KUBECTL))
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    for _ in range(2):
        assert link_into(folder, monkeypatch).resolve() == binary


def test_a_binary_that_somebody_put_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = executable(tmp_path / "bin" / "kubectl")
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")

    assert not link_into(binary.parent, monkeypatch).is_symlink()


def test_tools_of_kind_do_not_invalidate_the_local_clusters_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tools.cached_path(KUBECTL)

    monkeypatch.setattr(tools, "NODE_TOOLS", ())

    assert tools.cached_path(KUBECTL) == before


def test_a_source_of_our_own_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tools.PINS / "kind", tmp_path / "kind")
    monkeypatch.setattr(tools, "PINS", tmp_path)
    before = tools.cached_path(tools.BY_NAME["pause"])

    with open(tmp_path / "kind" / "pause" / "main.go", "a") as source:
        source.write("// changed\n")

    assert tools.cached_path(tools.BY_NAME["pause"]) != before


def test_images_contain_only_tools_built_from_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(executable(tmp_path / "bin" / "kubectl").parent))
    built = executable(tools.cached_path(KUBECTL))

    assert tools.ensure(["kubectl"])["kubectl"] != built
    assert tools.ensure(["kubectl"], own=True)["kubectl"] == built


# Creates an empty program for each package, as Go would, and records its arguments.
PRETENDED_GO = """#!/bin/sh
if [ "$1" = env ]; then echo go99.0; exit; fi
echo "$@" >>"$(dirname "$0")/asked"
echo k8s.io/api/core/v1
while [ "$1" != -o ]; do shift; done
into=$2; shift 2
for package; do
    case $package in */v3) package=${package%/*} ;; esac
    >"$into/$(basename "$package")"
done
"""


def pretend_go(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a go that is this script; returns the file in which it records its arguments."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    go = executable(tmp_path / "bin" / "go")
    go.write_text(script)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    return go.parent / "asked"


def test_only_the_local_clusters_tools_are_built_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend_go(PRETENDED_GO, tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["tools", "--cluster"])

    assert tools.main() == 0

    [build] = asked.read_text().splitlines()
    programs = {"kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "pki"}
    assert build.split()[-1] == tools.BY_NAME["pki"].package
    assert {path.name for path in tools.cached_path(KUBECTL).parent.iterdir()} - {".lock"} == programs


@pytest.mark.parametrize(
    ("kind", "kubectl", "built"),
    [
        ("v0.31.0", "v1.35.1", []),
        ("v0.20.0", "v1.35.1", ["kind"]),
        ("v0.30.0", "v1.28.2", ["kubectl"]),
        ("v0.30.0", "", ["kubectl"]),
    ],
)
def test_a_kind_cluster_is_made_by_a_kind_and_a_kubectl_that_are_there_unless_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kubectl: str, built: list[str]
) -> None:
    asked = pretend_go(PRETENDED_GO, tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", f"{asked.parent}:{tools_of(tmp_path / 'system', 'dirname', 'basename', 'sh')}")
    for name, version in (("kind", f"kind {kind} go1.25"), ("kubectl", f"Client Version: {kubectl}")):
        if not version.endswith(" "):
            executable(asked.parent / name).write_text(f"#!/bin/sh\necho '{version}'\n")

    found = tools.ensure(("kind", "kubectl"), near=True)

    assert [name for name, path in found.items() if path.parent != asked.parent] == built
    assert asked.exists() == bool(built)


def test_of_the_tools_for_people_those_that_need_no_build_are_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = pretend_go(PRETENDED_GO, tmp_path, monkeypatch)
    executable(asked.parent / "kubectl")
    monkeypatch.setattr(sys, "argv", ["tools", "--had", "--bin", str(tmp_path / "links"), "kubectl", "helm"])
    monkeypatch.setenv("PATH", f"{asked.parent}:{tools_of(tmp_path / 'system', 'sh')}")

    assert tools.main() == 0

    assert [path.name for path in (tmp_path / "links").iterdir()] == ["kubectl"]
    assert "make tools" in capsys.readouterr().err
    assert not asked.exists()


def tools_of(folder: Path, *names: str) -> Path:
    """A folder with these programs of the machine, and no others."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def test_a_failed_build_is_reported_with_gos_message_without_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "echo go: downloading k8s.io/api v1; echo k8s.io/api/core/v1; echo ./x.go:3: no space left on device; exit 1"
    pretend_go(f'#!/bin/sh\nif [ "$1" = env ]; then echo go99.0; exit; fi\n{said}\n', tmp_path, monkeypatch)

    with pytest.raises(tools.ToolError) as told:
        tools.ensure(["kubectl", "etcd"])

    assert (
        str(told.value) == "building kubectl, etcd from testbed/tools/kube failed:\n./x.go:3: no space left on device"
    )


def commands(target: str) -> list[str]:
    """Return the programs of testbed/ that `make TARGET` runs, in order, each with its arguments."""
    environment = {"PATH": os.environ["PATH"]}  # without the variables of the make that runs the tests
    answer = subprocess.run(
        ["make", "--dry-run", target], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
    )
    return [line.partition("/python -m ")[2].strip() for line in answer.stdout.splitlines() if "=testbed:" in line]


def test_the_demo_needs_no_helm() -> None:
    [line] = [line for line in commands("demo") if "localcluster.tools" in line]
    assert "--cluster" in line


def test_the_image_is_built_without_the_clusters_tools() -> None:
    assert commands("image") == ["image.build"]


def test_the_kind_cluster_is_up_before_tools_for_people_are_built() -> None:
    """If Docker does not run, that is reported before anything is built."""
    assert commands("kind-up") == [
        "kind.cluster up",
        "localcluster.tools --had --bin .venv/bin kubectl helm >/dev/null",
    ]


@pytest.mark.parametrize("does", ["kubeconfig", "load", "down"])
def test_targets_for_a_kind_cluster_need_no_tool_of_the_local_one(does: str) -> None:
    assert commands(f"kind-{does}") == [f"kind.cluster {does}"]
