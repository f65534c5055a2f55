"""Calls of the real command, each in a process of its own and with an environment of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARDWRIGHT = [sys.executable, "-m", "reconciler.cli.main"]
DEADLINE_S = 240
SHOP = """\
apiVersion: shardwright.dev/v1alpha1
kind: ShardedDatabase
metadata: {name: shop, labels: {team: checkout}}
spec:
  postgres:
    version: "16"
    parameters: {work_mem: 16MB}
  schema: {files: [schema/*.sql]}
  sharding:
    type: bigint
    tables: {customers: id, orders: customer_id}
  defaults: {instances: 1, synchronous: false}
  shards:
    - {name: s0, keys: ["-80"]}
    - {name: s1, keys: ["80-"]}
"""
TABLES = """\
create table customers (id bigint primary key, name text not null);
create table orders (
  customer_id bigint not null references customers(id), id bigint, primary key (customer_id, id)
);
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it wrote to stdout, as JSON."""
        return json.loads(self.out)

    def told(self) -> str:
        """Return all it wrote, after making sure that no traceback is in it."""
        text = self.out + self.err
        assert "Traceback" not in text, text
        return text


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls the command in a folder, with a state folder and a home below it."""

    folder: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment: nothing of the one that runs the tests but PATH."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "SHARDWRIGHT_HOME": str(self.home),
        }

    def __call__(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Ended:
        """Run one call to its end."""
        done = subprocess.run(
            [*SHARDWRIGHT, *arguments], cwd=self.folder, input=stdin, capture_output=True,
            env=self.environment | environment, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a call, its output in pipes."""
        return subprocess.Popen(
            [*SHARDWRIGHT, *arguments], cwd=self.folder, env=self.environment | environment,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def on_terminal(self, *arguments: str, answers: list[tuple[str, str]]) -> Ended:
        """Run one call on a terminal; each answer is typed once its cue has been shown."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.folder)
            os.execve(  # noqa: S606 - the child of a terminal
                sys.executable, [*SHARDWRIGHT, *arguments],
                self.environment | {"TERM": "xterm", "COLUMNS": "100"},
            )  # fmt: skip
        shown, left = "", list(answers)
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    data = os.read(terminal, 65536)
                except OSError:  # EIO: the other end is closed
                    break
                shown += data.decode(errors="replace")
            if left and left[0][0] in shown:
                os.write(terminal, left.pop(0)[1].encode())
        os.close(terminal)
        return Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown, "")

    def write_specs(self, text: str = SHOP, tables: str = TABLES) -> None:
        """Write a folder of specs."""
        (self.folder / "specs" / "schema").mkdir(parents=True, exist_ok=True)
        (self.folder / "specs" / "shop.yaml").write_text(text)
        (self.folder / "specs" / "schema" / "001.sql").write_text(tables)
