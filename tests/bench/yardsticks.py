"""How else a shard's rows could come to another server, and how long that takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from reconciler.model.platform import Credential, Endpoint


@dataclass(frozen=True)
class Place:
    """A database of a server, as its superuser reaches it."""

    endpoint: Endpoint
    superuser: Credential
    database: str

    @property
    def conninfo(self) -> str:
        """How a subscription reaches it."""
        return make_conninfo(
            host=self.endpoint.host,
            port=self.endpoint.postgres_port,
            dbname=self.database,
            user=self.superuser.role,
            password=self.superuser.password,
            sslmode="require" if self.endpoint.postgres_tls else "disable",
        )

    def connect(self) -> psycopg.Connection[Any]:
        """Open an autocommit session."""
        return psycopg.connect(self.conninfo, autocommit=True)


def timed(what: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def tablesync(source: Place, target: Place, filters: Sequence[str]) -> None:
    """Copy by one worker, the target's indexes there: how it is usually done.

    ``filters`` are tables, each with the condition of the rows that go.
    """
    with source.connect() as connection:
        connection.execute(f"CREATE PUBLICATION yardstick FOR TABLE {', '.join(filters)}".encode())
    with target.connect() as connection:
        connection.execute("ALTER SYSTEM SET max_sync_workers_per_subscription = 1")
        connection.execute("SELECT pg_reload_conf()")
        create = "CREATE SUBSCRIPTION yardstick CONNECTION {} PUBLICATION yardstick"
        connection.execute(sql.SQL(create).format(sql.Literal(source.conninfo)))
        query = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'"
        while connection.execute(query).fetchone() != (0,):
            time.sleep(0.05)
        connection.execute("ANALYZE")
        connection.execute("DROP SUBSCRIPTION yardstick")
    with source.connect() as connection:
        connection.execute("DROP PUBLICATION yardstick")


def dump_and_restore(source: Place, target: Place, programs: Path) -> None:
    """Pipe the whole schema public from one to the other."""
    dump = subprocess.Popen(
        _at(source, programs / "pg_dump", "-Fc", "-Z0", "--schema=public", source.database),
        stdout=subprocess.PIPE,
        env=_environment(source),
    )
    _restore(target, programs, stdin=dump.stdout)
    assert dump.wait() == 0
    with target.connect() as connection:
        connection.execute("ANALYZE")  # as after a move, and after tablesync


def dump_then_restore(source: Place, target: Place, programs: Path, folder: Path) -> None:
    """Dump the whole schema public into a folder, then restore it, each with two workers."""
    many = ("-Fd", "-Z0", "--jobs=2", "--schema=public", f"--file={folder}", source.database)
    dump = _at(source, programs / "pg_dump", *many)
    subprocess.run(dump, env=_environment(source), check=True)
    _restore(target, programs, "--jobs=2", str(folder))
    shutil.rmtree(folder)
    with target.connect() as connection:
        connection.execute("ANALYZE")


def _restore(target: Place, programs: Path, *more: str, stdin: IO[bytes] | None = None) -> None:
    options = ("--clean", "--if-exists", f"--dbname={target.database}", *more)
    restore = _at(target, programs / "pg_restore", *options)
    subprocess.run(
        restore, stdin=stdin, env=_environment(target), check=False, stderr=subprocess.DEVNULL
    )


def _at(place: Place, program: Path, *more: str) -> list[str]:
    at = place.endpoint
    where = [f"--host={at.host}", f"--port={at.postgres_port}"]
    return [str(program), *where, f"--username={place.superuser.role}", *more]


def _environment(place: Place) -> dict[str, str]:
    return {**os.environ, "PGPASSWORD": place.superuser.password}


def copy_files(folder: Path, size: int) -> float:
    """Return the seconds to copy as many bytes from one file to another, and sync them."""
    one, other = folder / "floor.a", folder / "floor.b"
    with one.open("wb") as file:
        for _ in range(size // 1_048_576 + 1):
            file.write(os.urandom(1_048_576))
    os.sync()
    with one.open("rb") as file, other.open("wb") as into:
        begun = time.perf_counter()
        shutil.copyfileobj(file, into, 1_048_576)
        into.flush()
        os.fsync(into.fileno())
        seconds = time.perf_counter() - begun
    one.unlink()
    other.unlink()
    return seconds
