"""A real Prometheus for the tests: Debian's, and a page of numbers that it scrapes.

The package is unpacked in the cache of the user, not installed: nothing of it runs by itself.
"""

from __future__ import annotations

import fcntl
import http.server
import json
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.model.platform import TlsFiles
from tests.edges.servers import free_port, make_certificates
from tests.git_servers import Server
from tests.local_home import wait_for

CACHE = Path.home() / ".cache" / "shardwright-tests" / "prometheus"
CONFIG = """\
global: {{scrape_interval: 200ms}}
scrape_configs:
  - job_name: shop
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def binary() -> Path:
    """Return the program, fetched once. Raises CalledProcessError where it cannot be had."""
    installed = shutil.which("prometheus")
    if installed:
        return Path(installed)
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / "usr" / "bin" / "prometheus"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _fetch()
    return program


def _fetch() -> None:
    get = ["apt-get", "download", "-q", "prometheus"]
    if subprocess.run(get, cwd=CACHE, capture_output=True, check=False).returncode:
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)  # no lists yet
        subprocess.run(get, cwd=CACHE, check=True, capture_output=True)
    (package,) = CACHE.glob("prometheus_*.deb")
    folder = CACHE / "unpacked"
    subprocess.run(["dpkg", "-x", package, folder], check=True)
    (folder / "usr").rename(CACHE / "usr")
    package.unlink()


@dataclass
class Metrics:
    """What an application would tell of itself; ``numbers`` may be changed at any time."""

    numbers: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def served(self) -> Iterator[int]:
        """Serve them on a port of loopback."""
        told = self

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = "".join(f"{name} {value}\n" for name, value in told.numbers.items())
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield int(server.server_address[1])
            finally:
                server.shutdown()
                thread.join()


@dataclass
class PrometheusServer:
    """A Prometheus that scrapes ``metrics`` five times a second."""

    folder: Path
    metrics: Metrics
    port: int = field(default_factory=free_port)
    scraped: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.folder / "prometheus.yml"
        config.write_text(CONFIG.format(port=self.scraped))
        with (self.folder / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(binary()), f"--config.file={config}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        wait_for(self.answers, "Prometheus answers")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def answers(self) -> bool:
        return self.value("vector(1)") == 1

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression, None when there is none, or no answer."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=5) as answer:  # noqa: S310
                found = json.load(answer)["data"]["result"]
        except OSError:
            return None
        return float(found[0]["value"][1]) if found else None

    def tell(self, name: str, number: float) -> None:
        """Let the application say something else, and wait until it is scraped."""
        self.metrics.numbers[name] = number
        wait_for(lambda: self.value(name) == number, f"{name} is scraped as {number}")


class Guard(Server):
    """nginx before a Prometheus: TLS, and a bearer token."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self, behind: str, token: str) -> TlsFiles:
        """Start with new certificates by a new authority, which are returned."""
        files = make_certificates(self.home / "tls")
        refuse = "if ($bearer_is_right = 0) { return 401; }"
        self.run_nginx(token, f"location / {{ {refuse} proxy_pass {behind}; }}")
        return files


@contextmanager
def running_prometheus(folder: Path, **numbers: float) -> Iterator[PrometheusServer]:
    """Run one in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(dict(numbers))
    with metrics.served() as port:
        server = PrometheusServer(folder, metrics, scraped=port)
        try:
            server.start()
            yield server
        finally:
            server.stop()
