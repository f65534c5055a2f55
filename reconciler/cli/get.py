"""``shardwright get``: lists, as kubectl shows them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.source import Where, load, require, source_options
from reconciler.cli.terminal import style_for, tell_line, width_of, write

if TYPE_CHECKING:
    from reconciler.cli.looking import Seen
    from reconciler.cli.objects import Object
    from reconciler.cli.selecting import Choice
    from reconciler.engine.world import World

WATCH_EVERY_S = 2.0
STATUS = "status"
"""The kind of a name without one: a database's conditions."""
CLEAR = "\x1b[H\x1b[2J"
KINDS_TOLD = "the kinds are databases (db), shards, instances (members), operations (op), moves"
KINDS = (
    "databases", "shards", "instances", "operations", "moves",
    "database", "db", "dbs", "shard", "instance", "member", "members", "operation", "op",
    "ops", "move",
)  # fmt: skip


class Kind(click.ParamType[str]):
    """One of the kinds, in any of its spellings; any other word is the name of a database."""

    name = "kind"

    def convert(
        self,
        value: str,
        param: click.Parameter | None,  # noqa: ARG002 - click's
        ctx: click.Context | None,  # noqa: ARG002 - click's
    ) -> str:
        """Return the value, with its kind before it."""
        kind, slash, name = value.partition("/")
        if kind.lower() in KINDS:
            return kind.lower() + slash + name
        return f"{STATUS}/{value}"

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """Say what is missing, on one line."""
        return f"{KINDS_TOLD}"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        param: click.Parameter,  # noqa: ARG002 - click's
        incomplete: str,
    ) -> list[CompletionItem]:
        """Complete the kinds; the short forms need none."""
        return [CompletionItem(kind) for kind in KINDS[:5] if kind.startswith(incomplete)]


def kind_and_name(kind: str, name: str | None) -> tuple[str, str]:
    """Return both, also of ``databases/shop`` as one word, which is how -o name writes them."""
    kind, _, inner = kind.partition("/")
    if inner and name:
        raise click.UsageError(f'name one thing: "{inner}" or "{name}"')
    return kind, inner or name or ""


@command("get")
@click.argument("kind", type=Kind(), metavar="KIND")
@click.argument("name", required=False)
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace to list.")
@click.option("-A", "--all-namespaces", is_flag=True, help="List all namespaces.")
@click.option("-l", "--selector", metavar="LABELS", help="Labels in the specs: team=a; needs -f.")
@click.option("-w", "--watch", is_flag=True, help="Look again every 2 s, until Ctrl-C.")
@source_options
@output_option("text", "wide", "json", "yaml", "name")
@click.pass_obj
def get(
    session: Session, kind: str, name: str | None, namespace: str, all_namespaces: bool,
    selector: str | None, watch: bool, where: Where, output: str,
) -> int:  # fmt: skip
    """List databases, shards, instances, operations or moves.

    KIND is one of these five (or db, shard, member, op, move). NAME picks one, or all
    that belong to it: "get shards shop" lists the shards of shop. "get shop" says whether
    shop is Ready, Reconciling (and what that waits for) or Stalled; with -f, also because its
    specs are refused.
    """
    from reconciler.cli.looking import ALIASES
    from reconciler.cli.selecting import Choice, matching
    from reconciler.wiring import open_reading_world

    desired = load(require(where)).desired if selector or where else None
    keys = matching(desired, selector) if selector and desired else None
    kind, name = kind_and_name(kind, name)
    output = "status" if kind == STATUS and output == "text" else output
    where_in = None if all_namespaces else namespace
    choice = Choice(ALIASES[kind], name, where_in, keys, desired)
    world = open_reading_world(session.settings())
    if watch:
        _watch(world, choice, output)
        return 0
    seen, text = _look(world, choice, output)
    if text:
        write(text)
    _tell_unseen(seen)
    return 1 if _unknown(choice, seen) else 0


def _unknown(choice: Choice, seen: Seen) -> bool:
    """Whether an empty list says nothing, because only etcd knows of all that there is."""
    return not choice.of(seen) and any(unseen.system == "etcd" for unseen in seen.unseen)


def _look(world: World, choice: Choice, output: str) -> tuple[Seen, str]:
    from reconciler.cli.looking import NotFound, look_around

    seen = look_around(world, choice.kind, choice.desired)
    try:
        items = choice.of(seen)
        if output in ("text", "wide", "status") and _unknown(choice, seen):
            return seen, ""
    except NotFound as error:
        if output != "status":
            raise
        remedy = f"{error.remedy}; {KINDS_TOLD}"
        raise NotFound(choice.name, "it is no kind, and no database", remedy=remedy) from None
    return seen, _rendered(choice, items, output)


def _watch(world: World, choice: Choice, output: str) -> None:
    """Show the list whenever it changed; on a terminal in place, elsewhere one after another."""
    shown = None
    try:
        while True:
            _, text = _look(world, choice, output)
            if text != shown:
                sys.stdout.write((CLEAR if sys.stdout.isatty() else "") + text + "\n")
                sys.stdout.flush()
                shown = text
            time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        return


def _tell_unseen(seen: Seen) -> None:
    for unseen in seen.unseen:
        tell_line(f"unseen: {unseen}", "warn")


def _rendered(choice: Choice, items: list[Object], output: str) -> str:
    if output == "json":
        import json

        return json.dumps(_listed(items), indent=2, ensure_ascii=False)
    if output == "yaml":
        import yaml

        return str(yaml.safe_dump(_listed(items), sort_keys=False, allow_unicode=True)).rstrip()
    if output == "name":
        return "\n".join(_resource_name(item) for item in items)
    if output == "status":
        return "\n".join(_status(item) for item in items)
    return _table(choice, items, wide=output == "wide")


def _status(item: Object) -> str:
    """Return a database's conditions on one line, and below it what they say."""
    from reconciler.plan.render_layout import unpainted, wrapped

    paint = style_for(sys.stdout)
    first = "  ".join(f"{one['type']}={one['status']}" for one in item["conditions"])
    told: dict[str, str] = {}  # by message: Ready says why it is not what the others say already
    for one in reversed(item["conditions"]):
        told.setdefault(one["message"], one["type"])
    texts = [f"{kind}: {message}" for message, kind in told.items() if message]
    width = width_of(sys.stdout)
    below = (line for text in texts for line in wrapped(text, width, 4, unpainted, "", hang=2))
    return "\n".join([f"{paint('bold', item['name'])}   {first}", *below])


def _listed(items: list[Object]) -> Object:
    return {"apiVersion": "shardwright.dev/v1alpha1", "kind": "List", "items": items}


def _resource_name(item: Object) -> str:
    kind = str(item["kind"]).lower()
    name = f"{item['database']}/{item['name']}" if kind == "shard" else item["name"]
    return f"{kind}/{name}"


def _table(choice: Choice, items: list[Object], *, wide: bool) -> str:
    from reconciler.cli.columns import columns_for
    from reconciler.cli.table import shown_table

    if not items:
        where = f" in namespace {choice.namespace}" if choice.namespace else ""
        where = "" if choice.kind == "operations" else where
        labelled = " with these labels" if choice.databases is not None else ""
        tell_line(f"no {choice.kind}{labelled}{where}", "dim")
        return ""
    columns = columns_for(choice.kind, wide=wide, with_namespace=choice.namespace is None)
    rows = [[cell(item) for _, cell in columns] for item in items]
    return shown_table([head for head, _ in columns], rows, style_for(sys.stdout))
