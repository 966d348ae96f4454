"""The binaries that the clusters need: found, taken from the cache, or built with Go from pinned modules.

Standard library only: ``make setup`` runs this before anything is installed.

A tool is looked for in this order:

1. the environment variable ``PROCESSHUB_TOOL_<NAME>`` (``PROCESSHUB_TOOL_KUBE_APISERVER=/path``);
2. PATH, where its version is the pinned one (another version of kubectl or helm would make runs differ);
3. the cache, ``$XDG_CACHE_HOME/processhub/tools/<module>-<hash of its pins>/``;
4. a build from ``testbed/tools/<module>/go.mod`` and ``go.sum``, all tools of a module in one go, by the Go of
   ``localcluster.golang``.

CLUSTER_TOOLS are what the local cluster is made of, so all that the demo needs; TOOLS has what developers need besides;
NODE_TOOLS are what a kind cluster and its node image need besides, built by ``make kind-up`` alone.

Two runs at once share one build (a lock per module); a binary appears in the cache by rename, so an
interrupted build leaves nothing half-made.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from localcluster import golang

PINS = Path(__file__).resolve().parent.parent / "tools"
KUBERNETES_VERSION = "v1.34.4"
_STAMP = "k8s.io/component-base/version"
# Flags of the linker by module: no symbols, and the version that Kubernetes' programs print.
_LDFLAGS = {
    "kube": f"-s -w -X {_STAMP}.gitVersion={KUBERNETES_VERSION} -X {_STAMP}.gitMajor=1 -X {_STAMP}.gitMinor=34"
    f" -X {_STAMP}.gitTreeState=clean -X {_STAMP}.gitCommit={'0' * 40}"
}
_PLAIN_LDFLAGS = "-s -w"
# The compiler need not write the information that the linker leaves out.
_BUILD = ("build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
# A seventh of a build is the compiler's garbage collection. It may have more memory, but not so much that two compilers
# and a linker outgrow a machine of 4 GiB.
_MEMORY = {"GOGC": "400", "GOMEMLIMIT": "1500MiB"}
_PACKAGE_LINE = re.compile(r"[\w.~/+-]+")  # the line that -v prints for each compiled package

_NEVER = r"(?!)"  # for a tool of our own: a program of its name on PATH is another one


class ToolError(Exception):
    """A tool can neither be found nor built; the message says what to install."""


@dataclass(frozen=True)
class Tool:
    """One binary: the pinned module that it is built from, and how a copy on PATH proves its version."""

    name: str
    module: str  # folder under testbed/tools
    package: str  # main package inside the module graph
    version_args: tuple[str, ...]
    version: str  # pattern that the output of version_args must contain
    minutes: float  # that it adds to a cold build of its module on 2 cores, for the progress line
    near: str = _NEVER  # pattern of the versions on PATH that a kind cluster can be made with
    sources: tuple[str, ...] = ()  # files of our own in the module's folder that the binary is made of


_KUBE = ("--version",), r"v1\.34\.4\b"
CLUSTER_TOOLS: tuple[Tool, ...] = (
    Tool(
        "kubectl", "kube", "k8s.io/kubernetes/cmd/kubectl", ("version", "--client"), r"v1\.34\.", 1.0, r"v1\.3[3-5]\."
    ),
    Tool("kube-apiserver", "kube", "k8s.io/kubernetes/cmd/kube-apiserver", *_KUBE, 1.5),
    Tool("kube-controller-manager", "kube", "k8s.io/kubernetes/cmd/kube-controller-manager", *_KUBE, 0.8),
    Tool("kube-scheduler", "kube", "k8s.io/kubernetes/cmd/kube-scheduler", *_KUBE, 0.3),
    # In the module of Kubernetes, whose API server needs most of etcd's packages as well.
    Tool("etcd", "kube", "go.etcd.io/etcd/server/v3", ("--version",), r"3\.6\.", 0.1),
    Tool("pki", "kube", "processhub.dev/tools/kube/pki", ("--version",), _NEVER, 0.0, sources=("pki/main.go",)),
)
TOOLS: tuple[Tool, ...] = (
    *CLUSTER_TOOLS,
    Tool("helm", "helm", "helm.sh/helm/v4/cmd/helm", ("version", "--short"), r"v4\.", 2.1),
)
NODE_TOOLS: tuple[Tool, ...] = (
    Tool("kind", "kind", "sigs.k8s.io/kind", ("version",), r"v0\.30\.", 0.3, r"v0\.(2[7-9]|[3-9]\d)\."),
    Tool("pause", "kind", "processhub.dev/tools/kind/pause", ("--version",), _NEVER, 0.1, sources=("pause/main.go",)),
    Tool("kubelet", "kube", "k8s.io/kubernetes/cmd/kubelet", *_KUBE, 2.0),
    Tool("kubeadm", "kube", "k8s.io/kubernetes/cmd/kubeadm", ("version",), r"v1\.34\.4\b", 0.6),
    Tool("kube-proxy", "kube", "k8s.io/kubernetes/cmd/kube-proxy", *_KUBE, 0.6),
    Tool("coredns", "coredns", "github.com/coredns/coredns", ("-version",), r"CoreDNS-1\.12\.", 3.0),
)
FOR_PEOPLE = ("kubectl", "helm")
BY_NAME = {tool.name: tool for tool in (*TOOLS, *NODE_TOOLS)}


def cache_root() -> Path:
    """The user's cache folder for tools (XDG base directory)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "processhub" / "tools"


