"""One database on a real server, set up by the edge, and ways into it for a test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count
from typing import Any

import psycopg

from reconciler.edges.postgres import PostgresSql
from reconciler.model.access import Guarding, Login
from reconciler.model.desired import KeyType, SchemaFile, ShardedTable
from reconciler.model.keyspace import KeySet, parse_key_set
from reconciler.model.names import Epoch, FencingToken, MemberName, Namespace, Scope, ScopeKey
from reconciler.model.observed import Catalog
from reconciler.model.platform import Credential, Endpoint, PlatformMember
from tests.edges.servers import SUPERUSER_PASSWORD, PostgresServer

TOKEN = FencingToken(100)
_numbers = count()


def schema_file(text: str, name: str = "001.sql", *, transactional: bool = True) -> SchemaFile:
    return SchemaFile(name, sha256(text.encode()).hexdigest(), text, transactional)


def login_to(server: PostgresServer) -> Login:
    member = PlatformMember(
        MemberName("shop-s0-0"),
        Endpoint("127.0.0.1", server.port, 0, server.with_tls),
        running=True,
    )
    return Login(
        ScopeKey(Namespace("default"), Scope("shop-s0")),
        (member,),
        Credential("postgres", SUPERUSER_PASSWORD),
        Credential("patroni", "x"),
        server.tls,
    )


@dataclass(frozen=True, slots=True)
class TestShard:
    """A shard's database; what the engine would do, and what its users do."""

    __test__ = False

    edge: PostgresSql
    login: Login
    primary: Endpoint
    database: str
    owner: Credential
    app: Credential

    @property
    def roles(self) -> tuple[Credential, Credential]:
        return (self.owner, self.app)

    def connect(self, credential: Credential | None = None) -> psycopg.Connection[Any]:
        """Open an autocommit session of the superuser, or of another role."""
        who = credential or self.login.superuser
        return psycopg.connect(
            host=self.primary.host,
            port=self.primary.postgres_port,
            user=who.role,
            password=who.password,
            dbname=self.database,
            sslmode="verify-full" if self.primary.postgres_tls else "disable",
            sslrootcert=self.login.tls.ca,
            autocommit=True,
        )

    def connect_to_maintenance(self) -> psycopg.Connection[Any]:
        """Open a superuser's session where the shard's database need not exist."""
        return replace(self, database="postgres").connect()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask as the superuser."""
        with self.connect() as connection:
            return connection.execute(query).fetchall()

    def set_up(self, token: int = TOKEN, generation: int = 1) -> None:
        self.edge.set_up(
            self.login, self.primary, self.database, self.roles, FencingToken(token), generation
        )

    def apply(self, file: SchemaFile, token: int = TOKEN) -> None:
        self.edge.apply_schema(
            self.login, self.primary, self.database, self.owner, file, FencingToken(token)
        )

    def guard(
        self,
        keys: str | KeySet,
        *tables: tuple[str, str],
        key_type: KeyType = KeyType.BIGINT,
        epoch: int = 1,
        token: int = TOKEN,
    ) -> None:
        guarding = Guarding(
            key_type,
            tuple(ShardedTable(*table) for table in tables),
            parse_key_set(keys) if isinstance(keys, str) else keys,
            Epoch(epoch),
        )
        self.edge.install_guards(
            self.login, self.primary, self.database, guarding, FencingToken(token)
        )

    def rotate(self, generation: int, *roles: Credential, token: int = TOKEN) -> None:
        self.edge.rotate_passwords(
            self.login, self.primary, self.database, roles, generation, FencingToken(token)
        )

    def catalog(self) -> Catalog:
        return self.edge.catalog(self.login, self.primary, self.database)

    def at(self, port: int) -> TestShard:
        return replace(self, primary=replace(self.primary, postgres_port=port))


def new_shard(server: PostgresServer) -> TestShard:
    """Name a database that does not exist yet."""
    name = f"shop{next(_numbers)}"
    return TestShard(
        PostgresSql(),
        login_to(server),
        Endpoint("127.0.0.1", server.port, 0, server.with_tls),
        name,
        Credential(f"{name}_owner", f"owner of {name}"),
        Credential(f"{name}_app", f"app's {name}"),
    )
