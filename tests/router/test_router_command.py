"""The router's command on the local platform: psql, pgbench, a killed primary, processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from reconciler.edges.local.lifecycle import status
from reconciler.edges.local.platform import LocalPlatform
from reconciler.model.names import Namespace, Scope, ScopeKey
from tests.local_home import fresh_home, member_with_role, wait_for
from tests.router.conftest import key_at
from tests.router.writers import PsycopgWriters

pytestmark = pytest.mark.platform
ROOT = Path(__file__).resolve().parents[2]
S0 = ScopeKey(Namespace("default"), Scope("shop-s0"))


@dataclass(slots=True)
class RouterCommand:
    """The running command, and the platform behind it."""

    home: Path
    port: int
    process: subprocess.Popen[str]
    password: str
    talk: Path

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "shop_app",
            "PGDATABASE": "shop",
            "PGPASSWORD": self.password,
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=120
        )
        return done.stdout + done.stderr

    def options(self) -> dict[str, object]:
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "shop_app",
            "password": self.password,
            "dbname": "shop",
        }


def shardwright(home: Path, *words: str) -> list[str]:
    os.environ["SHARDWRIGHT_HOME"] = str(home)
    return [sys.executable, "-m", "reconciler.cli.main", *words]


@pytest.fixture(scope="module")
def command() -> Iterator[RouterCommand]:
    with fresh_home() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDWRIGHT_HOME", str(home))
        specs = home.parent / "specs"
        shutil.copytree(ROOT / "specs" / "shop", specs)
        (specs / "schema" / "004_entry.sql").write_text(
            "CREATE TABLE entry (k bigint NOT NULL, id text NOT NULL, PRIMARY KEY (k, id));"
        )
        spec = (specs / "shop.yaml").read_text()
        (specs / "shop.yaml").write_text(
            spec.replace("customers: id\n", "customers: id\n      entry: k\n")
        )
        subprocess.run(shardwright(home, "platform", "up"), check=True)
        apply = ("apply", "-f", str(specs), "--yes", "--quiet")
        subprocess.run(shardwright(home, *apply), check=True)
        words = ("router", "run", "shop", "--listen", "127.0.0.1:0", "--processes", "2")
        talk = home.parent / "router.log"
        with talk.open("w") as log:
            process = subprocess.Popen(
                shardwright(home, *words), text=True, stdout=subprocess.PIPE, stderr=log
            )
        try:
            assert process.stdout is not None
            port = int(re.findall(r":(\d+)$", process.stdout.readline().strip())[0])
            password = LocalPlatform(home).credential(S0, "shop_app").password
            running = RouterCommand(home, port, process, password, talk)
            wait_for(lambda: "1" in running.run("psql", "-Atc", "SELECT 1"), "the router")
            yield running
        finally:
            process.terminate()
            process.wait(60)
            if process.stdout:
                process.stdout.close()


def test_it_says_who_may_log_in_and_where_the_password_is(command: RouterCommand) -> None:
    first = command.talk.read_text().splitlines()[0]
    _, _, file = first.partition(
        "clients of database shop log in as shop_app, with the password in "
    )
    assert Path(file).read_text().strip() == command.password
    assert command.password not in command.talk.read_text()


def test_psql_sees_rows_and_refusals(command: RouterCommand) -> None:
    insert = "INSERT INTO customers (id, name, email, country) VALUES (42, 'Ada', 'a', 'AT')"
    assert "INSERT 0 1" in command.run("psql", "-c", insert)
    assert command.run("psql", "-Atc", "SELECT name FROM customers WHERE id = 42") == "Ada\n"
    assert "shard_key" in command.run("psql", "-c", "SELECT * FROM customers")
    assert "countries" in command.run("psql", "-c", "\\d")


def test_the_map_is_told_in_each_routers_language(command: RouterCommand) -> None:
    def told(*words: str) -> str:
        return command.run(*shardwright(command.home, "router", "map", "shop", *words))

    assert "# write shop.map.json" in told()
    assert 'ROUTE TO "s1" FOR DISTRIBUTION shop;' in told("--for", "spqr")
    assert "RT010" in told("--for", "pgdog")
    steps = json.loads(told("--for", "pgdog", "--key-column", "hash", "-o", "json"))
    assert [step["step"] for step in steps] == ["WriteFile", *["RunStatements"] * 3]


def test_what_another_routers_steps_need_is_asked_for(
    command: RouterCommand, tmp_path: Path
) -> None:
    words = ("router", "follow", "shop", "--for", "pgdog", "--file", str(tmp_path / "pgdog.toml"))
    refused = subprocess.run(
        shardwright(command.home, *words, "--key-column", "hash"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "the steps of pgdog need --console" in refused.stderr


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_writes_in_every_protocol(
    command: RouterCommand, mode: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.sql"
    script.write_text(
        "\\set k random(1, 1000)\nBEGIN;\n"
        "INSERT INTO entry (k, id) VALUES (:k, gen_random_uuid()::text);\n"
        "SELECT count(*) FROM entry WHERE k = :k;\nCOMMIT;\n"
    )
    words = ("-n", "-f", str(script), "-M", mode, "-c", "6", "-j", "2", "-t", "50")
    told = command.run("pgbench", *words)
    assert "300/300" in told, told
    assert "failed transactions: 0" in told


def test_a_read_only_session_reads_at_a_standby(command: RouterCommand) -> None:
    ask = "SELECT pg_is_in_recovery()"
    for words in ("SET shardwright.read = 'standby'", "SET default_transaction_read_only = on"):
        said = command.run("psql", "-At", "-c", ask, "-c", words, "-c", ask)
        assert said.split() == ["f", "SET", "t"]


def test_every_process_takes_clients_and_cancels_for_the_others(command: RouterCommand) -> None:
    with psycopg.connect(**command.options(), autocommit=True) as client:  # type: ignore[arg-type]
        for _ in range(6):  # which process a cancel reaches is the kernel's choice
            sleeper = subprocess.Popen(
                ["psql", "-c", "SELECT pg_sleep(60)"], env=command.environment(),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            count = "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep.60' AND"
            text = f"/* shard: s0 */ {count} pid <> pg_backend_pid() AND state = 'active'"
            other = text.replace("s0", "s1")

            def sleeping() -> bool:
                rows = [client.execute(one.encode()).fetchone() for one in (text, other)]  # noqa: B023
                return any(row and row[0] for row in rows)

            wait_for(sleeping, "the sleeper")
            sleeper.send_signal(signal.SIGINT)
            said, _ = sleeper.communicate(timeout=60)
            assert "canceling statement due to user request" in said


def test_a_process_that_died_is_started_again(command: RouterCommand) -> None:
    parent = psutil.Process(command.process.pid)
    before = {child.pid for child in parent.children()}
    assert len(before) == 2
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(
        lambda: len({c.pid for c in parent.children() if c.status() != "zombie"} - before) == 2,
        "new processes",
    )
    wait_for(lambda: command.run("psql", "-Atc", "SELECT 1") == "1\n", "the router")


def test_a_killed_primary_costs_no_acknowledged_write(command: RouterCommand) -> None:
    keys = [key_at(0, n) for n in range(5)]
    with PsycopgWriters(command.options(), keys) as book:
        book.await_more(200)
        victim = member_with_role(command.home, S0, "leader").name
        part = next(p for p in status(command.home).parts if p.name.endswith(victim))
        assert part.pid is not None
        tree = psutil.Process(part.pid)
        for process in [tree, *tree.children(recursive=True)]:
            process.kill()
        book.await_more(400)
    assert not book.failures
    with psycopg.connect(**command.options(), autocommit=True) as client:  # type: ignore[arg-type]
        wanted = "SELECT k, id FROM entry WHERE k = %s AND id ~ '^[0-9]+-[0-9]+$'"
        rows = [row for key in keys for row in client.execute(wanted, [key]).fetchall()]
    book.check(rows)


def test_a_hang_up_reloads_and_a_termination_ends_it(command: RouterCommand) -> None:
    command.process.send_signal(signal.SIGHUP)
    assert command.run("psql", "-Atc", "SELECT 1") == "1\n"
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(60) == 0
