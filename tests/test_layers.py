"""Each contract of pyproject.toml fails when an import breaks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = "Layers: the shell asks, the engine and the edges act, the core decides"
PURE = "The core does no I/O, has no clock and no logging"
EDGES = "Edges are unaware of one another"

BREACHES = [
    ("model/names.py", "import reconciler.spec.quantities", LAYERS),
    ("spec/quantities.py", "import reconciler.diff.changes", LAYERS),
    ("diff/scopes.py", "import reconciler.plan.graph", LAYERS),
    ("plan/graph.py", "import reconciler.policy.windows", LAYERS),
    ("policy/windows.py", "import reconciler.workflow.rollout", LAYERS),
    ("workflow/rollout.py", "import reconciler.settings", LAYERS),
    ("settings.py", "import reconciler.engine.ports", LAYERS),
    ("edges/git_tree.py", "import reconciler.engine.ports", LAYERS),
    ("engine/ports.py", "import reconciler.edges.git", LAYERS),
    ("engine/loop.py", "import reconciler.wiring", LAYERS),
    ("wiring.py", "import reconciler.cli.table", LAYERS),
    ("cli/table.py", "import reconciler.demo.writer", LAYERS),
    ("model/keyspace.py", "import time", PURE),
    ("spec/quantities.py", "import pathlib", PURE),
    ("diff/diff.py", "import logging", PURE),
    ("plan/planner.py", "import random", PURE),
    ("workflow/rollout.py", "import asyncio", PURE),
    ("policy/windows.py", "import socket", PURE),
    ("model/moves.py", "from os import path", PURE),
    ("plan/simulate.py", "import subprocess", PURE),
    ("diff/keys.py", "import psycopg", PURE),
    ("edges/folder.py", "import reconciler.edges.patroni", EDGES),
    ("edges/etcd.py", "import reconciler.edges.git", EDGES),
]


def broken_contracts(package: Path) -> set[str]:
    """The names of the contracts that lint-imports finds broken in a copy of the package."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()",
         "--no-cache"],
        cwd=package, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(package), "COLUMNS": "200"},
    )  # fmt: skip
    kept = [line for line in done.stdout.splitlines() if line.endswith((" KEPT", " BROKEN"))]
    assert len(kept) >= 3, done.stdout + done.stderr
    broken = {line.removesuffix(" BROKEN") for line in kept if line.endswith(" BROKEN")}
    assert bool(broken) == bool(done.returncode)
    return broken


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that a test may break."""
    folder = tmp_path_factory.mktemp("layers")
    shutil.copy(ROOT / "pyproject.toml", folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "reconciler", folder / "reconciler", ignore=ignored)
    return folder


def test_the_package_keeps_every_contract(package: Path) -> None:
    assert broken_contracts(package) == set()


@pytest.mark.parametrize(("module", "line", "contract"), BREACHES)
def test_an_import_that_should_not_be_breaks_its_contract(
    package: Path, module: str, line: str, contract: str
) -> None:
    file = package / "reconciler" / module
    text = file.read_text()
    file.write_text(f"{text}\n{line}\n")
    try:
        assert contract in broken_contracts(package)
    finally:
        file.write_text(text)
