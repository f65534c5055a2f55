"""The pause of writes in a failover and in a switchover, beside Patroni left alone.

``python -m tests.bench.bench_failover [REPETITIONS [PLAIN_REPETITIONS]]`` (10 and 3). Both run on
the same shard: real etcd, two synchronous members, the local platform's Patroni (ttl 20 s), one
writer that reconnects every 20 ms. *Plain* is the same shard after its supervisors were killed:
Patroni and PostgreSQL run on, and nobody gives a lease up.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.edges.local import lifecycle
from tests.local_home import fresh_home, wait_for
from tests.platform.failover_shard import FailoverShard, Writer


@dataclass(frozen=True, slots=True)
class Series:
    """The gaps of one event, in seconds, and how many acknowledged writes were lost in all."""

    gaps_s: tuple[float, ...]
    acknowledged: int
    lost: int

    @property
    def median_s(self) -> float:
        return statistics.median(self.gaps_s)


def measure(shard: FailoverShard, event: Callable[[str, str], None], repetitions: int) -> Series:
    gaps, acknowledged, lost = [], 0, 0
    for _ in range(repetitions):
        shard.await_ready()
        old, new = shard.leader(), shard.standby()
        with Writer(shard) as writer:
            event(old, new)
            wait_for(lambda new=new: shard.leader() == new, "the standby leads")  # type: ignore[misc]
            writer.await_writes()
        gaps.append(writer.gap_s)
        acknowledged += len(writer.acknowledged)
        lost += len(writer.lost())
        sys.stderr.write(f"  {old} -> {new}: {writer.gap_s:.2f} s\n")
    return Series(tuple(gaps), acknowledged, lost)


def leave_to_patroni(shard: FailoverShard) -> None:
    """Bring the shard up, then kill its supervisors, all before one of them can be revived."""
    lifecycle.up(shard.root)
    shard.await_ready()
    for name in shard.members():
        shard.kill(name, "supervisor")


def main(arguments: list[str]) -> None:
    repetitions, plain_repetitions = (*map(int, arguments), *(10, 3)[len(arguments) :])
    with fresh_home() as root:
        shard = FailoverShard(root)

        def kill(old: str, _new: str) -> None:
            shard.kill(old, "patroni", "postgres")

        def kill_with_supervisor(old: str, _new: str) -> None:
            shard.kill(old, "supervisor", "patroni", "postgres")

        def switch(_old: str, new: str) -> None:
            shard.switch_over(to=new)

        def plainly(event: Callable[[str, str], None]) -> Series:
            parts = []
            for _ in range(plain_repetitions):
                leave_to_patroni(shard)
                parts.append(measure(shard, event, 1))
            lifecycle.up(shard.root)
            return Series(
                tuple(gap for part in parts for gap in part.gaps_s),
                sum(part.acknowledged for part in parts),
                sum(part.lost for part in parts),
            )

        rows = [
            ("kill -9 of a whole primary", measure(shard, kill, repetitions), plainly(kill)),
            ("planned switchover", measure(shard, switch, repetitions), plainly(switch)),
        ]
        together = measure(shard, kill_with_supervisor, repetitions)
        rows.append(("kill -9, supervisor too", together, rows[0][2]))
    print_table(rows)


def print_table(rows: list[tuple[str, Series, Series]]) -> None:
    print(
        f"{'event':28} {'median s':>9} {'worst s':>8} {'plain s':>8} {'ratio':>6} {'lost of':>12}"
    )
    for name, fast, plain in rows:
        counts = f"{fast.lost + plain.lost} of {fast.acknowledged + plain.acknowledged}"
        print(
            f"{name:28} {fast.median_s:9.2f} {max(fast.gaps_s):8.2f} {plain.median_s:8.2f}"
            f" {plain.median_s / fast.median_s:5.0f}x {counts:>12}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
