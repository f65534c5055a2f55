"""Sequences and identity columns: no value is given out at both sides of a move.

Both have the sequences of the same schema, and both go on giving out values after the move. So each
gets a block of its own, before the cut: the source keeps the lower part of what it has left, the
target the upper one, as the sequences' own limits, which neither can leave. Blocks are never made
larger, so values stay apart over later splits, merges and rollbacks, too. The target's part is a
64th where that is still plenty (splits and merges may follow each other for years), else the half.
Nobody is sent beyond 2^53, as far as JSON and JavaScript count exactly, before that is used up.

A sequence that is to CYCLE repeats its values by itself and is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from reconciler.edges.postgres_guards import ATTEMPTS_MAX, PAUSE_S, WRITERS_WAIT_MS
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import Ends, NotReady, open_session
from reconciler.model.desired import CopyDriver
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import NumberBlock
from reconciler.model.names import FencingToken

EXACT_MAX = 2**53 - 1
_READ = """
SELECT s.schemaname, s.sequencename, s.increment_by > 0,
       greatest(s.min_value, -b.bound), least(s.max_value, b.bound),
       coalesce(s.last_value, s.start_value - s.increment_by), s.last_value IS NOT NULL
  FROM pg_sequences s
  JOIN pg_namespace n ON n.nspname = s.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
  CROSS JOIN LATERAL (
    SELECT coalesce(min(CASE a.atttypid WHEN 'int2'::regtype THEN 32767
                                        WHEN 'int4'::regtype THEN 2147483647 END),
                    9223372036854775807)
      FROM (SELECT d.refobjid, d.refobjsubid FROM pg_depend d
             WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
               AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
             UNION SELECT f.adrelid, f.adnum FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
             WHERE d.classid = 'pg_attrdef'::regclass AND d.refobjid = c.oid) AS u(rel, col)
      JOIN pg_attribute a ON a.attrelid = u.rel AND a.attnum = u.col) AS b(bound)
 WHERE s.schemaname <> 'shardwright' AND NOT s.cycle ORDER BY 1, 2
"""


class NumbersUsedUp(ReconcilerError):
    """A sequence has too few values left to give both sides of a move a block of their own.

    Each shard gives out values from a block that no other has. What is left of the source's is
    divided with every new shard, so a smallint or int sequence comes to its end.
    """

    code = "MV212"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A sequence: what it may give out, ``first`` to ``last``, and what it gave out latest.

    Its limits are also those of the columns that it fills. Of one that counts down, all is negated.
    ``at`` is before the first value when it was not ``used``.
    """

    schema: str
    name: str
    up: bool
    first: int
    last: int
    at: int
    used: bool


@dataclass(frozen=True, slots=True)
class Block:
    """The values that a sequence shall give out from now on.

    ``restart``: it goes on after ``numbers.at``; ``start``: it begins there for good.
    """

    numbers: Numbers
    restart: bool = False
    start: bool = False

    @property
    def values(self) -> tuple[int, int]:
        """The next value that it gives out, and the last one."""
        n = self.numbers
        return (n.at + 1, n.last) if n.up else (-(n.at + 1), -n.last)

    @property
    def statement(self) -> sql.Composed:
        """Return the ALTER SEQUENCE."""
        n = self.numbers
        low, high = (n.first, n.last) if n.up else (-n.last, -n.first)
        following = sql.Literal(n.at + 1 if n.up else -(n.at + 1))
        words = (("START {}", self.start), ("RESTART {}", self.restart or self.start))
        begin = [sql.SQL(word).format(following) for word, wanted in words if wanted]
        return sql.SQL("ALTER SEQUENCE {} MINVALUE {} MAXVALUE {} {}").format(
            sql.Identifier(n.schema, n.name),
            sql.Literal(low),
            sql.Literal(high),
            sql.SQL(" ").join(begin),
        )


