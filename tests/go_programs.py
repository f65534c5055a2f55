"""Programs that tests build from Go modules, kept in the user's cache by version."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHES = Path.home() / ".cache" / "shardwright-tests"


def can_build() -> bool:
    """Whether this machine has what a build needs."""
    return bool(shutil.which("go") and shutil.which("gcc"))


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Let one process at a time work on a cache, which is made."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(cache: Path, name: str, module: str, package: str, *flags: str) -> Path:
    """Return the program of a package, built the first time: some minutes on two cores.

    ``module`` is the go.mod of a module that requires it.
    """
    program = cache / name
    with locked(cache):
        if not program.exists():
            (cache / "go.mod").write_text(module)
            (cache / "tools.go").write_text(
                f'//go:build tools\n\npackage tools\n\nimport _ "{package}"\n'
            )
            go(cache, "mod", "tidy", "-e")
            go(cache, "build", *flags, "-o", "built", package)
            (cache / "built").rename(program)
    return program


def module_folder(cache: Path, path: str) -> Path:
    """Return where the sources of a module are that a cache's go.mod requires."""
    return Path(json.loads(go(cache, "list", "-m", "-json", path))["Dir"])


def go(cache: Path, *words: str) -> str:
    """Run the go command in a cache and return what it writes."""
    ended = subprocess.run(
        ["go", *words], cwd=cache, env=os.environ | {"CGO_ENABLED": "1", "GOFLAGS": "-mod=mod"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0 or words[:1] == ("mod",), ended.stderr[-3000:]
    return ended.stdout
