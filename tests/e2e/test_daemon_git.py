"""What was in force survives the daemon: a rewrite or an outage while it was down."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest

from tests.e2e.test_daemon import Running, World, git, world
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
__all__ = ["world"]
POLICY = """\
apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {{name: stays}}
spec:
  rules: [{{name: stays, at: [spec], require: "true", message: {message}}}]
"""


def _commit(world: World, message: str, *words: str) -> str:
    """Commit a policy, which needs no database; return the revision."""
    (world.scene.specs / "stays.yaml").write_text(POLICY.format(message=message))
    git(world.scene.specs, "add", "-A")
    git(world.scene.specs, "commit", "-q", "-m", message, *words)
    ended = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=world.scene.specs, check=True, capture_output=True
    )
    return f"main@sha1:{ended.stdout.decode().strip()}"


def _source(world: World) -> dict[str, Any]:
    found = (world.status()["daemon"] or {"sources": [{}]})["sources"]
    return found[0] if found else {}


def _await(world: World, what: str, revision: str, problem: str = "") -> None:
    """Wait until a revision is in force, and the source has this problem or none."""

    def seen() -> bool:
        source = _source(world)
        told = [*source.get("problems", ()), source.get("unreachable", "")]
        is_told = any(problem in one for one in told) if problem else not any(told)
        return source.get("revision") == revision and is_told

    wait_for(seen, f"{what}: {_source(world)}", 60)


def _stop(daemon: Running) -> None:
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0


def test_a_history_rewritten_while_the_daemon_was_down_is_held(world: World) -> None:
    _commit(world, "one")
    good = _commit(world, "two")
    first = world.start()
    _await(world, "what was pushed", good)
    _stop(first)

    git(world.scene.specs, "reset", "-q", "--hard", "HEAD~1")
    _commit(world, "another two")
    second = world.start()
    _await(world, "what was in force, and the rewrite is held", good, "SO142")
    assert second.said("revision quarantined")
    # Killed, so that a third begins from what the second kept of the first.
    second.process.kill()
    second.process.wait()
    world.start()
    _await(world, "the same after a kill", good, "SO142")

    git(world.scene.specs, "reset", "-q", "--hard", good.partition(":")[2])
    later = _commit(world, "three")
    _await(world, "what follows on it", later)


def test_a_rewrite_that_a_standby_took_for_the_first_head_is_held_once_it_leads(
    world: World,
) -> None:
    _commit(world, "one")
    good = _commit(world, "two")
    first = world.start()
    _await(world, "what was pushed", good)
    # A cache of its own: the first may be stopped in the middle of a fetch.
    second = world.start(XDG_CACHE_HOME=str(world.scene.folder / "2"))
    wait_for(lambda: second.said("revision in force") or None, "the standby reads it as well")
    first.process.send_signal(signal.SIGSTOP)
    git(world.scene.specs, "reset", "-q", "--hard", "HEAD~1")
    _commit(world, "another two")
    wait_for(lambda: second.said("leading") or None, "the standby leads")
    _await(world, "it holds to what the other had in force", good, "SO142")


def test_what_was_in_force_is_taken_up_again_while_the_repository_is_away(world: World) -> None:
    good = _commit(world, "one")
    first = world.start()
    _await(world, "what was pushed", good)
    _stop(first)
    world.scene.specs.rename(world.scene.folder / "away")
    world.start()
    _await(world, "what was fetched before", good, "SO103")
    (world.scene.folder / "away").rename(world.scene.specs)
    _await(world, "the same", good)