def pins_hash(tool: Tool) -> str:
    """Twelve hex digits: a hash of the binary's inputs (its module's go.mod and go.sum, link flags, our own sources).

    The tools of one module and one of TOOLS and NODE_TOOLS have one hash, so that they share a folder, and a tool that
    is added for kind does not invalidate the local cluster's tools in the cache.
    """
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((PINS / tool.module / name).read_bytes())
    for mate in TOOLS if tool in TOOLS else NODE_TOOLS:
        if mate.module == tool.module:
            digest.update(f"{mate.package} {_LDFLAGS.get(mate.module, _PLAIN_LDFLAGS)}".encode())
            for source in mate.sources:
                digest.update((PINS / mate.module / source).read_bytes())
    return digest.hexdigest()[:12]


def cached_path(tool: Tool) -> Path:
    """The path of this tool in the cache, whether it exists yet or not."""
    return cache_root() / f"{tool.module}-{pins_hash(tool)}" / tool.name


def _given(tool: Tool, version: str) -> Path | None:
    """The tool from its environment variable or from PATH, if its version on PATH fits the pattern."""
    variable = "PROCESSHUB_TOOL_" + tool.name.upper().replace("-", "_")
    if value := os.environ.get(variable):
        if not os.access(value, os.X_OK):
            raise ToolError(f"{variable}={value} is not an executable file; give the path of {tool.name} or unset it")
        return Path(value)
    found = shutil.which(tool.name)
    if found is None:
        return None
    answer = subprocess.run([found, *tool.version_args], capture_output=True, text=True, timeout=30, check=False)
    # The found file may be the link that an earlier `--bin` made. It is followed, else it would be linked to itself.
    return Path(found).resolve() if re.search(version, answer.stdout + answer.stderr) else None


def available(tool: Tool) -> Path | None:
    """The tool's path if no build is needed, else None."""
    return _given(tool, tool.version) or _cached(tool)


def _near(tool: Tool) -> Path | None:
    """The tool's path if no build is needed for a kind cluster, else None."""
    return available(tool) or _given(tool, tool.near)


def _cached(tool: Tool) -> Path | None:
    path = cached_path(tool)
    return path if path.exists() else None


def go_for(module: str) -> golang.Go:
    """A Go that can build the module of that name under testbed/tools. Raises golang.GoError."""
    return golang.ensure(PINS / module, PINS / "go" / "requirements.txt", cache_root())


def _go(mates: Sequence[Tool]) -> golang.Go:
    try:
        return go_for(mates[0].module)
    except golang.GoError as error:
        raise ToolError(f"{_names(mates)}: neither on PATH nor in the cache, and can't be built: {error}") from error


def _names(mates: Sequence[Tool]) -> str:
    return ", ".join(tool.name for tool in mates)


