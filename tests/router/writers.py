"""Writers through the router, each a connection of its own, which keep what was acknowledged."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import asyncpg
import psycopg

from tests.sdk.writers import WRITERS, Book


class PsycopgWriters:
    """Threads: by number autocommit, a transaction of two statements, prepared, or hinted."""

    insert = "INSERT INTO entry (k, id) VALUES (%s, %s)"

    def __init__(self, options: dict[str, Any], keys: list[Any]) -> None:
        self.book = Book(keys)
        self._options = options
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._main, args=(n,)) for n in range(WRITERS)]

    def __enter__(self) -> Book:
        for thread in self._threads:
            thread.start()
        return self.book

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _main(self, number: int) -> None:
        try:
            with psycopg.connect(**self._options, autocommit=True) as client:
                self._write(client, number)
        except BaseException as error:
            self.book.failures.append(error)

    def _write(self, client: psycopg.Connection[Any], number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            key, ident = self.book.keys[turn % len(self.book.keys)], f"{number}-{turn}"
            begun = time.monotonic()
            try:
                self._one(client, number, key, ident)
            except psycopg.OperationalError as error:
                if error.sqlstate == "08006":
                    self.book.not_committed.append(ident)
                elif error.sqlstate == "08007":
                    self.book.unknown.append(ident)
                else:
                    raise
            else:
                self.book.note(begun, ident)

    def _one(self, client: psycopg.Connection[Any], number: int, key: object, ident: str) -> None:
        if number == 0:
            client.execute(self.insert, [key, ident])
        elif number == 1:
            with client.transaction():
                client.execute(self.insert, [key, ident])
                client.execute("SELECT count(*) FROM entry WHERE k = %s", [key])
        elif number == 2:
            client.execute(self.insert, [key, ident], prepare=True)
        else:
            # A literal in a simple query, hinted: what pgbench and scripts send.
            text = f"/* shard_key: {key} */ INSERT INTO entry (k, id) VALUES ({key}, '{ident}')"
            client.execute(text.encode())


class AsyncpgWriters(PsycopgWriters):
    """Tasks in a loop of one thread, on asyncpg: named prepared statements, binary parameters."""

    def __init__(self, options: dict[str, Any], keys: list[Any]) -> None:
        super().__init__(options, keys)
        names = {"dbname": "database", "connect_timeout": "timeout"}
        self._asyncpg = {names.get(n, n): v for n, v in options.items()}
        self._threads = [threading.Thread(target=lambda: asyncio.run(self._tasks()))]

    async def _tasks(self) -> None:
        try:
            await asyncio.gather(*(self._task(n) for n in range(WRITERS)))
        except BaseException as error:
            self.book.failures.append(error)

    async def _task(self, number: int) -> None:
        client: Any = await asyncpg.connect(**self._asyncpg)
        turn = 0
        while not self._over.is_set():
            turn += 1
            key, ident = self.book.keys[turn % len(self.book.keys)], f"a{number}-{turn}"
            begun = time.monotonic()
            insert = "INSERT INTO entry (k, id) VALUES ($1, $2)"
            if number % 2:
                async with client.transaction():
                    await client.execute(insert, key, ident)
            else:
                await client.execute(insert, key, ident)
            self.book.note(begun, ident)
        await client.close()
