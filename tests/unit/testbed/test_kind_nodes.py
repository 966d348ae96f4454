"""The kind cluster's configuration, and the name and contents of its node image."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import yaml

from kind import archive, assemble, config, layout, nodeimage, systemimages
from kind.archive import Image

LDD = """\
/usr/sbin/nft:
	linux-vdso.so.1 (0x00007ffd5d1f2000)
	libnftables.so.1 => /lib/x86_64-linux-gnu/libnftables.so.1 (0x00007f2f0a000000)
	/lib64/ld-linux-x86-64.so.2 (0x00007f2f0a200000)
/usr/lib/x86_64-linux-gnu/xtables/libxt_tcp.so:
	statically linked
"""


def test_the_cluster_has_a_control_plane_and_three_workers_in_zones_like_the_local_cluster() -> None:
    document = yaml.safe_load(config.render())

    control_plane, *workers = document["nodes"]
    assert control_plane == {"role": "control-plane"}
    assert [worker["labels"]["topology.kubernetes.io/zone"] for worker in workers] == ["r1-a", "r2-b", "r1-c"]
    assert [worker["labels"]["topology.kubernetes.io/region"] for worker in workers] == ["r1", "r2", "r1"]


def test_the_configuration_names_the_cluster_and_patches_the_kubelet() -> None:
    document = yaml.safe_load(config.render())

    assert f"kind-{document['name']}" == layout.CONTEXT
    (patch,) = document["kubeadmConfigPatches"]
    assert yaml.safe_load(patch)["failCgroupV1"] is False


def test_the_key_depends_on_words_names_and_contents_but_not_on_the_order_of_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    key = nodeimage.digest(("a",), [one, two])

    assert nodeimage.digest(("a",), [two, one]) == key
    assert nodeimage.digest(("b",), [one, two]) != key
    two.write_text("3")
    assert nodeimage.digest(("a",), [one, two]) != key


def test_every_file_that_the_key_names_exists() -> None:
    assert len(nodeimage.key()) == 12


def test_kubeadms_images_are_found_by_their_last_part() -> None:
    listing = "registry.example/etcd:3.6.5-0\nregistry.example/coredns/coredns:v1.12.1\n"

    assert systemimages.by_last_part(listing) == {
        "etcd": "registry.example/etcd:3.6.5-0",
        "coredns": "registry.example/coredns/coredns:v1.12.1",
    }


def test_libraries_are_read_from_ldd() -> None:
    expected = {"lib/x86_64-linux-gnu/libnftables.so.1", "lib64/ld-linux-x86-64.so.2"}

    assert {str(path) for path in systemimages.libraries(LDD)} == expected


def test_the_network_agents_image_is_named_in_its_manifest() -> None:
    manifest = (assemble.DATA / "network.yaml").read_text()

    assert manifest.count("image: NETWORK_IMAGE") == 1
    assert "would you kindly template this file" in manifest
    assert "would you kindly patch this file" in manifest


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_holds_one_layer_under_its_own_digest(tmp_path: Path, compressed: bool) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "true").write_text("binary")
    path = tmp_path / "image.tar"

    archive.write(path, Image("name:tag", ("/bin/true",), stop_signal="SIGTERM"), tree, compressed=compressed)

    with tarfile.open(path) as outer:
        (manifest,) = json.loads(read(outer, "manifest.json"))
        described = json.loads(read(outer, manifest["Config"]))
        (layer,) = manifest["Layers"]
        packed = outer.extractfile(layer)
        assert packed
        with tarfile.open(fileobj=packed) as inner:
            assert read(inner, "./bin/true") == b"binary"
            assert {(member.uid, member.mtime) for member in inner} == {(0, 0)}
    assert manifest["RepoTags"] == ["name:tag"]
    assert described["config"]["Entrypoint"] == ["/bin/true"]
    assert described["config"]["StopSignal"] == "SIGTERM"
    assert described["rootfs"]["diff_ids"] == [f"sha256:{layer.partition('/')[0]}"]
    assert manifest["Config"] == f"{hashlib.sha256(json.dumps(described).encode()).hexdigest()}.json"


def test_the_same_tree_gives_the_same_archive(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("content")
        archive.write(tmp_path / f"{name}.tar", Image("name:tag", ("/file",)), tmp_path / name, compressed=True)

    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def read(archive_: tarfile.TarFile, name: str) -> bytes:
    file = archive_.extractfile(name)
    assert file
    return file.read()