def _build(mates: Sequence[Tool], folder: Path, go: golang.Go, tell: Callable[[int], None]) -> None:
    """Build tools of one module at once, so that common packages are compiled once and all cores work."""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
        command = [go.program, *_BUILD, "-ldflags", _LDFLAGS.get(mates[0].module, _PLAIN_LDFLAGS)]
        with subprocess.Popen(
            [*command, "-o", f"{scratch}/", *(tool.package for tool in mates)],
            cwd=PINS / mates[0].module,
            env={**_MEMORY, **go.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None, "it is a pipe"
            said: list[str] = []
            compiled = 0
            for line in process.stdout:
                if _PACKAGE_LINE.fullmatch(line.strip()):
                    tell(compiled := compiled + 1)
                elif not line.startswith("go: downloading "):
                    said.append(line)
        if process.returncode != 0:
            raise ToolError(
                f"building {_names(mates)} from testbed/tools/{mates[0].module} failed:\n{''.join(said[-20:]).rstrip()}"
            )
        for tool in mates:
            (Path(scratch) / _output_name(tool.package)).rename(folder / tool.name)


def _output_name(package: str) -> str:
    """The name that Go gives the program of a package: its last part that is not a version."""
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


def _build_locked(mates: Sequence[Tool], go: golang.Go, tell: Callable[[int], None]) -> None:
    folder = cached_path(mates[0]).parent
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if missing := [tool for tool in mates if not cached_path(tool).exists()]:
            _build(missing, folder, go, tell)


def ensure(names: Sequence[str] | None = None, *, own: bool = False, near: bool = False) -> dict[str, Path]:
    """Every named tool (all of TOOLS if None) by name, built if needed; progress is printed to stderr.

    With ``own`` only binaries that were built from the pins count, static and the same everywhere: these go into
    images. With ``near`` other versions on PATH count too, with which a kind cluster can be made. Raises ToolError if
    a tool can be neither found nor built.
    """
    wanted = [BY_NAME[name] for name in names] if names is not None else list(TOOLS)
    look = _cached if own else _near if near else available
    paths = {tool.name: path for tool in wanted if (path := look(tool))}
    missing = [tool for tool in wanted if tool.name not in paths]
    if missing:
        minutes = sum(tool.minutes for tool in missing)
        print(
            f"Building {len(missing)} tools from pinned Go modules into {cache_root()}.\n"
            f"This happens once and takes about {max(1, round(minutes))} min on 2 cores with an empty Go cache: "
            "Kubernetes and etcd are some 2,600 packages.",
            file=sys.stderr,
        )
    for folder, group in groupby(sorted(missing, key=_folder), key=_folder):
        mates = list(group)
        go = _go(mates)
        begun = time.monotonic()
        line = f"  {_names(mates)} …"
        print(line, end="", file=sys.stderr, flush=True)
        _build_locked(mates, go, _counter(line))
        again = f"\r{line}" if sys.stderr.isatty() else ""
        print(f"{again} {time.monotonic() - begun:.0f} s        ", file=sys.stderr)
        paths.update({tool.name: folder / tool.name for tool in mates})
    return paths


def _folder(tool: Tool) -> Path:
    return cached_path(tool).parent


def _counter(line: str) -> Callable[[int], None]:
    """Prints on a terminal how many packages are compiled, after ``line``; prints nothing elsewhere."""

    def tell(compiled: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{line} {compiled} packages", end="", file=sys.stderr, flush=True)

    return tell


def _had(names: Sequence[str]) -> dict[str, Path]:
    """Those of the tools that need no build; the others are named on stderr."""
    found = {name: path for name in names if (path := _near(BY_NAME[name]))}
    if missing := [name for name in names if name not in found]:
        print(f"not on PATH in a version that fits: {', '.join(missing)}; `make tools` builds it", file=sys.stderr)
    return found


def _link(path: Path, link: Path) -> None:
    if path.resolve() == link.absolute():
        return  # a binary that somebody put there
    scratch = link.with_name(f".{link.name}.{os.getpid()}")
    scratch.symlink_to(path)
    scratch.replace(link)


def main() -> int:
    """``python -m localcluster.tools [NAME…]``: print the paths, building what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *BY_NAME], help="which tools (default: all but kind's)")
    parser.add_argument("--cluster", action="store_true", help="those of the local cluster")
    parser.add_argument("--had", action="store_true", help="build nothing, and say what is missing")
    parser.add_argument("--bin", type=Path, help="also link kubectl and helm into this folder")
    arguments = parser.parse_args()
    names = (
        [tool.name for tool in CLUSTER_TOOLS] if arguments.cluster else arguments.names or [tool.name for tool in TOOLS]
    )
    try:
        paths = _had(names) if arguments.had else ensure(names)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, path in paths.items():
        if arguments.bin and name in FOR_PEOPLE:
            arguments.bin.mkdir(parents=True, exist_ok=True)
            _link(path, arguments.bin / name)
        print(f"{name} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
