"""Real servers of Git for the tests: OpenSSH, and nginx with git's own http-backend over TLS.

They run as the user of the test on ports of their own, and can be stopped and started again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.edges.servers import free_port, make_certificates
from tests.local_home import wait_for

BACKEND = Path("/usr/lib/git-core/git-http-backend")
USER, PASSWORD, TOKEN = "kim", "not-a-secret-2", "not-a-token-2"

SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {home}/host_key
AuthorizedKeysFile {home}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin forced-commands-only
"""
NGINX = """\
daemon off;
pid {home}/nginx.pid;
error_log {home}/nginx.log;
{user}
worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  fastcgi_temp_path {home}/fastcgi;
  proxy_temp_path {home}/proxy;
  scgi_temp_path {home}/scgi;
  uwsgi_temp_path {home}/uwsgi;
  map $http_authorization $bearer_is_right {{ "Bearer {token}" 1; default 0; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {home}/tls/own.pem;
    ssl_certificate_key {home}/tls/own.key;
{inside}  }}
}}
"""
GIT = """\
    client_max_body_size 0;
    set $repository $uri;
    fastcgi_param PATH_INFO $repository;
    fastcgi_param REQUEST_METHOD $request_method;
    fastcgi_param QUERY_STRING $query_string;
    fastcgi_param CONTENT_TYPE $content_type;
    fastcgi_param CONTENT_LENGTH $content_length;
    fastcgi_param SCRIPT_FILENAME {backend};
    fastcgi_param GIT_PROJECT_ROOT {repositories};
    fastcgi_param GIT_HTTP_EXPORT_ALL "";
    fastcgi_param REMOTE_USER $remote_user;
    fastcgi_read_timeout 300s;
    fastcgi_max_temp_file_size 0;
    location / {{
      auth_basic "git";
      auth_basic_user_file {home}/passwords;
      fastcgi_pass unix:{home}/cgi;
    }}
    location ~ ^/bearer(/.*)$ {{
      if ($bearer_is_right = 0) {{ return 401; }}
      set $repository $1;
      fastcgi_pass unix:{home}/cgi;
    }}
"""


def spec(message: str) -> str:
    """Return a spec that needs no database."""
    return (
        "apiVersion: shardwright.dev/v1alpha1\nkind: Policy\nmetadata: {name: stays}\nspec:\n"
        f'  rules: [{{name: stays, at: [spec], require: "true", message: {message}}}]\n'
    )


def missing() -> str:
    """Return the names of Debian's packages that are not there, empty when all are."""
    needed = {
        "openssh-server": shutil.which("sshd", path="/usr/sbin:" + os.environ["PATH"]),
        "nginx-light": shutil.which("nginx", path="/usr/sbin:" + os.environ["PATH"]),
        "fcgiwrap": shutil.which("fcgiwrap", path="/usr/sbin:" + os.environ["PATH"]),
    }
    return " ".join(package for package, path in needed.items() if not path)


