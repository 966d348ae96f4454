"""What the OCI shim removes from the specifications that runc reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kind import runc_shim

ALL = ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"]
PERMITTED = ["CAP_CHOWN", "CAP_SYS_ADMIN"]
PROCESS = {
    "args": ["/sbin/init"],
    "capabilities": {"bounding": ALL, "effective": ALL, "ambient": None},
    "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1048576, "soft": 1048576}],
}


def test_only_the_capability_and_the_limits_are_removed() -> None:
    assert runc_shim.permitted(PROCESS) == {
        "args": ["/sbin/init"],
        "capabilities": {"bounding": PERMITTED, "effective": PERMITTED, "ambient": []},
    }


def test_a_container_is_edited_in_its_process_and_an_exec_as_a_whole() -> None:
    container = {"ociVersion": "1.0.2", "process": PROCESS, "root": {"path": "rootfs"}}

    assert runc_shim.edited("create", container) == {**container, "process": runc_shim.permitted(PROCESS)}
    assert runc_shim.edited("exec", PROCESS) == runc_shim.permitted(PROCESS)


def test_a_specification_without_a_process_is_unchanged() -> None:
    assert runc_shim.edited("create", {"ociVersion": "1.0.2"}) == {"ociVersion": "1.0.2"}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--root", "/r", "--log-format", "json", "create", "--bundle", "/b", "id"], ("create", "/b/config.json")),
        (["run", "--bundle=/b", "id"], ("run", "/b/config.json")),
        (["create", "id"], ("create", "./config.json")),
        (["--root", "/r", "exec", "--process", "/p.json", "--detach", "id"], ("exec", "/p.json")),
        (["exec", "-p", "/p.json", "id"], ("exec", "/p.json")),
        (["exec", "id", "sh"], None),
        (["kill", "id", "9"], None),
        (["state", "--bundle", "/b", "id"], None),
        ([], None),
    ],
)
def test_the_file_that_runc_will_read_is_found(arguments: list[str], found: tuple[str, str] | None) -> None:
    assert runc_shim.document_of(arguments) == found


def test_the_shim_edits_the_bundle_and_passes_all_arguments_to_runc(tmp_path: Path) -> None:
    """Run as dockerd runs it, with a runc that records its arguments."""
    (tmp_path / "config.json").write_text(json.dumps({"process": PROCESS}))
    runc = tmp_path / "runc"
    runc.write_text('#!/bin/sh\necho "$@"\n')
    runc.chmod(0o755)
    arguments = ["--root", "/r", "create", "--bundle", str(tmp_path), "id"]

    said = subprocess.run(
        [sys.executable, "-IS", runc_shim.__file__, *arguments],
        env={"PATH": f"{tmp_path}{os.pathsep}/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.split() == arguments
    assert json.loads((tmp_path / "config.json").read_text()) == {"process": runc_shim.permitted(PROCESS)}


def test_a_bundle_that_is_no_json_is_left_to_runc(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "runc").symlink_to("/bin/echo")

    subprocess.run(
        [sys.executable, "-IS", runc_shim.__file__, "create", "--bundle", str(tmp_path)],
        env={"PATH": str(tmp_path)},
        check=True,
        stdout=subprocess.DEVNULL,
    )

    assert (tmp_path / "config.json").read_text() == "{"


def test_the_shim_is_executable() -> None:
    assert os.access(runc_shim.__file__, os.X_OK)
