"""The reference router, run as a user runs it, and what an application needs to connect there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reconciler.demo.shards import read_map
from reconciler.engine.world import World
from reconciler.model.names import DatabaseKey, ScopeKey, app_role

STOP_S = 30
_PORT = re.compile(r":(\d+)$")


def router_command(database: DatabaseKey) -> tuple[str, ...]:
    """Return the words of the command."""
    return ("router", "run", database.name, "--listen", "127.0.0.1:0")


@contextmanager
def running_router(home: Path, world: World, database: DatabaseKey) -> Iterator[dict[str, Any]]:
    """Run a router of a database; give the options of a connection to it."""
    running = subprocess.Popen(
        [sys.executable, "-m", "reconciler.cli.main", *router_command(database)],
        env={**os.environ, "SHARDWRIGHT_HOME": str(home)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert running.stdout is not None  # noqa: S101
        said = running.stdout.readline().strip()
        port = _PORT.search(said)
        if port is None:
            raise OSError(f"the router did not start: {said or 'it said nothing'}")
        first = read_map(world, database).owners[0].scope
        login = world.eyes.platform.credential(
            ScopeKey(database.namespace, first), app_role(database.name)
        )
        yield {
            "host": "127.0.0.1", "port": int(port[1]), "dbname": database.name,
            "user": login.role, "password": login.password,
        }  # fmt: skip
    finally:
        running.terminate()
        try:
            running.wait(STOP_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        if running.stdout:
            running.stdout.close()
