"""The reference router beside a direct connection and PgBouncer (Debian's package).

``python -m tests.bench.bench_router [SECONDS [PROCESSES]]`` (5 and 2). One read by key on a shard
of the demo's shop, pgbench on the same machine. All are up at once and are asked in turn for each
number of clients, so that another load on the machine meets all of them. Login is by SCRAM and TLS
is off everywhere; PgBouncer is one process, all it can be without being started several times.

Direct and PgBouncer (session pooling, as the router's) go to one shard. The router serves both: by
a key (in a hint, as a literal, as a prepared statement's parameter) each client comes to both and
has a session at each, twice as many as PgBouncer's; by a shard's name it has as many. So has it by
a few keys of one shard, which PgBouncer is asked for as well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psycopg

from reconciler.edges.local.platform import LocalPlatform
from reconciler.model.hashing import position_of_key
from reconciler.model.names import Namespace, Scope, ScopeKey
from tests.edges.servers import free_port
from tests.local_home import fresh_home, member_with_role

CLIENTS = (1, 10, 100, 500)
SESSIONS = 600
ROWS = 20_000
ROOT = Path(__file__).resolve().parents[2]
READ = "SELECT name FROM customers WHERE id = :k;"
FEW = tuple(islice((k for k in range(1, ROWS) if position_of_key("bigint", str(k)) < 1 << 63), 8))
"""Keys of the first shard."""
_PICK = " ".join(f"WHEN :i = {index} THEN {key}" for index, key in enumerate(FEW))
SCRIPTS = {
    "few": f"\\set i random(0, {len(FEW) - 1})\n\\set k CASE {_PICK} END\n{READ}\n",
    "hint": f"\\set k random(1, {ROWS})\n/* shard_key: :k */ {READ}\n",
    "shard": f"\\set k random(1, {ROWS})\n/* shard: s0 */ {READ}\n",
    "plain": f"\\set k random(1, {ROWS})\n{READ}\n",
}
_FIGURES = re.compile(r"latency average = ([\d.]+) ms.*?tps = ([\d.]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    port: int
    script: str
    mode: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Milliseconds a read took, and reads a second."""

    ms: float
    rate: float


