"""What an agent imports: it is in the memory of each member."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from processhub.controller.authority.certificates import new_authority

_LOOK = """
import os
from processhub.agent import main
before = dict(os.environ)
main._import_aiohttp()
assert dict(os.environ) == before
import ssl
from aiohttp import connector
for context in (connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED, ssl.create_default_context()):
    print(context.verify_mode.name, len(context.get_ca_certs()))
"""


def test_an_agent_does_not_load_the_systems_certificate_authorities_with_aiohttp(tmp_path: Path) -> None:
    """No connection of it goes by them. What asks for them by name still gets them."""
    system = tmp_path / "system.pem"
    system.write_text(new_authority(datetime.now(UTC), 3600).certificate)
    environment = {**os.environ, "SSL_CERT_FILE": str(system)}
    environment.pop("SSL_CERT_DIR", None)

    done = subprocess.run(
        [sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True, timeout=60, env=environment
    )

    assert done.stdout.splitlines() == ["CERT_REQUIRED 0", "CERT_NONE 0", "CERT_REQUIRED 1"]


_LOADED = """
import sys
from processhub.agent import main
main._import_aiohttp()
from processhub.agent import app
from processhub.agent.children import launchers
from processhub.agent.peers import client
from processhub.agent.requests import server
print(*sys.modules)
"""
_UNUSED = {
    "aiohttp.web",
    "aiohttp.web_app",
    "aiohttp.web_urldispatcher",
    "argparse",
    "http.server",
    "prometheus_client",
}


def test_an_agent_loads_nothing_of_the_libraries_that_it_never_uses() -> None:
    done = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True, timeout=60)

    assert not _UNUSED & set(done.stdout.split())
