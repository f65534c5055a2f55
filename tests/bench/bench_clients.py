"""What clients feel of cuts: the write gap through SDK and router; and the memory of 50 moves.

    .venv/bin/python -m tests.bench.bench_clients [--cuts 100] [--rate 1500] [--version system-15]

Half the keys of a shard move to another one and back, again and again; each way is one cut, and
each way there a whole move: copy, verification, way back, clean-up. Two threads write through the
SDK, two through the router, half of the rate each. The *write gap* of a cut is the longest time
without an acknowledged write to the keys that move, around that cut; beside it is the same of as
many moments in which nothing moved. At the end every acknowledged write must be there once.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, LiteralString

import psutil
import psycopg

from reconciler.edges.etcd import EtcdStore
from reconciler.model.access import Lease
from reconciler.model.hashing import position_of_key
from reconciler.model.moves import MoveId, Side, Stage, Wish
from reconciler.model.names import Epoch, MemberName
from reconciler.model.platform import TlsFiles
from reconciler.model.records import encode_routing, routing_key
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner
from reconciler.router.processes import listen_on
from reconciler.router.scram import make_verifier
from reconciler.router.server import RouterConfig, serve
from reconciler.sdk import Config, Shards
from reconciler.workflow import reshard_acts as acts
from tests.bench.bench_move import replace_mover, servers
from tests.edges.replication_world import MoveWorld, Pair, load_accounts, make_world
from tests.edges.servers import EtcdServer, etcd_binary, postgres_binaries

ACCOUNTS, THREADS = 2000, 2
PASSWORD = "the router's own"
DEPOSIT: LiteralString = (
    "WITH changed AS (UPDATE accounts SET balance = balance + 1 WHERE id = %s RETURNING id)"
    " INSERT INTO entries (account_id, mark) SELECT %s, %s FROM changed"
)
Write = Callable[[int, str], None]
_fork = get_context("fork")


@dataclass
class RoutedWorld(MoveWorld):
    """A move that clients hear of through etcd, as an apply's does."""

    store: EtcdStore | None = None
    lease: Lease | None = None
    cuts: list[tuple[float, float]] = field(default_factory=list)

    def note_cut(self, result: Any) -> None:
        if result.opened:
            back = self.owner is Side.TARGET
            self.publish(Epoch(self.map_epoch + 1), Side.SOURCE if back else Side.TARGET)
        super().note_cut(result)

    def publish(self, epoch: Epoch, owner: Side) -> None:
        moved = self.move.keys
        source = self.move.source_keys - moved if owner is Side.TARGET else self.move.source_keys
        target = self.move.target_keys | moved if owner is Side.TARGET else self.move.target_keys
        owners = tuple(
            RoutingOwner(name, scope.scope, keys, (RoutingMember(MemberName(name), at),))
            for name, scope, keys, at in (
                (self.move.source, self.move.source_scope, source, self.source.primary),
                (self.move.target, self.move.target_scope, target, self.target.primary),
            )
        )
        tables = tuple((table.name, table.key) for table in self.move.tables)
        routing = RoutingMap(
            self.move.database, epoch, self.move.key_type, tables, (), owners
        )  # fmt: skip
        assert self.store is not None
        # Held all the while, as an applier holds its own: within a cut there is one write.
        self.lease = self.lease or self.store.acquire("/bench/applier", "bench", 3600)
        record = encode_routing(routing)
        self.store.write({routing_key(self.move.database): (record, None)}, self.lease)
        self.map_epoch, self.owner = epoch, owner

    def _perform(self, act: acts.Step) -> None:
        begun = time.monotonic()
        super()._perform(act)
        if isinstance(act, acts.Cut | acts.RollBackCut):
            self.cuts.append((begun, time.monotonic()))


def make_routed(pair: Pair, store: EtcdStore) -> RoutedWorld:
    world = replace_mover(make_world(pair, pause_max_ms=1000))
    load_accounts(world, ACCOUNTS)
    routed = RoutedWorld(world.source, world.target, world.move, world.mover, store=store)
    routed.publish(routed.map_epoch, Side.SOURCE)
    return routed


