"""PostgreSQL's JDBC driver through the router; collected where Java and the driver are at hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.router.conftest import JDBC_JARS, PASSWORD, RunningRouter, key_at
from tests.sdk.scene import Scene


def test_a_jdbc_application_works_through_it(router: RunningRouter, scene: Scene) -> None:
    source = Path(__file__).with_name("JdbcClient.java")
    url = f"jdbc:postgresql://127.0.0.1:{router.port}/{scene.map.database.name}"
    keys = [str(key_at(0)), str(key_at(1))]
    command = ["java", "-cp", str(JDBC_JARS[-1]), str(source), url, "client", PASSWORD, *keys]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == "done\n", done.stderr
    assert len(scene.rows(0)) == 10 + 1 + 2
    assert len(scene.rows(1)) == 10 + 1 + 300
