"""One apply in a process of its own, which asks its parent at every act and every journal line.

``python -m tests.crash_matrix.applier HOME FOLDER`` writes ``AT before copy`` and goes on once a
line has come in; so the parent may do anything at a place that it chose, ``kill -9`` included.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from reconciler.engine.ports import Mover, Store
from reconciler.engine.records import OPERATIONS
from reconciler.model.access import Lease, Versioned
from tests.e2e.scene import Scene

Changes = dict[str, tuple[bytes | None, int | None]]


@dataclass
class Gate:
    """Where the apply is, told to the parent; the answer is waited for."""

    _turn: threading.Lock = field(default_factory=threading.Lock)

    def at(self, place: str) -> None:
        with self._turn:
            sys.stdout.write(f"AT {place}\n")
            sys.stdout.flush()
            if not sys.stdin.readline():
                raise SystemExit("the parent is gone")


@dataclass
class GatedMover:
    """The real mover; its acts are told before and after."""

    real: Mover
    gate: Gate

    def __getattr__(self, name: str) -> Callable[..., Any]:
        act = getattr(self.real, name)
        if name in ("preflight", "seed_facts", "schema_objects", "number_blocks", "view"):
            return cast(Callable[..., Any], act)

        def gated(*values: object) -> object:
            self.gate.at(f"before {name}")
            result = act(*values)
            self.gate.at(f"after {name}")
            return result

        return gated


@dataclass
class GatedStore:
    """The real store; its writes are told before and after."""

    real: Store
    gate: Gate

    def read(self, prefix: str) -> dict[str, Versioned]:
        return self.real.read(prefix)

    def write(self, changes: Changes, lease: Lease) -> int:
        name = name_of(changes)
        self.gate.at(f"before {name}")
        version = self.real.write(changes, lease)
        self.gate.at(f"after {name}")
        return version

    def acquire(self, key: str, owner: str, ttl_s: int) -> Lease:
        return self.real.acquire(key, owner, ttl_s)

    def keep_alive(self, lease: Lease) -> None:
        self.real.keep_alive(lease)

    def release(self, lease: Lease) -> None:
        self.real.release(lease)


def name_of(changes: Changes) -> str:
    """Name a write by what it says: ``map``, ``stage switched``, ``end``, ``line begun move``."""
    key, (value, _) = next(iter(changes.items()))
    kind = key.split("/")[-2 if "/moves/" in key else -1]
    if value is None:
        return "end" if kind == "moves" else "removal"
    data = json.loads(value)
    if kind == "moves":
        return f"stage {data['stage']}"
    if key.startswith(OPERATIONS) and "/step/" in key:
        return f"line {data['state']} {data['kind']}"
    return "map" if kind == "routing" else kind


def main(home: str, folder: str) -> None:
    scene, gate = Scene(Path(home), Path(folder)), Gate()
    world = scene.storing(lambda store: GatedStore(store, gate))
    ended = scene.apply(replace(world, mover=cast(Mover, GatedMover(world.mover, gate))))
    print(f"failed: {scene.failures()}" if ended.failed else "done", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
