"""The columns of each kind of object: those always shown, and those of ``-o wide``. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from reconciler.cli.objects import Object
from reconciler.cli.report import short_revision
from reconciler.engine.reconcile import NOTHING_TO_DO
from reconciler.plan.render_report import amount, duration, size

Column = tuple[str, Callable[[Object], str]]
NONE = "-"


def _text(name: str) -> Callable[[Object], str]:
    return lambda item: NONE if item[name] in (None, "") else str(item[name])


def _size(item: Object) -> str:
    return NONE if item["bytes"] is None else size(item["bytes"])


def _rows(item: Object) -> str:
    known = [table["rows"] for table in item["tables"] if table["rows"] >= 0]
    return amount(sum(known)) if known else NONE


def _shards(item: Object) -> str:
    """Count those that have to serve, and those of which only the data is kept."""
    kept = sum(shard["kept"] for shard in item["shards"])
    return f"{len(item['shards']) - kept}" + (f" + {kept} kept" if kept else "")


def _revision(item: Object) -> str:
    record = item["lastApplied"]
    return short_revision(record["revision"]) if record else NONE


def _applied(item: Object) -> str:
    record = item["lastApplied"]
    return f"{ago(record['at'])} ago" if record else NONE


def _reason(item: Object) -> str:
    """Return why it is as it is; that nothing is to be done is no news in a list."""
    return NONE if item["reason"] in (None, "", NOTHING_TO_DO) else str(item["reason"])


def ago(moment: str) -> str:
    """Return how long ago a moment in ISO 8601 was."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return NONE
    return duration(max((datetime.now(UTC) - then).total_seconds(), 1))


def seconds_between(start: str, end: str) -> str:
    """Return how long something took, from two moments in ISO 8601; "-" when one is missing."""
    try:
        took = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    except ValueError:
        return NONE
    return duration(took.total_seconds())


def _took(item: Object) -> str:
    return seconds_between(item["startedAt"], item["endedAt"])


def _lag(item: Object) -> str:
    return NONE if item["lagBytes"] is None else size(item["lagBytes"])


def _qualified(item: Object) -> str:
    if item["name"] == item["scope"]:  # its name stands in a map that nobody could read
        return str(item["scope"])
    return f"{item['database']}/{item['name']}"


def _window(item: Object) -> str:
    """Say how long the way back stays open, beginning with the cut over."""
    if item["windowEndsAt"] is None:
        return NONE
    left = (datetime.fromisoformat(item["windowEndsAt"]) - datetime.now(UTC)).total_seconds()
    at = item["windowEndsAt"][:16].replace("T", " ")
    return f"{at}Z (in {duration(left)})" if left > 0 else "over: apply ends the move"


def _pause(item: Object) -> str:
    if not item["pausesMs"]:
        return NONE
    return "unknown" if item["pausesMs"][0] is None else f"{item['pausesMs'][0]:.0f} ms"


def _waiting_since(item: Object) -> str:
    return f"{ago(item['waitsFor']['since'])} ago" if item["waitsFor"] else NONE


STAGES: dict[str, str] = {
    "before": "before the cut",
    "switched": "cut over",
    "back": "taken back",
    "ended": "ended",
}
NAMESPACE: Column = ("NAMESPACE", _text("namespace"))
COLUMNS: dict[str, tuple[tuple[Column, ...], tuple[Column, ...]]] = {
    "databases": (
        (
            ("NAME", _text("name")),
            ("READY", _text("ready")),
            ("SHARDS", _shards),
            ("INSTANCES", lambda item: f"{item['readyInstances']}/{item['instances']}"),
            ("EPOCH", _text("epoch")),
            ("REVISION", _revision),
            ("APPLIED", _applied),
            ("REASON", _reason),
        ),
        (
            ("SIZE", _size),
            ("KEY", _text("keyType")),
            ("TABLES", lambda item: str(len(item["tables"]))),
            ("SOURCE", lambda item: (item["lastApplied"] or {}).get("source", NONE)),
        ),
    ),
    "shards": (
        (
            ("NAME", _qualified),
            ("READY", _text("ready")),
            ("KEYS", _text("keys")),
            ("PRIMARY", _text("primary")),
            ("INSTANCES", lambda item: str(len(item["instances"]))),
            ("SIZE", _size),
            ("ROWS", _rows),
            ("REASON", _text("reason")),
        ),
        (
            ("SCOPE", _text("scope")),
            ("POSTGRES", _text("version")),
            ("SYNC", _text("synchronous")),
            ("SCHEMA FILES", lambda item: str(len(item["schemaFiles"]))),
        ),
    ),
    "instances": (
        (
            ("NAME", _text("name")),
            ("SHARD", lambda item: _qualified({**item, "name": item["shard"]})),
            ("ROLE", _text("role")),
            ("STATE", _text("state")),
            ("LAG", _lag),
            ("PENDING RESTART", lambda item: ", ".join(item["pendingRestart"]) or NONE),
        ),
        (
            ("TIMELINE", _text("timeline")),
            ("HOST", _text("host")),
            ("POSTGRES", _text("port")),
            ("PATRONI", _text("patroniPort")),
            ("PROCESS", lambda item: "running" if item["running"] else "down"),
        ),
    ),
    "moves": (
        (
            ("NAME", _text("name")),
            ("DATABASE", _text("database")),
            ("KEYS", _text("keys")),
            ("FROM", _text("from")),
            ("TO", _text("to")),
            ("STAGE", lambda item: STAGES.get(item["stage"], str(item["stage"]))),
            ("WISH", lambda item: NONE if item["stage"] == "ended" else str(item["wish"])),
            ("WINDOW ENDS", _window),
            ("LAST PAUSE", _pause),
            ("NOW", _text("now")),
        ),
        (
            ("WAITS SINCE", _waiting_since),
            ("STARTED", lambda item: f"{ago(item['startedAt'])} ago"),
            ("PAUSE AT MOST", lambda item: f"{item['pauseMaxMs']} ms"),
        ),
    ),
    "operations": (
        (
            ("NAME", _text("name")),
            ("RESULT", _text("result")),
            ("STARTED", lambda item: f"{ago(item['startedAt'])} ago"),
            ("TOOK", _took),
            ("STEPS", lambda item: f"{item['done']}/{item['planned']}"),
            ("REVISION", lambda item: short_revision(item["revision"])),
            ("DATABASES", lambda item: ", ".join(item["databases"]) or NONE),
            ("NOW", _text("now")),
        ),
        (("ACTOR", _text("actor")), ("PLAN", _text("plan")), ("SOURCE", _text("source"))),
    ),
}


def columns_for(kind: str, *, wide: bool, with_namespace: bool) -> tuple[Column, ...]:
    """Return the columns to show; the reason stays last, because it is the longest."""
    always, more = COLUMNS[kind]
    shown = always
    if wide and always[-1][0] == "REASON":
        shown = (*always[:-1], *more, always[-1])
    elif wide:
        shown = (*always, *more)
    return (NAMESPACE, *shown) if with_namespace and kind != "operations" else shown