def keygen(file: Path) -> Path:
    """Make a key pair; return the private one's file."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(file)]
    subprocess.run(command, check=True)
    return file


def public(key: Path) -> str:
    """Return type and key, as authorized_keys and known_hosts have them."""
    return key.with_name(f"{key.name}.pub").read_text().strip()


@dataclass
class Server:
    """Programs that run in a folder, and a port where they answer."""

    home: Path
    repositories: Path = Path()
    port: int = field(default_factory=free_port)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def stop(self) -> None:
        for process in self.running:
            os.killpg(process.pid, signal.SIGTERM)  # fcgiwrap leaves its workers to themselves
            process.wait()
        self.running.clear()

    def run(self, *command: str) -> None:
        """Run a program of it until ``stop``."""
        path = f"/usr/sbin:{os.environ['PATH']}"
        program = str(shutil.which(command[0], path=path))
        with (self.home / "output").open("ab") as output:
            self.running.append(
                subprocess.Popen(
                    [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env={"PATH": path, "HOME": str(self.home)}, start_new_session=True,
                )
            )  # fmt: skip

    def await_port(self) -> None:
        """Wait until it accepts connections."""

        def answers() -> bool:
            assert all(p.poll() is None for p in self.running), (self.home / "output").read_text()
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True

        wait_for(answers, f"a server on port {self.port}", 60)

    def run_nginx(self, token: str, inside: str) -> None:
        """Run nginx with the certificate in ``tls``; ``inside`` is what its server does."""
        config = self.home / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            NGINX.format(home=self.home, port=self.port, user=user, token=token, inside=inside)
        )
        self.run("nginx", "-c", str(config), "-p", str(self.home))
        self.await_port()


class SshServer(Server):
    """OpenSSH, which lets in the keys of ``let_in`` to read repositories, and for nothing else."""

    @property
    def host_key(self) -> Path:
        return self.home / "host_key"

    def address(self, name: str) -> str:
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True)
        return f"ssh://{user.stdout.strip()}@127.0.0.1:{self.port}{self.repositories}/{name}.git"

    def known(self, host_key: Path | None = None) -> str:
        """Return the line of known_hosts for this server with a key, its own by default."""
        return f"[127.0.0.1]:{self.port} {public(host_key or self.host_key)}\n"

    def let_in(self, *keys: Path) -> None:
        serve = "command=\"sh -c 'eval git-upload-pack ${SSH_ORIGINAL_COMMAND#git-upload-pack }'\""
        lines = "".join(f"restrict,{serve} {public(key)}\n" for key in keys)
        (self.home / "authorized_keys").write_text(lines)

    def start(self) -> None:
        if not self.host_key.exists():
            keygen(self.host_key)
            self.let_in()
        if os.geteuid() == 0:  # it wants this one folder, as its package makes it at a start
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.home / "sshd_config"
        config.write_text(SSHD.format(port=self.port, home=self.home))
        self.run("sshd", "-D", "-e", "-f", str(config))
        self.await_port()


class HttpsServer(Server):
    """nginx before git's http-backend, with a password; below ``/bearer`` with a token."""

    @property
    def ca(self) -> Path:
        return self.home / "tls" / "ca.pem"

    def address(self, name: str, below: str = "") -> str:
        return f"https://127.0.0.1:{self.port}{below}/{name}.git"

    def set_password(self, password: str) -> None:
        (self.home / "passwords").write_text(f"{USER}:{{PLAIN}}{password}\n")

    def start(self) -> None:
        if not self.ca.exists():
            make_certificates(self.home / "tls")
            self.set_password(PASSWORD)
        inside = GIT.format(home=self.home, backend=BACKEND, repositories=self.repositories)
        (self.home / "cgi").unlink(missing_ok=True)
        self.run("fcgiwrap", "-c", "2", "-s", f"unix:{self.home}/cgi")
        self.run_nginx(TOKEN, inside)
        wait_for((self.home / "cgi").exists, "the socket of fcgiwrap", 60)


@dataclass(frozen=True)
class Served:
    """A bare repository that is served, and the work tree that it is pushed from."""

    work: Path
    bare: Path

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=Kim", "-c", "user.email=kim@e.org", "-c", "commit.gpgsign=false"]
        ended = subprocess.run(
            ["git", *who, *words], cwd=self.work, capture_output=True, text=True, check=False,
            env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null"},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def push(self, text: str, *words: str) -> str:
        """Commit another text of the one spec, and push it by force; return the commit."""
        (self.work / "shop.yaml").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "change", *words)
        self.git("push", "-q", "--force", str(self.bare), "HEAD:main")
        return self.git("rev-parse", "HEAD")


def make_served(folder: Path, repositories: Path, name: str) -> Served:
    """Make a repository with one spec on its branch main."""
    served = Served(folder / name, repositories / f"{name}.git")
    served.work.mkdir()
    served.git("init", "-q", "-b", "main")
    served.git("init", "-q", "--bare", "-b", "main", str(served.bare))
    served.git("--git-dir", str(served.bare), "config", "receive.denyDeleteCurrent", "ignore")
    served.push(spec("one"))
    return served


@contextlib.contextmanager
def serving(server: Server) -> Iterator[None]:
    """Stop a server at the end."""
    try:
        yield
    finally:
        server.stop()
