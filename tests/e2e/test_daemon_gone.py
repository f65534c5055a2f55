"""What no source holds: a status of a daemon that is gone, a database that changes its source."""

from __future__ import annotations

import fcntl
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import TextIO

import pytest

from tests.cli.calls import SHOP, TABLES
from tests.e2e.scene import spec_text
from tests.e2e.test_daemon import World, git, world
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
__all__ = ["world"]

HEAD = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {{name: reconciler}}
spec:
  interval: 1s
  sources:
"""
CONFIG = (
    HEAD
    + """\
    - folder: {{path: {kept}}}
    - {other}
"""
)


def _source(folder: Path, name: str) -> Path:
    """Make a folder with a spec that costs nothing, and whose schema is beside it."""
    (folder / "schema").mkdir(parents=True)
    (folder / "schema" / "001.sql").write_text(TABLES)
    text = SHOP.replace("name: shop", f"name: {name}")
    (folder / f"{name}.yaml").write_text(text + "  suspend: true\n")
    return folder


def test_a_status_that_nobody_holds_is_told_as_old_and_goes_when_all_sources_are_known(
    world: World,
) -> None:
    scene = world.scene
    scene.names |= {"stays", "goes", "other"}
    kept = _source(scene.folder / "kept", "stays")
    left = _source(scene.folder / "left", "goes")
    world.config.write_text(CONFIG.format(kept=kept, other=f"folder: {{path: {left}}}"))
    daemon = world.start()
    wait_for(
        lambda: all(world.database(n).get("reason") == "Suspended" for n in ("stays", "goes")),
        "it follows both",
    )
    mistyped = scene.call("status", "stay")
    assert mistyped.code == 1
    assert "status of stay: there is nothing of this name" in mistyped.told()
    assert "did you mean stays?" in mistyped.told()
    page = daemon.page("/readyz?verbose")[1].replace(f"{scene.folder}/", "")
    assert re.sub(r"files@\S+", "REVISION", page).splitlines() == [
        "ready",
        "source kept: REVISION in force",
        "source left: REVISION in force",
        "etcd: ok",
        "leadership: held",
    ]
    daemon.process.kill()
    daemon.process.wait()

    assert not world.status()["leads"], "it is surely dead, though its lease runs on"
    told = scene.call("status").out
    assert re.search(r"nobody leads: .* did, heard of \d+ m?s ago", told), told
    assert re.search(r"goes +Unknown +False +False +DaemonGone", told)
    assert re.search(r"said \d+ m?s ago by a daemon that is gone: Suspended: ", told)
    (ready,) = world.database("goes")["conditions"]
    assert (ready["status"], ready["reason"]) == ("Unknown", "DaemonGone")

    # The next one knows one of its two sources only: the other may hold the database.
    late = scene.folder / "late"
    world.config.write_text(CONFIG.format(kept=kept, other=f'git: {{url: "{late}", interval: 1s}}'))
    daemon = world.start()
    wait_for(lambda: world.database("stays").get("reason") == "Suspended", "it is led again", 60)
    looks = daemon.count("controller_runtime_reconcile_total")
    wait_for(
        lambda: daemon.count("controller_runtime_reconcile_total") > looks + 3, "it looks again"
    )
    doubt = world.database("goes")
    assert doubt["reason"] == "SourceInDoubt"
    assert f"source {late} cannot be read: SO" in doubt["message"]

    git(_source(late, "other"), "init", "-q", "-b", "main")
    git(late, "add", "-A")
    git(late, "commit", "-q", "-m", "first")
    wait_for(lambda: not world.database("goes"), "what nobody holds is told no more", 60)
    assert world.database("stays")["reason"] == "Suspended"


def _in_doubt(world: World, name: str) -> str:
    found = world.database(name)
    return str(found["message"]) if found.get("reason") == "SourceInDoubt" else ""


def _held(repository: Path, world: World) -> TextIO:
    """Hold the cache of a repository, so that a look at it takes until the file is closed."""
    name = sha256(f"2 {repository.resolve()}".encode()).hexdigest()[:24]
    home = Path(world.scene.call.environment["HOME"])
    lock = (home / ".cache" / "shardwright" / "git" / f"{name}.lock").open("r+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


MOVING = (
    HEAD
    + """\
    - git: {{url: "{one}", branch: main, interval: 1s}}
    - git: {{url: "{other}", branch: main, interval: {interval}}}
"""
)


@pytest.mark.parametrize("mistake", [True, False])
def test_a_database_that_changes_its_source_is_not_stopped_before_the_other_was_looked_at(
    world: World, mistake: bool
) -> None:
    """The other is quarantined when it comes, or was asked long ago and not since."""
    scene, other = world.scene, world.scene.folder / "other"
    scene.names.add("stays")
    git(_source(other, "stays"), "init", "-q", "-b", "main")
    git(other, "add", "-A")
    git(other, "commit", "-q", "-m", "first")
    interval = "1s" if mistake else "1h"
    world.config.write_text(MOVING.format(one=scene.specs, other=other, interval=interval))
    scene.write("moves", spec_text("moves", deletion="keepData"))
    scene.write("rests", spec_text("rests", more="  suspend: true\n"))
    world.commit("it is here")
    daemon = world.start()
    world.await_ready("moves")
    supervisor = scene.processes("moves-s0-0")[0].pid

    shutil.move(scene.specs / "moves.yaml", other / "moves.yaml")
    shutil.copytree(scene.specs / "moves", other / "moves")
    text = (other / "moves.yaml").read_text().replace("work_mem: 16MB", "work_mem: 21MB")
    (other / "moves.yaml").write_text(text.replace("shards:", "shard:") if mistake else text)
    git(other, "add", "-A")
    git(other, "commit", "-q", "-m", "it came")
    held = None if mistake else _held(other, world)
    world.commit("it went")
    if held is None:
        wait_for(
            lambda: world.database("moves").get("reason") == "SourceInDoubt" or None, "in doubt", 60
        )
        looks = daemon.count("controller_runtime_reconcile_total")
        wait_for(
            lambda: daemon.count("controller_runtime_reconcile_total") > looks + 3, "it looks again"
        )
        assert scene.call("reconcile", "moves").code == 0
        assert "newest revision of source" in world.database("moves")["message"]
        (other / "moves.yaml").write_text(text)
        git(other, "commit", "-q", "-a", "-m", "mended")
    else:
        doubt = wait_for(lambda: _in_doubt(world, "moves"), "in doubt", 60)
        assert f"source {other}@main is looked at once more" in doubt
        held.close()

    world.await_ready("moves", lambda: scene.sql("moves", "SHOW work_mem") == [("21MB",)])
    assert scene.processes("moves-s0-0")[0].pid == supervisor, "it was never stopped"
    if not mistake:
        return  # the other is not asked again for an hour
    (other / "moves.yaml").unlink()
    git(other, "commit", "-q", "-a", "-m", "it goes")
    wait_for(lambda: scene.shard("moves").stopped or None, "what nobody holds is stopped")