@dataclass
class Client:
    """Writes in a process of its own, a share of the rate; answers with what it saw."""

    open_session: Callable[[], Any]
    writing: Callable[[Any], Write]
    name: str
    rate: float
    stop: Any = field(default_factory=lambda: _fork.Value("i", 0))
    answer: Any = field(default_factory=_fork.Queue)

    def main(self) -> None:
        self.acks: list[tuple[float, float, int, str]] = []
        self.failed: list[str] = []
        shared = self.open_session()
        threads = [threading.Thread(target=self._thread, args=(shared, n)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.answer.put((self.acks, self.failed))

    def _thread(self, shared: Any, number: int) -> None:
        random, write, turn = Random(number), self.writing(shared), 0  # noqa: S311
        due = time.monotonic()
        while not self.stop.value:
            turn += 1
            due = max(due + THREADS / self.rate, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
            key, mark = random.randint(1, ACCOUNTS), f"{self.name}{number}-{turn}"
            begun = time.monotonic()
            try:
                write(key, mark)
            except psycopg.Error as error:
                self.failed.append(f"{self.name}: {error}")
            else:
                now = time.monotonic()
                self.acks.append((now, now - begun, key, mark))


def sdk_client(config: Config, rate: float) -> Client:
    def writing(shards: Shards) -> Write:
        return lambda key, mark: void(shards.execute(key, DEPOSIT, [key, key, mark]))

    return Client(lambda: Shards(config).open(), writing, "sdk", rate)


def router_client(options: dict[str, Any], rate: float) -> Client:
    def writing(_: None) -> Write:
        session = psycopg.connect(**options, autocommit=True)
        return lambda key, mark: void(session.execute(DEPOSIT, [key, key, mark]))

    return Client(lambda: None, writing, "router", rate)


def void(_: object) -> None:
    return


@contextmanager
def routing(world: RoutedWorld, etcd: str, tls: TlsFiles) -> Iterator[dict[str, Any]]:
    listener = listen_on("127.0.0.1", 0)
    config = RouterConfig(
        world.move.database, (etcd,), tls, lambda scope: world.source.app,
        lambda: {"client": make_verifier(PASSWORD)}, port=0,
    )  # fmt: skip
    logging.getLogger("reconciler").setLevel(logging.CRITICAL)
    process = _fork.Process(target=serve, args=(config, 0, listener))
    process.start()
    try:
        yield {
            "host": "127.0.0.1", "port": listener.getsockname()[1], "user": "client",
            "password": PASSWORD, "dbname": world.move.database.name,
        }  # fmt: skip
    finally:
        process.terminate()
        process.join(60)


def move_there_and_back(world: RoutedWorld, number: int) -> None:
    first = world.move
    world.move = replace(
        first, id=MoveId(f"b{number:08x}"), epoch=Epoch(world.map_epoch + 1)
    )  # fmt: skip
    world.go()
    time.sleep(0.3)
    world.wish(Wish.ROLLBACK)
    world.go()
    assert world.owner is Side.SOURCE
    world.move = replace(first, wish=Wish.FORWARD, stage=Stage.BEFORE, pauses_ms=())


def gaps_ms(acks: list[float], windows: list[tuple[float, float]]) -> list[float]:
    """Return the longest time without a write in each window and a little around it."""
    found = []
    for begun, ended in windows:
        near = acks[bisect_left(acks, begun - 0.05) : bisect_left(acks, ended + 0.5)]
        found.append(max((b - a for a, b in pairwise(near)), default=0) * 1000)
    return found


def measure(world: RoutedWorld, clients: list[Client], cuts: int) -> None:
    processes = [_fork.Process(target=client.main) for client in clients]
    for process in processes:
        process.start()
    time.sleep(3)
    quiet = [(at, at + 0.03) for at in (time.monotonic() + n * 0.05 for n in range(cuts))]
    time.sleep(max(0.0, quiet[-1][1] + 0.6 - time.monotonic()))
    memory = []
    for number in range(-(-cuts // 2)):
        move_there_and_back(world, number)
        memory.append(psutil.Process().memory_info().rss / 1_048_576)
    time.sleep(0.6)
    answers = []
    for client, process in zip(clients, processes, strict=True):
        client.stop.value = 1
        answers.append(client.answer.get())
        process.join()
    tell(world, answers, quiet)
    at = min(4, len(memory) - 1)
    print(
        f"memory of the mover: {memory[at]:.0f} MiB after {at + 1} moves,"
        f" {memory[-1]:.0f} MiB after {len(memory)}"
    )


def tell(world: RoutedWorld, answers: list[Any], quiet: list[tuple[float, float]]) -> None:
    moved = {
        k for k in range(1, ACCOUNTS + 1) if position_of_key("bigint", str(k)) in world.move.keys
    }
    every = [ack for acks, _ in answers for ack in acks]
    times = sorted(at for at, _, key, _ in every if key in moved)
    rate = len(every) / (max(a[0] for a in every) - min(a[0] for a in every))
    for what, windows in (("cuts", world.cuts), ("moments without", quiet)):
        gaps = sorted(gaps_ms(times, windows))
        print(
            f"write gap over {len(gaps)} {what}, {rate:.0f} writes/s, ms: median"
            f" {statistics.median(gaps):.1f}, largest {gaps[-1]:.1f}"
        )
    for name, (acks, failed) in zip(("sdk", "router"), answers, strict=True):
        waits = sorted(wait * 1000 for _, wait, _, _ in acks)
        print(
            f"  through the {name}: {len(acks)} writes, failed {len(failed)}, longest wait"
            f" {waits[-1]:.0f} ms, p99 {waits[len(waits) * 99 // 100]:.1f} ms"
        )
        for text in failed[:3]:
            print(f"    {text}")
    there = Counter(mark for (mark,) in world.source.rows("SELECT mark FROM entries"))
    lost = sum(1 for *_, mark in every if not there[mark])
    doubled = sum(1 for times in there.values() if times > 1)
    print(f"  lost {lost}, doubled {doubled}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1500)
    parser.add_argument("--version", default=sorted(postgres_binaries())[0])
    chosen = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} before; both shards and all clients on this host")
    folder = Path(tempfile.mkdtemp(prefix="sw-bench-"))
    with servers(chosen.version) as pair:
        etcd = EtcdServer(etcd_binary(), folder, pair.source.tls)
        etcd.start()
        try:
            world = make_routed(pair, EtcdStore((etcd.endpoint,), pair.source.tls))
            config = Config(
                etcd_endpoints=(etcd.endpoint,), database=world.move.database.name,
                password=world.source.app.password, tls=pair.source.tls,
            )  # fmt: skip
            with routing(world, etcd.endpoint, pair.source.tls) as options:
                time.sleep(1)
                half = chosen.rate / 2
                measure(
                    world, [sdk_client(config, half), router_client(options, half)], chosen.cuts
                )
        finally:
            etcd.stop()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
