"""The story that ``make demo`` tells, command by command."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg

from reconciler.demo import shards
from reconciler.demo.moving import customers_of, split_and_merge, tell_outcome
from reconciler.demo.router import router_command, running_router
from reconciler.demo.story import SHOP, DemoFailed, Story, all_well, dim, wait_for
from reconciler.demo.writer import Writer
from reconciler.model.errors import ReconcilerError
from reconciler.model.routing import RoutingMap

_ROOT = Path(__file__).resolve().parents[2]
_Failed = subprocess.SubprocessError


def main() -> int:
    """Tell the story; 0 when everything was seen as promised."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--down", action="store_true", help="take the platform down at the end")
    parser.add_argument("--folder", default=str(_ROOT / ".demo"), help="where it works")
    options = parser.parse_args()
    story = Story(Path(options.folder))
    return told_safely(lambda: _tell(story, options.down))


def _tell(story: Story, down: bool) -> None:
    begun = time.monotonic()
    _clear(story)
    _specs_in_git(story)
    _provision(story)
    routing = _load(story)
    _edit(story)
    print(dim(f"$ shardwright {' '.join(router_command(SHOP))} &"), flush=True)
    with running_router(story.home, story.world(), SHOP) as router:
        split_and_merge(story, routing, router)
        _fail_over(story, routing, router)
    _nothing_to_do(story)
    story.note("whole demo", f"{time.monotonic() - begun:.0f} s")
    _summary(story)
    _end(story, down)


def told_safely(tell: Callable[[], None]) -> int:
    """Run ``tell``; 1 and one line on stderr when it fails, never a traceback."""
    try:
        tell()
    except (DemoFailed, ReconcilerError, psycopg.Error, psutil.Error, OSError, _Failed) as error:
        kind = "" if isinstance(error, DemoFailed) else f"{type(error).__name__}: "
        print(f"\nthe demo failed: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nthe demo was stopped", file=sys.stderr)
        return 130
    return 0


def _clear(story: Story) -> None:
    """Take away what an earlier demo left."""
    if story.home.exists():
        story.say("An earlier demo is there: take it away")
        story.run("platform", "destroy", "--yes")
    shutil.rmtree(story.folder, ignore_errors=True)
    story.folder.mkdir(parents=True)


def _specs_in_git(story: Story) -> None:
    story.say("Specs in a Git repository")
    shutil.copytree(_ROOT / "specs" / "shop", story.specs)
    shutil.copytree(_ROOT / "policies", story.specs / "policies")
    spec = story.specs / "shop.yaml"  # a busy machine cannot keep 100 ms: the cut would back out
    spec.write_text(spec.read_text().replace("pauseMax: 100ms", "pauseMax: 1s"))
    story.git("init", "--quiet", "--initial-branch=main")
    story.git("add", ".")
    story.git("commit", "--quiet", "-m", "A shop of two shards")
    print((story.specs / "shop.yaml").read_text())


def _provision(story: Story) -> None:
    story.say("A platform on this machine: etcd, Patroni, PostgreSQL; loopback only")
    story.run("platform", "up")
    story.say("The plan, before anything happens")
    story.run("plan", *story.source, "--detailed-exitcode", codes=(2,))
    story.say("Apply it")
    begun = time.monotonic()
    story.run("apply", *story.source, "--yes", "--quiet")
    story.note("2 shards × 2 instances provisioned", f"{time.monotonic() - begun:.0f} s")
    story.run("get", "shards")
    story.run("get", "instances")
    story.say("A second plan")
    _expect_nothing(story)


def _expect_nothing(story: Story) -> None:
    story.run("plan", *story.source, "--detailed-exitcode", codes=(0,))
    story.note("a further plan", "nothing to do")


def _load(story: Story) -> RoutingMap:
    story.say("Rows, each sent to the owner of its key by the routing map")
    world = story.world()
    routing = shards.read_map(world, SHOP)
    begun = time.monotonic()
    rows = shards.load_rows(world, routing)
    story.note(
        "rows loaded through the routing map", f"{rows:,} in {time.monotonic() - begun:.1f} s"
    )
    strangers = 0
    for place in shards.placements(world, routing):
        print(
            f"    {place.shard}  {place.table:12} {place.rows:>7,} rows, "
            f"{place.strangers} strangers"
        )
        strangers += place.strangers
    story.note("rows that are not on their owner", str(strangers))
    if strangers:
        raise DemoFailed("a row is on a shard that does not own it")
    story.run("route", "shop", "42")
    story.note("a key sent to the wrong shard", shards.refusal_of_a_stranger(world, routing))
    return routing


