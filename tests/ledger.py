"""The ledger writer: it knows what must be true of its rows at the end of any history of moves.

A ``Ledger`` is one session of one client in a thread. It deposits, reads, withdraws and erases at
the accounts it is given, in single statements and in transactions of each isolation level, and
remembers what was acknowledged. ``check`` compares all ledgers with the rows that are there:

* an acknowledged write is there exactly once, an acknowledged delete is gone, and so is whatever
  was refused; only a write whose outcome is unknown may be either;
* each balance is the sum of its entries, and each version the number of committed changes.

While it runs, each statement must find its row (an acknowledged "UPDATE 0" is a lost write), a
balance must be the sum of its entries in any snapshot, and no session may see an older version
than it has seen before.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, LiteralString, Protocol, TypeAlias

from psycopg import IsolationLevel

from reconciler.sdk.routes import Key
from tests.local_home import wait_for

Rows: TypeAlias = list[tuple[Any, ...]]
Query: TypeAlias = tuple[LiteralString, Sequence[Any]]
LEVELS = (
    IsolationLevel.READ_COMMITTED,
    IsolationLevel.REPEATABLE_READ,
    IsolationLevel.SERIALIZABLE,
)
ACCOUNTS, ENTRIES = "SELECT id, balance, version FROM accounts", "SELECT * FROM entries"


def ledger_tables(key_type: str = "bigint") -> str:
    """Return the schema; the key is in each primary key."""
    return f"""\
create table accounts (
  id {key_type} primary key, balance bigint not null default 0, version bigint not null default 0
);
create table entries (
  account_id {key_type} not null references accounts (id), mark text not null,
  amount bigint not null, primary key (account_id, mark)
);
"""


class NotDone(Exception):
    """Nothing was committed, for sure."""


class Refused(NotDone):
    """A shard refused the key (PS001)."""


class Again(NotDone):
    """The isolation level or a deadlock asks for the transaction to be run again."""


class Unknown(Exception):
    """Nobody knows whether it was committed."""


class Session(Protocol):
    """One client's session. ``run`` raises NotDone, Unknown; anything else is a failed client."""

    def run(self, key: Key, work: Sequence[Query], level: IsolationLevel | None) -> list[Rows]:
        """Run statements in one transaction, or one alone without (``level`` None)."""

    def close(self) -> None:
        """End."""


