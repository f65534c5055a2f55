"""``shardwright status``: what the daemon says of its sources and databases."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import Paint, style_for, tell_line, width_of, write, write_wrapped

if TYPE_CHECKING:
    from reconciler.engine.conditions import Condition
    from reconciler.engine.known import Known
    from reconciler.model.names import DatabaseKey
    from reconciler.model.status import Status


@command("status")
@click.argument("database", required=False)
@output_option("text", "json")
@click.pass_obj
def status(session: Session, database: str | None, output: str) -> int:
    """Show what the daemon says, and who leads.

    Of each source the revision in force, and why a newer one is not; of each database its
    conditions, as "get" says them. What a daemon said that is gone is told as that, with its age.
    Exits 1 when a database is stalled, or a revision or the daemon's configuration has a mistake.
    """
    from reconciler import wiring
    from reconciler.engine.known import read_known

    world = wiring.open_reading_world(session.settings())
    known = read_known(world.eyes.store, world.is_gone)
    said = [_said(one, known, world.is_gone) for one in _chosen(known, database)]
    if output == "json":
        write(_as_json(known, said))
    else:
        _show(known, said)
    daemon = known.daemon or NO_DAEMON
    mistaken = daemon.get("configuration") or any(one["problems"] for one in daemon["sources"])
    return 1 if mistaken or any(one.condition("Stalled") for one in said) else 0


NO_DAEMON: dict[str, Any] = {"sources": []}


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a database: the daemon's word, and the conditions that follow from it."""

    status: Status
    conditions: tuple[Condition, ...]

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of a type, None while it is not there."""
        return next((one for one in self.conditions if one.type == kind), None)

    def has(self, kind: str) -> str:
        """Return in a word whether a condition is there."""
        return str(self.condition(kind) is not None)

    @property
    def shown(self) -> Condition:
        """The condition whose reason stands for all."""
        return self.condition("Stalled") or self.condition("Reconciling") or self.conditions[0]


def _chosen(known: Known, database: str | None) -> list[Status]:
    """Return the statuses that are asked for. Raises NotFound for a name that has none."""
    from reconciler.cli.looking import not_found

    found = sorted({**_begun(known), **known.statuses}.items())
    chosen = [s for key, s in found if database in (None, str(key), key.name)]
    if database and not chosen:
        raise not_found(f"status of {database}", database, (str(key) for key, _ in found))
    return chosen


def _begun(known: Known) -> dict[DatabaseKey, Status]:
    """Return a status for what is applied now; its first apply may take minutes."""
    from reconciler.model.status import Status

    running = (one for one in known.operations.all if one.result == "running" and known.is_led)
    keys = {key for one in running for key in one.databases}
    return {key: Status(key, None, True, False, "Applying", "") for key in keys}


def _said(status: Status, known: Known, is_gone: Callable[[str], bool]) -> Said:
    from reconciler.engine.conditions import conditions_of

    facts = known.facts(status.database, is_gone)
    if facts.told is None:
        text = f"{status.reason}: {status.message}" if status.message else status.reason
        when = _age(known) or _ago(status.since)
        facts = replace(facts, gone=f"said {when} by a daemon that is gone: {text}")
    return Said(status, conditions_of(facts))


def _ago(moment: str) -> str:
    from reconciler.cli.columns import NONE, ago

    age = ago(moment)
    return "once" if age == NONE else f"{age} ago"


def _age(known: Known) -> str:
    """Say when the daemon that led last was heard of, empty when nobody noted it."""
    at = str((known.daemon or {}).get("at", ""))
    return _ago(at) if at else ""


def _as_json(known: Known, said: list[Said]) -> str:
    from reconciler.cli.objects import condition_objects
    from reconciler.engine.status import encode_status

    ready = {"True": True, "False": False, "Unknown": None}
    databases = [
        {
            "name": str(one.status.database),
            **json.loads(encode_status(one.status)),
            "ready": ready[one.conditions[0].status],
            "reconciling": one.condition("Reconciling") is not None,
            "stalled": one.condition("Stalled") is not None,
            "reason": one.shown.reason,
            "message": one.shown.message,
            "conditions": condition_objects(one.conditions),
        }
        for one in said
    ]
    told = {
        "leader": known.applier or None, "leads": known.is_led, "daemon": known.daemon,
        "databases": databases,
    }  # fmt: skip
    return json.dumps(told, indent=2, ensure_ascii=False)


def _show(known: Known, said: list[Said]) -> None:
    from reconciler.cli.columns import ago
    from reconciler.cli.table import table_with_texts

    paint = style_for(sys.stdout)
    daemon = known.daemon
    if daemon is None:
        tell_line("no daemon has run here: shardwright run", "dim")
        return
    if known.is_led:
        write(f"leads: {_process(known.applier)}, for {ago(daemon['since'])}")
    else:
        now = f"; {_process(known.applier)} applies" if known.applier else ""
        age = f", heard of {_age(known)}" if _age(known) else ""
        write(f"{paint('warn', 'nobody leads')}: {_process(daemon['actor'])} did{age}{now}")
    if mistakes := daemon.get("configuration"):
        write(f"{paint('error', 'its newest configuration is not taken over')}:")
        for line in mistakes:
            write_wrapped(line, 2)
    for source in daemon["sources"]:
        _show_source(source, paint)
    rows = [
        (
            str(one.status.database), one.conditions[0].status, one.has("Reconciling"),
            one.has("Stalled"), one.shown.reason, ago(one.shown.since), one.shown.message,
        )
        for one in said
    ]  # fmt: skip
    if not rows:
        tell_line("no database: the sources hold none, or it was not looked at yet", "dim")
        return
    head = ("DATABASE", "READY", "RECONCILING", "STALLED", "REASON", "SINCE", "MESSAGE")
    write(table_with_texts(head, rows, width_of(sys.stdout), paint))


def _process(actor: str) -> str:
    """Return who it is for people, without what tells it from a later process of that number."""
    return actor.partition(" start ")[0]


def _show_source(source: dict[str, Any], paint: Paint) -> None:
    from reconciler.model.desired import Revision

    revision = Revision(source["revision"]).short if source["revision"] else "nothing yet"
    write(f"source {source['name']}: {revision} in force")
    if source["problems"]:
        attempted = Revision(source["attempted"]).short
        write(f"  {paint('error', 'quarantined')}: {attempted}")
    for line in source["problems"]:
        write_wrapped(line, 4)
    if more := source.get("problemCount", 0) - len(source["problems"]):
        write_wrapped(f"and {more} more, which the daemon's log and shardwright validate tell", 4)
    if source["unreachable"]:
        write(f"  {paint('warn', 'cannot be read')}:")
        write_wrapped(source["unreachable"], 4)
