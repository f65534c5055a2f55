"""A state file of a live system: a plan against it is the live plan, and no secret is in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.calls import Caller
from tests.e2e.scene import Scene
from tests.e2e.test_daemon import git

pytestmark = pytest.mark.platform


def _secrets(home: Path) -> set[str]:
    """Return every password and private key line that the platform keeps, whatever its file."""
    found: set[str] = set()
    for path in home.rglob("*"):
        if path.is_file() and "data" not in path.parts and path.stat().st_mode & 0o077 == 0:
            text = path.read_bytes()[:100_000].decode("utf-8", "replace")
            found |= _words(text)
    return found


def _words(text: str) -> set[str]:
    """Return what looks like a password or a piece of a key: 20 and more letters and digits."""
    words = "".join(c if c.isalnum() or c in "+/_-=" else " " for c in text).split()
    return {word for word in words if len(word) >= 20 and any(c.isdigit() for c in word)}


def test_a_plan_against_an_exported_state_is_the_live_plan_and_no_secret_is_in_it(
    scene: Scene, tmp_path: Path
) -> None:
    call = scene.call
    scene.write("shop")
    scene.applied()
    file = tmp_path / "state.json"
    ended = call("state", "export", "-o", str(file))
    assert ended.code == 0, ended.told()
    assert file.stat().st_mode & 0o077 == 0

    passwords = {
        scene.login("shop").superuser.password,
        scene.login("shop").patroni_api.password,
    }
    assert all(len(password) > 10 for password in passwords)
    text = file.read_text()
    for secret in passwords:
        assert secret not in text
    known = _secrets(scene.home)
    assert known & passwords == passwords or len(known) > 4, "the search finds passwords"
    hits = {word for word in known if word in text}
    assert not hits - {json.loads(text)["by"]}, "nothing of a private file is in it"

    scene.edit("shop", "work_mem: 16MB", "work_mem: 21MB")
    live = call("plan", "-f", str(scene.specs), "-o", "name")
    filed = call("plan", "-f", str(scene.specs), "-o", "name", "--state", str(file))
    assert live.out == filed.out
    assert "configure" in filed.out

    # As a pull request, against what is live: planned as the source that applied it.
    git(scene.specs, "init", "-q", "-b", "main")
    git(scene.specs, "add", "-A")
    git(scene.specs, "commit", "-q", "-m", "base")
    git(scene.specs, "checkout", "-q", "-b", "topic")
    scene.edit("shop", "work_mem: 21MB", "work_mem: 22MB")
    git(scene.specs, "commit", "-q", "-am", "more")
    here = Caller(scene.specs, scene.home)
    proposal = here("plan", "--base", "main")
    assert proposal.code == 0, proposal.told()
    assert "work_mem" in proposal.out
    assert "takes it over" not in proposal.told()
    assert subprocess.run(["git", "status", "--porcelain"], cwd=scene.specs, check=True,
                          capture_output=True).stdout == b""  # fmt: skip