def read_numbers(connection: psycopg.Connection) -> dict[tuple[str, str], Numbers]:
    """Return the sequences here, by schema and name."""
    found = {}
    for schema, name, up, low, high, at, used in connection.execute(_READ):
        ends = (low, high, at) if up else (-high, -low, -at)
        found[schema, name] = Numbers(schema, name, up, *ends, used)
    return found


def shared(
    mine: dict[tuple[str, str], Numbers], theirs: dict[tuple[str, str], Numbers]
) -> list[tuple[Numbers, Numbers]]:
    """Return the pairs of which some value may be given out at both sides."""
    pairs = [(one, theirs[key]) for key, one in mine.items() if key in theirs]
    return [
        (here, there)
        for here, there in pairs
        if here.first <= there.last and there.first <= here.last
    ]


def divided(here: Numbers, there: Numbers) -> tuple[Block, Block]:
    """Return the blocks of a source and a target. Raises NumbersUsedUp."""
    if there.used and here.at < there.first > here.first:
        return Block(replace(here, last=there.first - 1)), Block(there)
    if there.used and there.at < here.first > there.first:
        return Block(here), Block(replace(there, last=here.first - 1))
    at = max(here.at, there.at) if there.used else here.at
    last = min(here.last, EXACT_MAX) if at < EXACT_MAX // 2 else here.last
    left = last - at
    share = left // 64 if left >> 46 else left // 2
    if share < 1:
        raise NumbersUsedUp(
            f"sequence {here.schema}.{here.name}",
            f"it has {left} values left, which are to be divided",
            remedy="make it, and the column that it fills, bigint",
        )
    middle = last - share
    return (
        Block(replace(here, last=middle, at=at), restart=at != here.at),
        Block(replace(there, first=middle + 1, last=last, at=middle), start=True),
    )


def fresh(mine: dict[tuple[str, str], Numbers]) -> dict[tuple[str, str], Numbers]:
    """Return the sequences of a shard that was just made, by those of another one."""
    return {key: replace(one, at=one.first - 1, used=False) for key, one in mine.items()}


def number_blocks(ends: Ends, *, new: bool) -> tuple[NumberBlock, ...]:
    """Return what each side would give out if they were divided now. Raises NumbersUsedUp."""
    with open_session(ends.source) as here:
        mine = read_numbers(here)
    if ends.move.copy is CopyDriver.PHYSICAL:
        theirs = mine
    elif new:
        theirs = fresh(mine)
    else:
        with open_session(ends.target) as there:
            theirs = read_numbers(there)
    found = []
    for one, other in shared(mine, theirs):
        lower, upper = divided(one, other)
        found.append(NumberBlock(f"{one.schema}.{one.name}", lower.values, upper.values))
    return tuple(found)


def divide_sequences(ends: Ends) -> None:
    """Give each side blocks of its own, the target first. Raises NumbersUsedUp, NotReady."""
    with open_session(ends.source) as here, open_session(ends.target) as there:
        for mine, theirs in shared(read_numbers(here), read_numbers(there)):
            lower, upper = divided(mine, theirs)
            _alter(there, ends.target, upper, ends.token)
            _alter(here, ends.source, lower, ends.token)


def _alter(connection: psycopg.Connection, at: Server, block: Block, token: FencingToken) -> None:
    """Change a sequence, again while open transactions have taken values of it."""
    whole = sql.SQL("SELECT shardwright.check_fence({}); SET LOCAL lock_timeout = {}; {}").format(
        sql.Literal(int(token)), sql.Literal(WRITERS_WAIT_MS), block.statement
    )
    for _ in range(ATTEMPTS_MAX):
        try:
            connection.execute(whole)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            connection.execute("SELECT pg_sleep(%s)", [PAUSE_S])
        else:
            return
    raise NotReady(at.subject, f"sequence {block.numbers.name} is in use by a long transaction")


def check_apart(here: psycopg.Connection, there: psycopg.Connection) -> None:
    """Raise NotReady where a sequence gives out the same values at both sides."""
    found = shared(read_numbers(here), read_numbers(there))
    if found:
        raise NotReady("sequences", f"{found[0][0].name} is not divided")
