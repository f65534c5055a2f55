"""One folder of specs on a real platform, and ways to plan, apply and look at what came of it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from reconciler import settings, spec
from reconciler.edges.local import lifecycle
from reconciler.engine.events import ApplyEnded, ApplyEvent, StepFailed
from reconciler.engine.loop import act, look
from reconciler.engine.observe import login_of, observe, primary_of
from reconciler.engine.operations import Operation, read_operations
from reconciler.engine.ports import Store
from reconciler.engine.records import DATABASES, OPERATIONS, decode_routing, routing_key
from reconciler.engine.saved import SourceRequest
from reconciler.engine.status import REQUESTS, STATUS
from reconciler.engine.world import Outlook, World
from reconciler.model.access import Login
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Namespace,
    Scope,
    ScopeKey,
    app_role,
    owner_role,
)
from reconciler.model.observed import Catalog, ObservedDatabase, ObservedShard, PatroniView
from reconciler.model.platform import PlatformShard
from reconciler.model.routing import RoutingMap
from reconciler.wiring import fetch, open_world
from tests.cli.calls import Caller
from tests.local_home import connect, wait_for

TABLES = """\
create table customers (id bigint primary key, name text not null);
create table orders (
  customer_id bigint not null references customers(id), id bigint, primary key (customer_id, id)
);
"""


def spec_text(
    name: str,
    *shards: str,
    instances: int = 1,
    synchronous: bool = False,
    parameters: str = "{work_mem: 16MB}",
    deletion: str = "destroy",
    key_type: str = "bigint",
    tables: str = "{customers: id, orders: customer_id}",
    reference: str = "[notes, more, half, lost, big]",
    more: str = "",
) -> str:
    """Return a spec; ``shards`` are flow mappings, by default one that owns everything.

    ``reference`` tables need not exist, unless keys move: a move copies them.
    """
    listed = "\n".join(f"    - {one}" for one in shards or ('{name: s0, keys: ["-"]}',))
    return f"""\
apiVersion: shardwright.dev/v1alpha1
kind: ShardedDatabase
metadata: {{name: {name}}}
spec:
  postgres:
    version: "16"
    parameters: {parameters}
    passwords: {{generation: 1}}
  schema: {{files: ["{name}/*.sql"]}}
  sharding:
    type: {key_type}
    tables: {tables}
    reference: {reference}
  defaults: {{instances: {instances}, synchronous: {str(synchronous).lower()}}}
  shards:
{listed}
  deletion: {deletion}
{more}"""


_POLICY = """\
apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {name: stays}
spec:
  rules: [{name: stays, at: [spec], require: "true", otherwise: warn, message: none}]
