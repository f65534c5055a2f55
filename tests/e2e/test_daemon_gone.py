"""What a daemon said that is gone: told as that, and removed when nobody holds the database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.calls import SHOP, TABLES
from tests.e2e.test_daemon import World, git, world
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
__all__ = ["world"]

CONFIG = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {{name: reconciler}}
spec:
  interval: 1s
  sources:
    - folder: {{path: {kept}}}
    - {other}
"""


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
    assert world.database("goes")

    git(_source(late, "other"), "init", "-q", "-b", "main")
    git(late, "add", "-A")
    git(late, "commit", "-q", "-m", "first")
    wait_for(lambda: not world.database("goes"), "what nobody holds is told no more", 60)
    assert world.database("stays")["reason"] == "Suspended"
