"""The demo's application: it finds shards by the routing map, as any client would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from reconciler.engine.records import decode_routing, routing_key
from reconciler.engine.world import World
from reconciler.model.hashing import HASH_FUNCTIONS, position_of_key
from reconciler.model.names import DatabaseKey, ScopeKey, app_role
from reconciler.model.routing import RoutingMap, RoutingOwner

CUSTOMERS = 20_000
ORDERS_EACH = 2
LINES_EACH = 2
_COUNTRIES = ("AT", "BE", "CH", "CZ", "DE", "DK", "ES", "FR", "GB", "IT", "NL", "PL", "SE", "US")
_TABLES = {
    "customers": ("id, name, email, country", "id"),
    "orders": ("customer_id, id, status", "customer_id"),
    "order_lines": ("customer_id, order_id, line, product, quantity, price_cents", "customer_id"),
}


@dataclass(frozen=True, slots=True)
class Placement:
    """What one shard holds of a table: all rows, and those of keys that are not its own."""

    shard: str
    table: str
    rows: int
    strangers: int


def read_map(world: World, database: DatabaseKey) -> RoutingMap:
    """Return the routing map as it is in etcd now."""
    key = routing_key(database)
    found = world.eyes.store.read(key)[key]
    return decode_routing(key, found.value, found.version)


def connect(
    world: World, routing: RoutingMap, owner: RoutingOwner, timeout_s: int = 5
) -> psycopg.Connection:
    """Open a session at a shard's primary as the application's role, with TLS where it has it."""
    scope = ScopeKey(routing.database.namespace, owner.scope)
    login = world.eyes.platform.credential(scope, app_role(routing.database.name))
    return psycopg.connect(
        host=",".join(m.endpoint.host for m in owner.members),
        port=",".join(str(m.endpoint.postgres_port) for m in owner.members),
        dbname=routing.database.name,
        user=login.role,
        password=login.password,
        target_session_attrs="read-write",
        sslmode="verify-full" if all(m.endpoint.postgres_tls for m in owner.members) else "disable",
        sslrootcert=world.eyes.platform.client_tls().ca,
        connect_timeout=timeout_s,
        application_name="demo",
    )


def load_rows(world: World, routing: RoutingMap) -> int:
    """Copy rows into the three sharded tables, each to the owner of its key; return how many."""
    mine: dict[str, list[int]] = {owner.shard: [] for owner in routing.owners}
    for customer in range(1, CUSTOMERS + 1):
        owner = routing.owner_of(position_of_key(routing.key_type, str(customer)))
        assert owner is not None, "the ranges tile the whole key space"  # noqa: S101
        mine[owner.shard].append(customer)
    return sum(_load_shard(world, routing, o, mine[o.shard]) for o in routing.owners)


def _load_shard(
    world: World, routing: RoutingMap, owner: RoutingOwner, customers: list[int]
) -> int:
    count = 0
    with connect(world, routing, owner) as session, session.cursor() as cursor:
        for table, (columns, _) in _TABLES.items():
            with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in _rows(table, customers):
                    copy.write_row(row)
                    count += 1
    return count


def _rows(table: str, customers: list[int]) -> Iterator[tuple[object, ...]]:
    for c in customers:
        if table == "customers":
            yield c, f"Customer {c}", f"c{c}@example.org", _COUNTRIES[c % len(_COUNTRIES)]
            continue
        for order in range(1, ORDERS_EACH + 1):
            if table == "orders":
                yield c, order, "open"
                continue
            for line in range(1, LINES_EACH + 1):
                yield c, order, line, f"product {c % 97}", line, 100 * line


def placements(world: World, routing: RoutingMap) -> list[Placement]:
    """Count, on each shard, the rows and those whose key's hash belongs to another shard."""
    hash_function = HASH_FUNCTIONS[routing.key_type]
    found = []
    for owner in routing.owners:
        with connect(world, routing, owner) as session:
            for table, (_, key) in _TABLES.items():
                inside = " OR ".join(
                    f"{hash_function}({key}, 0) BETWEEN {low} AND {high}"
                    for low, high in (r.sql_bounds for r in owner.keys.ranges)
                )
                row = session.execute(
                    f"SELECT count(*), count(*) FILTER (WHERE NOT ({inside})) FROM {table}"  # noqa: S608
                ).fetchone()
                assert row is not None  # noqa: S101
                found.append(Placement(owner.shard, table, row[0], row[1]))
    return found


def refusal_of_a_stranger(world: World, routing: RoutingMap) -> str:
    """Insert a key at a shard that does not own it, and return what PostgreSQL says."""
    key = CUSTOMERS + 1
    position = position_of_key(routing.key_type, str(key))
    wrong = next(owner for owner in routing.owners if position not in owner.keys)
    try:
        with connect(world, routing, wrong) as session:
            session.execute(
                "INSERT INTO customers (id, name, email, country) VALUES (%s, 'x', 'x', 'AT')",
                [key],
            )
    except psycopg.Error as error:
        return f"{error.sqlstate} {error.diag.message_primary}"
    raise AssertionError(f"shard {wrong.shard} took key {key}, which is not its own")