def shardwright(home: Path, *words: str) -> None:
    command = [sys.executable, "-m", "reconciler.cli.main", *words]
    environment = {**os.environ, "SHARDWRIGHT_HOME": str(home)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


@contextmanager
def started(command: list[str], log: Path, port: int, **environment: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=out, stderr=out
        )
    try:
        _await(port, log)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _await(port: int, log: Path) -> None:
    for _ in range(200):
        if subprocess.run(["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode < 2:
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def bouncer(folder: Path, port: int, shard: int, password: str) -> list[str] | None:
    """Write PgBouncer's configuration and return its command; None when it is not installed."""
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        return None
    folder.mkdir()
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    (folder / "users").write_text(f'"shop_app" "{password}"\n')
    (folder / "ini").write_text(
        f"[databases]\nshop = host=127.0.0.1 port={shard} dbname=shop\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = scram-sha-256\n"
        f"auth_file = {folder}/users\npool_mode = session\ndefault_pool_size = {SESSIONS}\n"
        f"max_client_conn = 2000\n"
        f"unix_socket_dir =\nlogfile =\n"
    )
    as_user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return [program, *as_user, str(folder / "ini")]


def measure(target: Target, clients: int, seconds: int, folder: Path, password: str) -> Seen:
    """Measure once all sessions are open at the shards; a router that has them keeps them."""
    script = folder / f"{target.script}.sql"
    script.write_text(SCRIPTS[target.script])
    _pgbench(target, clients, ["-t", "5"], script, password)
    return _pgbench(target, clients, ["-T", str(seconds + clients // 50)], script, password)


def _pgbench(target: Target, clients: int, until: list[str], script: Path, password: str) -> Seen:
    command = [
        "pgbench", "-n", "-h", "127.0.0.1", "-p", str(target.port), "-U", "shop_app", "-f",
        str(script), "-M", target.mode, "-c", str(clients), "-j", str(min(clients, 2)),
        *until, "shop",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "PGPASSWORD": password}, capture_output=True, text=True
    )
    found = _FIGURES.search(done.stdout)
    if done.returncode or found is None:
        raise AssertionError(f"{target.name}, {clients} clients: {done.stderr[-300:]}")
    return Seen(float(found[1]), float(found[2]))


def fill(home: Path) -> None:
    """Put the same rows on both shards; guards are for writers, and replica mode has none."""
    platform = LocalPlatform(home)
    for name in ("shop-s0", "shop-s1"):
        key = ScopeKey(Namespace("default"), Scope(name))
        endpoint = member_with_role(home, key, "leader").endpoint
        login = platform.credential(key, "superuser")
        with psycopg.connect(
            host=endpoint.host, port=endpoint.postgres_port, user=login.role,
            password=login.password, dbname="shop",
        ) as session:  # fmt: skip
            session.execute("SET session_replication_role = replica")
            session.execute(
                "INSERT INTO customers (id, name, email, country)"
                f" SELECT n, 'Customer ' || n, 'e', 'AT' FROM generate_series(1, {ROWS}) n"
            )
            session.execute("ANALYZE customers")


def main(arguments: list[str]) -> None:
    seconds, processes = (*map(int, arguments), *(5, 2)[len(arguments) :])
    with fresh_home() as home:
        specs = home.parent / "specs"
        shutil.copytree(ROOT / "specs" / "shop", specs)
        spec = specs / "shop.yaml"
        parameters = f'parameters:\n      max_connections: "{2 * SESSIONS}"'
        spec.write_text(spec.read_text().replace("parameters:", parameters))
        shardwright(home, "platform", "up")
        shardwright(home, "apply", "-f", str(specs), "--yes", "--quiet")
        fill(home)
        platform, key = LocalPlatform(home), ScopeKey(Namespace("default"), Scope("shop-s0"))
        password = platform.credential(key, "shop_app").password
        shard = member_with_role(home, key, "leader").endpoint.postgres_port
        compare(home, seconds, processes, shard, password)


def compare(home: Path, seconds: int, processes: int, shard: int, password: str) -> None:
    """Ask all in turn; a shard takes twice SESSIONS."""
    folder = home.parent
    router, pooler = free_port(), free_port()
    targets = [Target("direct", shard, "plain", mode) for mode in ("simple", "prepared")]
    serve = [sys.executable, "-m", "reconciler.cli.main", "router", "run", "shop"]
    serve += ["--listen", f"127.0.0.1:{router}", "--processes", str(processes),
              "--backends-max", str(SESSIONS)]  # fmt: skip
    with ExitStack() as up:
        if command := bouncer(folder / "bouncer", pooler, shard, password):
            up.enter_context(started(command, folder / "bouncer.log", pooler))
            targets += [Target("pgbouncer", pooler, "plain", m) for m in ("simple", "prepared")]
            targets.append(Target("pgbouncer, few keys", pooler, "few", "prepared"))
        else:
            print("pgbouncer is not installed: apt-get install pgbouncer")
        log = folder / "router.log"
        up.enter_context(started(serve, log, router, SHARDWRIGHT_HOME=str(home)))
        targets += [
            Target("router, by shard", router, "shard", "simple"),
            Target("router, by hint", router, "hint", "simple"),
            Target("router, by literal", router, "plain", "simple"),
            Target("router, by parameter", router, "plain", "prepared"),
            Target("router, by parameter, few keys", router, "few", "prepared"),
        ]
        for clients in CLIENTS:
            report(targets, clients, seconds, folder, password)


def report(targets: list[Target], clients: int, seconds: int, folder: Path, password: str) -> None:
    """Print what each did, and beside PgBouncer in the same mode and with as few keys."""
    yardsticks: dict[tuple[str, bool], Seen] = {}
    for target in targets:
        seen = measure(target, clients, seconds, folder, password)
        like = (target.mode, target.script == "few")
        if target.name.startswith("pgbouncer"):
            yardsticks[like] = seen
        yardstick = yardsticks.get(like)
        beside = f"{seen.rate / yardstick.rate:6.2f} x" if yardstick else ""
        name = f"{target.name}, {target.mode}"
        print(f"{clients:4} clients  {name:42}{seen.ms:9.3f} ms{seen.rate:9.0f}/s{beside}")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