"""
TWO = ('{name: s0, keys: ["-80"]}', '{name: s1, keys: ["80-"]}')


class _QuickCaller(Caller):
    """A caller whose applies hold short leases, so that a killed one is not waited for long."""

    @property
    def environment(self) -> dict[str, str]:
        return {**Caller.environment.fget(self), "SHARDWRIGHT_LEASE_S": "5"}  # type: ignore[attr-defined]


@dataclass
class Scene:
    """Specs in a folder of their own, so that tests on one platform are sources to one another."""

    home: Path
    folder: Path
    events: list[ApplyEvent] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    @property
    def call(self) -> Caller:
        """Run the command line as a user would."""
        return _QuickCaller(self.folder, self.home)

    @property
    def specs(self) -> Path:
        """The folder of specs."""
        return self.folder / "specs"

    def write(self, name: str, text: str = "", **files: str) -> None:
        """Write a database's spec, and its schema files as ``_001="sql"``; one is there always."""
        self.names.add(name)
        (self.specs / name).mkdir(parents=True, exist_ok=True)
        (self.specs / f"{name}.yaml").write_text(text or spec_text(name))
        first = self.specs / name / "001.sql"
        if not first.exists():
            first.write_text(TABLES)
        for number, sql in files.items():
            (self.specs / name / f"{number.strip('_')}.sql").write_text(sql)

    def edit(self, name: str, before: str, after: str) -> None:
        """Replace a text in a spec."""
        path = self.specs / f"{name}.yaml"
        text = path.read_text()
        assert before in text, text
        path.write_text(text.replace(before, after))

    def remove(self, name: str) -> None:
        """Take a spec away; a policy stays, because a folder without any document is refused."""
        (self.specs / "stays.yaml").write_text(_POLICY)
        (self.specs / f"{name}.yaml").unlink()

    def world(self, **changes: Any) -> World:
        """Return the edges of one call; ``changes`` replace parts of it."""
        loaded = settings.load({"home": str(self.home), "lease_s": "5"}, {})
        return replace(open_world(loaded), **changes)

    def storing(self, wrap: Callable[[Store], Store]) -> World:
        """Return a world whose store is wrapped."""
        world = self.world()
        return replace(world, eyes=replace(world.eyes, store=wrap(world.eyes.store)))

    def look(self, world: World | None = None) -> Outlook:
        """Plan."""
        return look(world or self.world(), spec.read(fetch(SourceRequest(str(self.specs)))))

    def steps(self) -> list[str]:
        """Return the ids of what a plan would do, without names of databases and records."""
        return [step.id for step in self.look().plan.steps]

    def apply(
        self,
        world: World | None = None,
        outlook: Outlook | None = None,
        stop: threading.Event | None = None,
        *,
        single_use: bool = False,
    ) -> ApplyEnded:
        """Plan and apply; what happened is in ``events``."""
        world = world or self.world()
        self.events.clear()
        return act(
            world, outlook or self.look(world), self._note, stop or threading.Event(),
            single_use=single_use,
        )  # fmt: skip

    def _note(self, event: ApplyEvent) -> None:
        self.events.append(event)

    def applied(self) -> Scene:
        """Apply in full, and make sure that nothing is left to do."""
        ended = self.apply()
        assert not ended.failed, [e.error for e in self.events if isinstance(e, StepFailed)]
        assert not ended.left
        self.settle()
        return self

    def settle(self) -> None:
        """Wait until a look finds everything healthy and nothing to do."""

        def calm() -> bool:
            plan = self.look().plan
            mine = [s for s in plan.standstills if s.database.name in self.names]
            return not plan.steps and not mine

        wait_for(lambda: calm() or None, "nothing to do")

    def settle_members(self, name: str) -> None:
        """Wait until every shard of a database is seen whole again."""

        def whole() -> bool:
            shards = self.seen(name).shards
            return all(
                isinstance(s.patroni, PatroniView)
                and isinstance(s.catalog, Catalog)
                and len(s.patroni.members) == len(s.platform.members)
                and all(m.healthy for m in s.patroni.members)
                for s in shards
            )

        wait_for(lambda: whole() or None, f"all members of {name}")

    def failures(self) -> list[str]:
        """Return the codes of the steps that failed in the last apply."""
        return [e.error.code for e in self.events if isinstance(e, StepFailed)]

    def seen(self, name: str) -> ObservedDatabase:
        """Observe one database."""
        found = observe(self.world().eyes, [key_of(name)]).database(key_of(name))
        assert found is not None
        return found

    def state(self, name: str) -> object:
        """Return what makes an end state: all but versions, lags, sizes and who leads."""
        database = self.seen(name)
        routing, record = database.routing, database.record
        assert not hasattr(routing, "reason"), routing
        return (
            replace(routing, version=0) if isinstance(routing, RoutingMap) else None,
            getattr(record, "digest", None),
            [_shard_state(shard) for shard in database.shards],
        )

    def shape(self, name: str) -> str:
        """Return the end state without what differs by place and name: ports, digests."""
        return re.sub(r"(postgres|patroni)_port=\d+|[0-9a-f]{64}", "", repr(self.state(name)))

    def operations(self) -> tuple[Operation, ...]:
        """Return the journal."""
        return read_operations(self.world().eyes.store.read(OPERATIONS)).all

    def routing(self, name: str) -> RoutingMap:
        """Return the routing map."""
        key = routing_key(key_of(name))
        found = self.world().eyes.store.read(key)[key]
        return decode_routing(key, found.value, found.version)

    def etcd_put(self, key: str, value: bytes | None) -> None:
        """Write or delete a key by hand, under a lease of the test's own."""
        store = self.world().eyes.store
        lease = store.acquire("/shardwright/test", "test", 30)
        try:
            store.write({key: (value, None)}, lease)
        finally:
            store.release(lease)

    def shard(self, name: str, shard: str = "s0") -> PlatformShard:
        """Return a shard as the platform has it."""
        return next(s for s in self.world().eyes.platform.observe() if s.key == scope(name, shard))

    def login(self, name: str, shard: str = "s0") -> Login:
        """Return how to reach a shard."""
        return login_of(self.world().eyes.platform, self.shard(name, shard))

    def view(self, name: str, shard: str = "s0") -> PatroniView:
        """Return a shard as Patroni has it."""
        return self.world().eyes.patroni.view(self.login(name, shard))

    def sql(
        self, name: str, query: str, shard: str = "s0", role: str = "superuser", **changes: Any
    ) -> list[tuple[Any, ...]]:
        """Run SQL at a shard's primary, as the superuser, the ``owner`` or the ``app``."""
        platform: Any = self.world().eyes.platform
        there = self.shard(name, shard)
        primary = primary_of(there, self.view(name, shard))
        assert primary is not None
        who = {"owner": owner_role(DatabaseName(name)), "app": app_role(DatabaseName(name))}
        if role in who:
            login = platform.credential(there.key, who[role])
            changes = {"user": login.role, "password": login.password, **changes}
        with connect(platform, there.key, primary, **{"dbname": name, **changes}) as session:
            cursor = session.execute(query)
            return cursor.fetchall() if cursor.description else []

    def processes(self, member: str) -> list[psutil.Process]:
        """Return all processes of a member, its supervisor first; none when it does not run."""
        parts = lifecycle.status(self.home).parts
        pid = next((p.pid for p in parts if p.name == member), None)
        if pid is None:
            return []
        supervisor = psutil.Process(pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def kill(self, member: str) -> None:
        """Kill -9 everything of a member, its supervisor first so that nothing is mended."""
        for process in self.processes(member):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def drop(self) -> None:
        """Destroy everything of this scene's databases, past the specs, and what is told of them.

        Else the next test of a name takes a status for its own, and a clock that one test set
        forward decides which operation is the last of another's.
        """
        world = self.world()
        for shard in world.eyes.platform.observe():
            if shard.database in self.names:
                for member in shard.members:
                    self.kill(member.name)  # at once; a stop would take seconds
                world.eyes.platform.destroy_shard(shard.key)
        for key in world.eyes.store.read(DATABASES):
            if key.removeprefix(DATABASES).split("/")[1] in self.names:
                self.etcd_put(key, None)
        for name in self.names:
            for prefix in (STATUS, REQUESTS):
                self.etcd_put(f"{prefix}default/{name}", None)
        mine = {o.id for o in self.operations() if {d.name for d in o.databases} <= self.names}
        for key in world.eyes.store.read(OPERATIONS):
            if key.removeprefix(OPERATIONS).split("/")[0] in mine:
                self.etcd_put(key, None)


def key_of(name: str) -> DatabaseKey:
    """Return a database's key in the default namespace."""
    return DatabaseKey(Namespace("default"), DatabaseName(name))


def scope(name: str, shard: str = "s0") -> ScopeKey:
    """Return the scope that a shard gets when it is made."""
    return ScopeKey(Namespace("default"), Scope(f"{name}-{shard}"))


def _shard_state(shard: ObservedShard) -> object:
    view, catalog = shard.patroni, shard.catalog
    members = parameters = content = None
    if isinstance(view, PatroniView):
        members = [(m.name, m.healthy, m.pending_restart) for m in view.members]
        parameters = (view.parameters, view.synchronous, view.paused)
    if isinstance(catalog, Catalog):
        content = (
            catalog.roles, catalog.installed, catalog.password_generation, catalog.history,
            catalog.guards, [(t.name, t.columns) for t in catalog.tables],
        )  # fmt: skip
    return (shard.key, shard.name, shard.platform, members, parameters, content)