def _edit(story: Story) -> None:
    story.say("An edit: one more instance for s1, and two parameters; one of them needs a restart")
    spec = story.specs / "shop.yaml"
    text = spec.read_text()
    text = text.replace('{name: s1, keys: ["80-"]}', '{name: s1, keys: ["80-"], instances: 3}')
    text = text.replace("work_mem: 16MB", 'work_mem: 32MB\n      max_connections: "120"')
    spec.write_text(text)
    story.git("commit", "--quiet", "-am", "Grow s1, and give queries more memory")
    story.run("plan", *story.source, "--out", str(story.folder / "plan.json"))
    begun = time.monotonic()
    story.run("apply", str(story.folder / "plan.json"), "--yes", "--quiet")
    story.note("the edit, and nothing else, applied", f"{time.monotonic() - begun:.0f} s")
    story.run("get", "instances")
    _expect_nothing(story)


def _fail_over(story: Story, routing: RoutingMap, router: dict[str, Any]) -> None:
    story.say("Kill the primary of s0 while a writer runs: kill -9 of PostgreSQL, Patroni and all")
    writer = Writer(router, customers_of(routing, 0, 1))
    writer.start()
    wait_for(lambda: len(writer.acknowledged) > 200, "the writer to write")
    victim = _leader(story)
    killed = _kill_member(story, victim)
    before = len(writer.acknowledged)
    wait_for(lambda: len(writer.acknowledged) > before + 200, "writes to go on")
    writer.stop()
    story.note("killed with -9", f"{victim}, {killed} processes; {_leader(story)} leads now")
    tell_outcome(story, writer, "the failover")


def _leader(story: Story) -> str:
    """Return the member that leads the first shard, as Patroni says."""
    world = story.world()
    from reconciler.engine.observe import observe

    seen = observe(world.eyes).database(SHOP)
    view = seen.shards[0].patroni if seen else None
    return str(getattr(view, "leader", None))


def _kill_member(story: Story, member: str) -> int:
    """Kill -9 everything of a member: its supervisor and all that it started."""
    from reconciler.edges.local.lifecycle import status

    part = next(p for p in status(story.home).parts if p.name.endswith(member))
    assert part.pid is not None  # noqa: S101
    return kill_family(part.pid)


def kill_family(pid: int) -> int:
    """Kill -9 a process and all below it; return how many there were. Ended ones are no matter."""
    try:
        parent = psutil.Process(pid)
        family = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return 0
    killed = 0
    for process in family:  # a child may end by itself in between
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            killed += 1
    return killed


def _nothing_to_do(story: Story) -> None:
    story.say("What is left to do")
    wait_for(lambda: all_well(story), "the shards to mend themselves")
    wait_for(lambda: _has_nothing_to_do(story), "a plan with nothing to do")
    _expect_nothing(story)
    story.run("get", "instances")
    story.run("history")


def _has_nothing_to_do(story: Story) -> bool:
    told = story.run("plan", *story.source, "--detailed-exitcode", codes=(0, 2), show=False)
    return "nothing to do" in told and "left alone" not in told


def _summary(story: Story) -> None:
    story.say("What was seen")
    width = max(len(what) for what, _ in story.seen)
    for what, value in story.seen:
        print(f"  {what:<{width}}  {value}")
    title = "writes through the router in"
    columns = ("acknowledged", "lost", "duplicated", "longest wait")
    print(f"\n  {title}  {'  '.join(columns)}")
    for what, outcome, longest_s in story.writes:
        cells = (
            f"{outcome.acknowledged:,}", f"{outcome.lost}", f"{outcome.doubled}",
            f"{longest_s * 1000:,.0f} ms",
        )  # fmt: skip
        row = "  ".join(f"{cell:>{len(name)}}" for cell, name in zip(cells, columns, strict=True))
        print(f"  {what:<{len(title)}}  {row}")


def _end(story: Story, down: bool) -> None:
    if down:
        story.run("platform", "down")
        return
    environment = f"export SHARDWRIGHT_HOME={story.home}"
    print(f"\nThe platform is still running. Look around:\n\n  {environment}")
    print(f"  {_ROOT}/.venv/bin/shardwright get databases")
    print(f"  {_ROOT}/.venv/bin/shardwright connect shop --key 42 -- -c 'table countries'")
    print(f"  {_ROOT}/.venv/bin/shardwright platform down")


if __name__ == "__main__":
    sys.exit(main())
