"""A real forge for the tests: Gitea, built from its Go module, over TLS and SSH on loopback.

The build is kept in the user's cache, by version. Gitea refuses to run as root: then it runs as
``nobody``, in a folder of its own.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import go_programs
from tests.edges.servers import make_certificates
from tests.go_programs import CACHES, can_build, locked, module_folder
from tests.local_home import wait_for

VERSION = "1.25.5"
CACHE = CACHES / f"gitea-{VERSION}"
MODULE = f"""\
module forge

go 1.25.0

require code.gitea.io/gitea v{VERSION}

replace github.com/jaytaylor/html2text => github.com/Necoro/html2text v0.0.0-20250804200300-7bf1ce1c7347

replace github.com/hashicorp/go-version => github.com/6543/go-version v1.3.1

replace github.com/nektos/act => gitea.com/gitea/act v0.261.7-0.20251003180512-ac6e4b751763

replace git.sr.ht/~mariusor/go-xsd-duration => gitea.com/gitea/go-xsd-duration v0.0.0-20220703122237-02e73435a078
"""  # noqa: E501  as in Gitea's own go.mod
INI = """\
RUN_MODE = prod
RUN_USER = {user}
[server]
PROTOCOL = https
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {web}
DOMAIN = 127.0.0.1
ROOT_URL = https://127.0.0.1:{web}/
CERT_FILE = {cert}
KEY_FILE = {key}
STATIC_ROOT_PATH = {static}
START_SSH_SERVER = true
SSH_DOMAIN = 127.0.0.1
SSH_LISTEN_HOST = 127.0.0.1
SSH_LISTEN_PORT = {ssh}
SSH_PORT = {ssh}
BUILTIN_SSH_SERVER_USER = git
OFFLINE_MODE = true
[database]
DB_TYPE = sqlite3
PATH = {home}/gitea.db
[repository]
ROOT = {home}/repositories
[security]
INSTALL_LOCK = true
PASSWORD_HASH_ALGO = pbkdf2$1000$50
[webhook]
ALLOWED_HOST_LIST = loopback
[service]
DISABLE_REGISTRATION = true
[log]
MODE = file
ROOT_PATH = {home}/log
[actions]
ENABLED = false
"""
USER, PASSWORD = "kim", "not-a-secret-1"


def is_buildable() -> bool:
    """Whether it was built before, or can be."""
    return (CACHE / "gitea").exists() or can_build()


def build() -> Path:
    """Return the program, built the first time, and its files beside it in ``static``."""
    package, static = "code.gitea.io/gitea", CACHE / "static"
    program = go_programs.build(
        CACHE, "gitea", MODULE, package, "-tags", "sqlite sqlite_unlock_notify"
    )
    with locked(CACHE):
        if not static.exists():
            module = module_folder(CACHE, package)
            for folder in ("templates", "options", "public"):  # the build holds none of them
                shutil.copytree(module / folder, CACHE / "copied" / folder, dirs_exist_ok=True)
            (CACHE / "copied").rename(static)
    return program


@dataclass(frozen=True, slots=True)
class Forge:
    """A Gitea that runs. ``ca`` is the file of its authority."""

    home: Path
    web: int
    ssh: int
    ca: str

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.web}"

    @property
    def api_address(self) -> str:
        return f"{self.address}/api/v1"

    def api(self, method: str, path: str, **fields: Any) -> Any:
        """Call its API as the one user, who is an administrator."""
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310
            f"{self.api_address}/{path}",
            json.dumps(fields).encode() if fields else None,
            {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
            method=method,
        )
        context = ssl.create_default_context(cafile=self.ca)
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{method} {path}: {refused.code} {refused.read()!r}") from None
        return json.loads(text) if text else None

    def token(self) -> str:
        """Return a token of its user that may do all that a check does."""
        scopes = ["write:issue", "write:repository"]
        made = self.api("POST", f"users/{USER}/tokens", name=os.urandom(4).hex(), scopes=scopes)
        return str(made["sha1"])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running_forge() -> Iterator[Forge]:
    """Run a Gitea with one user and nothing else on it."""
    program = build()
    home = Path(tempfile.mkdtemp(prefix="sw-forge-"))
    is_root = os.geteuid() == 0
    forge = Forge(home, _free_port(), _free_port(), str(home / "tls" / "ca.pem"))
    files = make_certificates(home / "tls")
    shutil.copy(program, home / "gitea")  # the cache of root is closed to nobody
    shutil.copytree(CACHE / "static", home / "static")
    config = home / "app.ini"
    config.write_text(
        INI.format(
            user="nobody" if is_root else os.environ.get("USER", "nobody"),
            web=forge.web,
            ssh=forge.ssh,
            cert=files.cert,
            key=files.key,
            home=home,
            static=home / "static",
        )
    )
    user: dict[str, Any] = {}
    if is_root:
        subprocess.run(["chown", "-R", "nobody:", str(home)], check=True)
        home.chmod(0o755)
        user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    command = [str(home / "gitea"), "--config", str(config), "--work-path", str(home)]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "GITEA_WORK_DIR": str(home)}
    common: dict[str, Any] = {"cwd": home, "env": environment, **user}
    server = None
    try:
        subprocess.run([*command, "migrate"], check=True, capture_output=True, **common)
        who = ["--username", USER, "--password", PASSWORD, "--email", "kim@example.org"]
        new = ["admin", "user", "create", "--admin", "--must-change-password=false", *who]
        subprocess.run([*command, *new], check=True, capture_output=True, **common)
        with (home / "output").open("wb") as output:
            server = subprocess.Popen([*command, "web"], stdout=output, stderr=output, **common)
        wait_for(lambda: forge.api("GET", "version"), "Gitea answers", 120)
        yield forge
    finally:
        if server is not None:
            server.terminate()
            server.wait()
        shutil.rmtree(home, ignore_errors=True)
