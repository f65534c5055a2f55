"""The runner of Gitea's actions, as a command: the library that ``act_runner`` is made of.

Built from its Go module; ``act_runner`` itself is in no registry. Jobs run on this machine, in a
copy of a clone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests import go_programs
from tests.go_programs import CACHES

VERSION = "0.261.7"
MODULE = f"""\
module runner

go 1.25.0

require github.com/nektos/act v0.2.61

replace github.com/nektos/act => gitea.com/gitea/act v{VERSION}-0.20251003180512-ac6e4b751763
"""
ROOT = Path(__file__).parents[1]
ACTION = "shardwright/shardwright@main"


def build() -> Path:
    """Return the program, built the first time."""
    return go_programs.build(CACHES / f"act-{VERSION}", "act", MODULE, "github.com/nektos/act")


def clean_clone(folder: Path) -> Path:
    """Return a clone of this repository with its files as they are, and none that Git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        ("-c", "user.name=Kim", "-c", "user.email=kim@e.org", "commit", "-q", "-m", "all"),
    ):
        subprocess.run(["git", "-c", "commit.gpgsign=false", *words], cwd=folder, check=True)
    return folder


def path_without_us() -> str:
    """Return the PATH without the folders where a shardwright is installed."""
    folders = os.environ["PATH"].split(":")
    return ":".join(one for one in folders if not (Path(one) / "shardwright").exists())


def run_workflow(
    workflow: Path, clone: Path, home: Path, event: dict[str, Any], secrets: dict[str, str],
    variables: dict[str, str], forge: str, **environment: str,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a workflow for a pull request of a forge; the action comes from a clean clone of ours."""
    home.mkdir(parents=True)
    (home / "event.json").write_text(json.dumps(event))
    action = clean_clone(home / "action")
    options = [
        "--github-instance",
        forge,
        "-W",
        str(workflow),
        "-e",
        str(home / "event.json"),
        "-C",
        str(clone),
    ]
    options += ["-P", "ubuntu-latest=-self-hosted", "--local-repository", f"{ACTION}={action}"]
    for flag, pairs in (("--secret", secrets), ("--var", variables), ("--env", environment)):
        options += [word for name, value in pairs.items() for word in (flag, f"{name}={value}")]
    return subprocess.run(
        [str(build()), "pull_request", *options], cwd=clone, check=False, capture_output=True,
        text=True, timeout=540,
        env={**os.environ, "HOME": str(home), "PATH": path_without_us()},
    )  # fmt: skip
