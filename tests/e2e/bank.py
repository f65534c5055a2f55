"""A sharded ledger on the real platform, and every kind of client that writes to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from reconciler.demo.router import running_router
from reconciler.demo.shards import connect
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.platform import LocalPlatform
from reconciler.model.hashing import position_of_key
from reconciler.model.names import Namespace, ScopeKey, app_role
from reconciler.model.names import Scope as ScopeName
from reconciler.model.routing import RoutingMap
from reconciler.sdk import Config
from reconciler.sdk.routes import Key
from tests.e2e.scene import Scene, key_of, spec_text
from tests.ledger import ACCOUNTS, ENTRIES, Ledger, Rows, check, ledger_tables
from tests.ledger_clients import AsyncSdkSession, MapSession, RouterSession, SdkSession
from tests.local_home import wait_for

PATIENT = "  resharding: {pauseMax: 5s}\n"


@dataclass
class Bank:
    """A database of accounts; each ``Ledger`` of ``clients`` is a client of its own."""

    scene: Scene
    name: str
    key_type: str
    keys: Sequence[Key]
    ledgers: list[Ledger] = field(default_factory=list)

    def retile(self, *shards: str) -> None:
        """Write the spec with these shards."""
        text = spec_text(
            self.name, *shards, key_type=self.key_type, reference="[]", more=PATIENT,
            tables="{accounts: id, entries: account_id}",
        )  # fmt: skip
        self.scene.write(self.name, text)

    def found(self, *shards: str) -> None:
        """Make the database, and an account for each key at its owner."""
        self.retile(*shards)
        (self.scene.specs / self.name / "001.sql").write_text(ledger_tables(self.key_type))
        self.scene.applied()
        for owner in (routing := self.routing).owners:
            with connect(self.scene.world(), routing, owner) as session:
                for key in self.keys:
                    if self.position(key) in owner.keys:
                        session.execute("INSERT INTO accounts VALUES (%s)", [key])

    @property
    def routing(self) -> RoutingMap:
        return self.scene.routing(self.name)

    def position(self, key: Key) -> int:
        return position_of_key(self.key_type, str(key))

    def owners(self) -> dict[str, str]:
        """Return each serving shard's keys, as text."""
        return {o.shard: str(o.keys) for o in self.routing.owners if o.keys}

    def rows(self, query: Any) -> Rows:
        """Return the rows of a query that are at the owner of their key."""
        world, routing, found = self.scene.world(), self.routing, []
        for owner in routing.owners:
            with connect(world, routing, owner) as session:
                rows = session.execute(query).fetchall()
            found += [row for row in rows if self.position(row[0]) in owner.keys]
        return found

    def at(self, shard: str, query: Any) -> Rows:
        """Return all rows of a query at one shard."""
        routing = self.routing
        owner = next(o for o in routing.owners if o.shard == shard)
        with connect(self.scene.world(), routing, owner) as session:
            return session.execute(query).fetchall()

    def check(self) -> None:
        """Check every ledger against the rows."""
        check(self.rows(ACCOUNTS), self.rows(ENTRIES), *self.ledgers)

    def config(self) -> Config:
        """Return the SDK's."""
        platform = self._platform
        return Config(
            etcd_endpoints=platform.etcd_endpoints(),
            database=self.name,
            password=lambda scope: self.password(scope),
            tls=platform.client_tls(),
            etcd_login=platform.etcd_login(EtcdUser.READER),
        )

    @property
    def _platform(self) -> LocalPlatform:
        return LocalPlatform(self.scene.home)

    def password(self, scope: str) -> str:
        key = ScopeKey(Namespace("default"), ScopeName(scope))
        return self._platform.credential(key, app_role(key_of(self.name).name)).password

    @contextmanager
    def clients(self) -> Iterator[Bank]:
        """Let one of each kind write: both SDKs, the router, and one that stays with this map."""
        config, scene = self.config(), self.scene
        at_map = partial(
            MapSession, lambda: scene.routing(self.name), partial(connect, scene.world())
        )
        with ExitStack() as stack:
            router = stack.enter_context(
                running_router(scene.home, scene.world(), key_of(self.name))
            )
            self.ledgers = [
                Ledger("sdk", partial(SdkSession, config), self.keys),
                Ledger("async", partial(AsyncSdkSession, config), self.keys),
                Ledger("router", partial(RouterSession, router), self.keys),
                Ledger("stale", partial(at_map, stale=True), self.keys, stale=True),
            ]
            for ledger in self.ledgers:
                ledger.pace_s = 0.02
            for ledger in self.ledgers:
                stack.enter_context(ledger)
            self.await_more()
            yield self

    def await_more(self, count: int = 50) -> None:
        """Let every client that hears of the map write on; the stale one may be refused for good.

        It then has only refusals to show.
        """
        for ledger in self.ledgers:
            if not ledger.stale:
                ledger.await_more(count)
            else:
                before = ledger.acknowledged + ledger.refused
                wait_for(
                    lambda: ledger.acknowledged + ledger.refused > before + count,  # noqa: B023
                    "the stale client to go on",
                )