@dataclass
class Ledger:
    """One writer. ``stale``: it never hears of a new map, so a refusal is the end of that write.

    ``pace_s`` is its pause between writes: the machine belongs to the servers.
    """

    name: str
    open_session: Callable[[], Session]
    keys: Sequence[Key]
    stale: bool = False
    pace_s: float = 0.002
    there: dict[str, Key] = field(default_factory=dict)
    """Entries that must be there, by mark."""
    gone: set[str] = field(default_factory=set)
    """Entries that must not be there: deleted, or never written."""
    unknown: dict[str, Key] = field(default_factory=dict)
    changes: Counter[Key] = field(default_factory=Counter)
    """Acknowledged changes of each account."""
    maybe: Counter[Key] = field(default_factory=Counter)
    """Changes of unknown outcome."""
    acknowledged: int = 0
    refused: int = 0
    again: int = 0
    lost: list[str] = field(default_factory=list)
    """Why writes were not done, or why nobody knows: sessions that broke."""
    longest_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    """What must never happen; empty."""
    _amounts: dict[str, int] = field(default_factory=dict)
    _seen: dict[Key, int] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Ledger:
        self._thread = threading.Thread(target=self._main, name=self.name, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def await_more(self, count: int = 50) -> None:
        """Wait until so many more writes are acknowledged."""
        goal = self.acknowledged + count
        wait_for(lambda: self.problems or self.acknowledged >= goal, f"{count} writes: {self.name}")
        assert not self.problems, self.problems

    def _main(self) -> None:
        chance = Random(self.name)  # noqa: S311  only chooses what is written next
        number, session = 0, self.open_session()
        try:
            while not self._over.is_set():
                number += 1
                self._turn(session, chance, f"{self.name}-{number}")
                time.sleep(self.pace_s)
        except BaseException as error:
            self.problems.append(f"{self.name} failed: {type(error).__name__}: {error}")
        finally:
            session.close()

    def _turn(self, session: Session, chance: Random, mark: str) -> None:
        key, level = chance.choice(self.keys), chance.choice(LEVELS)
        kind = chance.choice(("deposit", "at once", "note", "read", "withdraw", "erase"))
        if kind == "read":
            self._read(session, key, level)
        elif kind == "deposit":
            self._write(session, key, mark, 1, [_change(key, 1), _entry(key, mark, 1)], level)
        elif kind == "at once":
            self._write(session, key, mark, 1, [_deposit(key, mark)], None)
        elif kind == "note":
            self._write(session, key, mark, 0, [_entry(key, mark, 0)], None)
        else:
            amount = 1 if kind == "withdraw" else 0
            old = next((m for m in self.there if self._amounts[m] == amount), None)
            if old is not None:
                self._delete(session, self.there[old], old, level)

    def _read(self, session: Session, key: Key, level: IsolationLevel) -> None:
        try:
            found = self._run(session, key, [(READ, [key])], level)
        except Unknown as why:  # of a read: nothing was written
            self.lost.append(f"unknown: {why}")
            return
        if found is None or self.stale:  # nothing stops a stale client from reading what was
            return
        if len(found[0]) != 1:
            self.problems.append(f"{self.name}: account {key} was read as {found[0]}")
            return
        version, balance, total = found[0][0]
        if balance != total:
            self.problems.append(f"{self.name}: {key} has {balance}, its entries {total}")
        self._note_version(key, version)

    def _note_version(self, key: Key, version: int) -> None:
        if version < self._seen.get(key, 0):
            self.problems.append(f"{self.name}: {key} went from {self._seen[key]} to {version}")
        self._seen[key] = version

    def _write(
        self, session: Session, key: Key, mark: str, amount: int, work: list[Query],
        level: IsolationLevel | None,
    ) -> None:  # fmt: skip
        self._amounts[mark] = amount
        self.unknown[mark] = key  # until it is known
        self.maybe[key] += amount
        try:
            found = self._run(session, key, work, level)
        except Unknown as why:
            self.lost.append(f"unknown: {why}")
            return
        del self.unknown[mark]
        self.maybe[key] -= amount
        if found is None:
            self.gone.add(mark)
            return
        self.there[mark] = key
        self._done(key, found, amount)

    def _delete(self, session: Session, key: Key, mark: str, level: IsolationLevel) -> None:
        amount = self._amounts[mark]
        work: list[Query] = [(DELETE, [key, mark]), *([_change(key, -1)] if amount else [])]
        self.unknown[mark] = self.there.pop(mark)
        self.maybe[key] += amount
        try:
            found = self._run(session, key, work, level if amount else None)
        except Unknown as why:
            self.lost.append(f"unknown: {why}")
            return
        del self.unknown[mark]
        self.maybe[key] -= amount
        if found is None:
            self.there[mark] = key
            return
        self.gone.add(mark)
        self._done(key, found, amount)

    def _done(self, key: Key, found: list[Rows], amount: int) -> None:
        self.acknowledged += 1
        self.changes[key] += amount
        if any(len(rows) != 1 for rows in found):
            self.problems.append(f"{self.name}: acknowledged, and done nowhere: {key}")
        for rows in found:
            for value in rows[0] if rows else ():
                if isinstance(value, int) and not self.stale:
                    self._note_version(key, value)

    def _run(
        self, session: Session, key: Key, work: list[Query], level: IsolationLevel | None
    ) -> list[Rows] | None:
        """Return what it found; None when nothing was committed and it is not tried again."""
        begun = time.monotonic()
        while True:
            try:
                found = session.run(key, work, level)
            except Again:
                self.again += 1
            except Refused:
                self.refused += 1
                if self.stale or self._over.is_set():
                    return None
                time.sleep(0.005)
            except NotDone as why:
                self.lost.append(str(why))
                return None
            else:
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                return found


READ: LiteralString = (
    "SELECT version, balance, (SELECT coalesce(sum(amount), 0)::bigint FROM entries"
    " WHERE account_id = a.id) FROM accounts a WHERE a.id = %s"
)
DELETE: LiteralString = "DELETE FROM entries WHERE account_id = %s AND mark = %s RETURNING mark"


def _change(key: Key, amount: int) -> Query:
    return (
        "UPDATE accounts SET balance = balance + %s, version = version + 1 WHERE id = %s"
        " RETURNING version",
        [amount, key],
    )


def _entry(key: Key, mark: str, amount: int) -> Query:
    return (
        "INSERT INTO entries (account_id, mark, amount) VALUES (%s, %s, %s) RETURNING mark",
        [key, mark, amount],
    )


def _deposit(key: Key, mark: str) -> Query:
    return (
        "WITH a AS (UPDATE accounts SET balance = balance + 1, version = version + 1 WHERE id = %s"
        " RETURNING version) INSERT INTO entries (account_id, mark, amount)"
        " SELECT %s, %s, 1 FROM a RETURNING (SELECT version FROM a)",
        [key, key, mark],
    )


def check(accounts: Rows, entries: Rows, *ledgers: Ledger) -> None:
    """Check the rows at their owners (``ACCOUNTS``, ``ENTRIES``) against what ledgers know.

    Accounts begin at 0; nobody else writes.
    """
    for ledger in ledgers:
        assert not ledger.problems, ledger.problems[:5]
        assert ledger.acknowledged, f"{ledger.name} wrote nothing"
    _check_entries(entries, ledgers)
    _check_accounts(accounts, entries, ledgers)


def _check_entries(entries: Rows, ledgers: Sequence[Ledger]) -> None:
    marks = Counter(mark for _, mark, _ in entries)
    doubled = [mark for mark, times in marks.items() if times > 1]
    assert not doubled, f"{len(doubled)} doubled: {doubled[:5]}"
    for ledger in ledgers:
        lost = [mark for mark in ledger.there if mark not in marks]
        assert not lost, f"{ledger.name}: {len(lost)} acknowledged writes lost: {lost[:5]}"
        undead = ledger.gone & marks.keys()
        assert not undead, f"{ledger.name}: {len(undead)} are there again: {sorted(undead)[:5]}"
    known = _union(ledger.there.keys() | ledger.unknown.keys() for ledger in ledgers)
    strange = marks.keys() - known
    assert not strange, f"nobody wrote {sorted(strange)[:5]}"


def _check_accounts(accounts: Rows, entries: Rows, ledgers: Sequence[Ledger]) -> None:
    sums: Counter[Key] = Counter()
    for key, _, amount in entries:
        sums[key] += amount
    seen = Counter(key for key, _, _ in accounts)
    wanted = _union(set(ledger.keys) for ledger in ledgers)
    assert wanted <= seen.keys(), f"accounts lost: {wanted - seen.keys()}"
    assert max(seen.values()) == 1, f"accounts doubled: {seen.most_common(5)}"
    for key, balance, version in accounts:
        assert balance == sums[key], f"{key} has {balance}, its entries {sums[key]}"
        least = sum(ledger.changes[key] for ledger in ledgers)
        most = least + sum(ledger.maybe[key] for ledger in ledgers)
        assert least <= version <= most, f"{key}: {version} changes, {least} to {most} known"


def _union(sets: Iterable[set[Any]]) -> set[Any]:
    return set().union(*sets)
