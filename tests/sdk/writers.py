"""Writers through the client, as threads or tasks, which keep what was acknowledged."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from reconciler.sdk import AsyncShards, Config, OutcomeUnknown, Shards, TransactionLost
from reconciler.sdk.routes import Key
from tests.local_home import wait_for
from tests.sdk.scene import Scene

WRITERS = 4
INSERT = "INSERT INTO entry (k, id) VALUES (%s, %s)"


@dataclass(slots=True)
class Book:
    """What the writers saw: acknowledged ids, those of unknown outcome, and what went wrong."""

    keys: list[Key]
    acknowledged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    not_committed: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    longest_s: float = 0.0

    def note(self, begun: float, ident: str) -> None:
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        self.acknowledged.append(ident)

    def await_more(self, count: int = 100) -> None:
        goal = len(self.acknowledged) + count
        wait_for(lambda: self.failures or len(self.acknowledged) >= goal, f"{count} more writes")
        assert not self.failures, self.failures

    def check(self, rows: list[tuple[Any, ...]]) -> None:
        """Every acknowledged write is there once; nothing else but writes of unknown outcome."""
        there = [ident for _, ident in rows]
        assert len(there) == len(set(there)), "duplicates"
        lost = set(self.acknowledged) - set(there)
        assert not lost, f"{len(lost)} lost"
        extra = set(there) - set(self.acknowledged) - set(self.unknown)
        assert not extra, f"{len(extra)} extra"
        assert not set(self.not_committed) & set(there)


class SyncWriters:
    """Threads that share one client; odd ones use ``run``, even ones ``execute``."""

    def __init__(self, scene: Scene | Config, keys: list[Key]) -> None:
        self.shards = Shards(scene if isinstance(scene, Config) else scene.config())
        self.book = Book(keys)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]

    def __enter__(self) -> Book:
        self.shards.open()
        for thread in self._threads:
            thread.start()
        return self.book

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.shards.close()

    def _write(self, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            key, ident = (
                self.book.keys[turn % len(self.book.keys)],
                f"{type(self).__name__}-{number}-{turn}",
            )
            begun = time.monotonic()
            try:
                if number % 2:
                    self.shards.run(key, lambda tx: tx.execute(INSERT, [key, ident]))  # noqa: B023
                else:
                    self.shards.execute(key, INSERT, [key, ident])
            except OutcomeUnknown:
                self.book.unknown.append(ident)
            except TransactionLost:
                self.book.not_committed.append(ident)
            except BaseException as error:
                self.book.failures.append(error)
                return
            else:
                self.book.note(begun, ident)


class AsyncWriters:
    """Tasks that share one client, in an event loop of a thread of their own."""

    def __init__(self, scene: Scene | Config, keys: list[Key]) -> None:
        self._config = scene if isinstance(scene, Config) else scene.config()
        self.book = Book(keys)
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    def __enter__(self) -> Book:
        self._thread.start()
        return self.book

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _main(self) -> None:
        try:
            async with AsyncShards(self._config) as shards:
                await asyncio.gather(*(self._write(shards, n) for n in range(WRITERS)))
        except BaseException as error:
            self.book.failures.append(error)

    async def _write(self, shards: AsyncShards, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            key, ident = (
                self.book.keys[turn % len(self.book.keys)],
                f"{type(self).__name__}-{number}-{turn}",
            )
            begun = time.monotonic()
            try:
                if number % 2:
                    await shards.run(key, lambda tx: tx.execute(INSERT, [key, ident]))  # noqa: B023
                else:
                    await shards.execute(key, INSERT, [key, ident])
            except OutcomeUnknown:
                self.book.unknown.append(ident)
            except TransactionLost:
                self.book.not_committed.append(ident)
            else:
                self.book.note(begun, ident)


WRITER_KINDS: tuple[type[SyncWriters] | type[AsyncWriters], ...] = (SyncWriters, AsyncWriters)
