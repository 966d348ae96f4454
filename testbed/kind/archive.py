"""Image archives with one layer, as ``docker save`` writes them and as Docker and containerd load them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

_CREATED = "2020-01-01T00:00:00Z"  # one time for all files: the same tree gives the same image
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image's name with tag, and what a container of it runs."""

    name: str
    entrypoint: tuple[str, ...]
    environment: tuple[str, ...] = ()
    stop_signal: str | None = None
    # Members of the layer belong to root with a fixed time; else owners and times are the tree's.
    plain: bool = field(default=True)


def architecture() -> str:
    """This machine's architecture, in the form that images use."""
    machine = platform.machine()
    return _GO_ARCHITECTURES.get(machine, machine)


def write(path: Path, image: Image, tree: Path, *, compressed: bool) -> None:
    """Write the archive of an image whose files are those under ``tree``.

    The layer temporarily needs as much disk as the tree, in the folder of ``path``.
    """
    with tempfile.TemporaryFile(dir=path.parent) as layer, tarfile.open(path, "w") as archive:
        identity = _pack(layer, image, tree, compressed=compressed)
        _add(archive, f"{identity}/layer.tar", layer)
        configuration = json.dumps(describe(image, identity)).encode()
        name = f"{hashlib.sha256(configuration).hexdigest()}.json"
        _add(archive, name, io.BytesIO(configuration))
        manifest = [{"Config": name, "RepoTags": [image.name], "Layers": [f"{identity}/layer.tar"]}]
        _add(archive, "manifest.json", io.BytesIO(json.dumps(manifest).encode()))


def describe(image: Image, identity: str) -> dict[str, Any]:
    """The image's configuration; ``identity`` is the SHA-256 of its layer before compression, in hex."""
    config: dict[str, Any] = {
        "Env": [_PATH, *image.environment],
        "Entrypoint": list(image.entrypoint),
        "WorkingDir": "/",
    }
    if image.stop_signal:
        config["StopSignal"] = image.stop_signal
    return {
        "architecture": architecture(),
        "os": "linux",
        "created": _CREATED,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{identity}"]},
        "history": [{"created": _CREATED, "created_by": "testbed/kind"}],
    }


class _Hashing:
    """A file for writing that computes the SHA-256 of the written bytes."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._target.write(data)


def _pack(layer: IO[bytes], image: Image, tree: Path, *, compressed: bool) -> str:
    """Write the layer; the SHA-256 of its uncompressed bytes in hex."""
    target = gzip.GzipFile(fileobj=layer, mode="wb", compresslevel=1, mtime=0) if compressed else layer
    hashing = _Hashing(cast("IO[bytes]", target))
    with tarfile.open(fileobj=cast("IO[bytes]", hashing), mode="w|") as tar:
        tar.add(tree, arcname=".", filter=_plain if image.plain else None)
    if compressed:
        target.close()
    return hashing.digest.hexdigest()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = 0
    return member


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    archive.addfile(member, content)
