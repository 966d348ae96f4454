"""The image of the nodes: kind's own if an image registry can be reached, else one that is assembled here.

The assembled image is kept in the cache as an archive, named after a hash of all its inputs, and loaded into Docker
from there. ``python -m kind.nodeimage`` assembles it without a cluster.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kind import archive, assemble, debian, docker, packages, systemimages
from kind.layout import KIND, KindError, cache, locked
from kind.progress import Progress
from localcluster import tools

# The default image of kind v0.30.0, which pins it by this digest.
PINNED = "kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a"
_REPOSITORY = "localhost/processhub-kind-node"
_ANSWER_SECONDS = 60.0  # a registry that has not answered by then counts as unreachable
_WORK = ".work-"
_BINARIES = (*assemble.ON_NODE, *systemimages.BINARIES)
# The code that decides what is in the image; the Debian packages' versions are those of the day.
_CODE = ("archive.py", "assemble.py", "debian.py", "systemimages.py")
_KEPT = 2  # archives of 0.7 GB each: this checkout's and one before it, or another checkout's
_ROOM = 6 * 1024**3  # bytes: the Debian tree, its copy, layers and archive; then Docker's copy and the nodes' own


def ensure(*, install: bool) -> str:
    """The name of a node image that Docker has, pulled or assembled if needed; progress is printed to stderr.

    ``install`` allows Debian packages to be installed. Raises KindError or tools.ToolError.
    """
    own = f"{_REPOSITORY}:{key()}"
    for name in (PINNED, own):
        if docker.has_image(name):
            return name
    kept = _archive(key())
    if not kept.exists():
        print(f"asking an image registry for {PINNED.partition('@')[0]}", file=sys.stderr)
        if _pull():
            return PINNED
        print("no image registry is in reach", file=sys.stderr)
        _require_room(Path(docker.call("info", "--format", "{{.DockerRootDir}}")))
        kept = make(install=install)
    print("loading the node image into Docker", file=sys.stderr)
    docker.call("load", "--quiet", "--input", str(kept), timeout=600)
    kept.touch()
    _forget(own)
    return own


def at_hand() -> bool:
    """Whether ``ensure`` has nothing to fetch and nothing to assemble."""
    own = key()
    return docker.has_image(PINNED) or docker.has_image(f"{_REPOSITORY}:{own}") or _archive(own).exists()


def make(*, install: bool) -> Path:
    """The archive of the assembled node image, from the cache or made there. Raises as ``ensure`` does."""
    with locked("nodeimage"):
        target = _archive(key())
        if target.exists():
            return target
        if os.geteuid() != 0:
            raise KindError("no image registry is in reach, and only root can assemble a node image (debootstrap)")
        for left in cache().glob(f"{_WORK}*"):  # by a run that was killed
            shutil.rmtree(left)
        _require_room(cache())
        packages.ensure(("debootstrap",), install=install)
        print(
            "Assembling a node image from Debian packages and Go modules. This happens once and takes about 3 min,\n"
            "and 15 min more where Kubernetes' binaries are not built yet: there are 11 of them.",
            file=sys.stderr,
        )
        binaries = tools.ensure(_BINARIES, own=True)
        with _work() as work:
            progress = Progress(assemble.STEPS + 1)
            tree = _debian(progress)
            assemble.assemble(f"{_REPOSITORY}:{key()}", work / "node.tar", work, tree, binaries, progress)
            (work / "node.tar").rename(target)
        return target


def key() -> str:
    """Twelve hex digits: a hash of all inputs of the assembled image."""
    pins = [f"{name}-{tools.pins_hash(tools.BY_NAME[name])}" for name in ("kind", *_BINARIES)]
    files = [*(KIND / name for name in _CODE), *assemble.DATA.iterdir()]
    return digest((*pins, archive.architecture()), files)


def digest(words: tuple[str, ...], files: list[Path]) -> str:
    """Twelve hex digits: a hash of texts and of named files' contents; the order of the files does not matter."""
    state = hashlib.sha256("\n".join(words).encode())
    for path in sorted(files, key=lambda path: path.name):
        state.update(f"\n{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return state.hexdigest()[:12]


def _archive(identity: str) -> Path:
    return cache() / f"node-{identity}.tar"


def _debian(progress: Progress) -> Path:
    """The Debian tree, from the cache or made there."""
    words = (debian.SUITE, *debian.PACKAGES, archive.architecture())
    tree = cache() / f"debian-{digest(words, [KIND / 'debian.py'])}"
    with progress.step("the nodes' Debian tree"):
        if not tree.exists():
            with _work() as work:
                debian.make(work / "root")
                (work / "root").rename(tree)
            for other in cache().glob("debian-*"):
                if other != tree:
                    shutil.rmtree(other)
    return tree


@contextlib.contextmanager
def _work() -> Iterator[Path]:
    """A folder beside the result, removed with everything that is not renamed out of it."""
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=cache()) as scratch:
        yield Path(scratch)


def _pull() -> bool:
    """Whether the pinned image was pulled."""
    process = subprocess.Popen(
        ["docker", "pull", PINNED], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    try:
        if not select.select([process.stdout, process.stderr], [], [], _ANSWER_SECONDS)[0]:
            process.kill()
            print(f"no answer within {_ANSWER_SECONDS:.0f} s", file=sys.stderr)
        _, said = process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode != 0 and said:
        print(said.strip(), file=sys.stderr)
    return process.returncode == 0


def _require_room(folder: Path) -> None:
    """Raise KindError if ``folder``'s disk has too little room; pass if the room can't be determined."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if (free := shutil.disk_usage(folder).free) < _ROOM:
            raise KindError(
                f"{folder} has {free / 1024**3:.1f} GiB free, and a node image takes {_ROOM / 1024**3:.0f}; make room"
            )


def _forget(own: str) -> None:
    """Remove images and archives that were assembled from other inputs, except for the latest archives."""
    for name in docker.call("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", _REPOSITORY).split():
        if name != own:
            docker.works("image", "rm", name)  # refused where a container uses it
    archives = sorted(cache().glob("node-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in archives[_KEPT:]:
        path.unlink(missing_ok=True)


def main() -> int:
    """``python -m kind.nodeimage``: assemble the image and print its archive's path."""
    try:
        print(make(install=False))
    except (KindError, tools.ToolError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing half-made is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
