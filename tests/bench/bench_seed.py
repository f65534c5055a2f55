"""A whole shard by a physical copy beside the same by our own copier.

    .venv/bin/python -m tests.bench.bench_seed [--rows 3000000]

One shard with one table and two indexes is replaced by a new shard, all of whose keys move, twice:
once by rows and once by bytes, each on a platform of its own. The time is that of the acts that
bring the rows, from the first copy to the last index; preparing, comparing and cutting over are the
same for both. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import datetime
from pathlib import Path

from reconciler.edges.local import lifecycle
from reconciler.engine.logbook import read_logbook
from reconciler.engine.wishes import moves_under_way
from tests.e2e.scene import Scene, spec_text
from tests.local_home import fresh_home

TABLE = """\
create table orders (customer_id bigint, id bigint, state text, note text,
  primary key (customer_id, id));
create index orders_state on orders (state, id);
create index orders_id on orders (id);
"""
FILL = """
INSERT INTO orders
SELECT n % 50000, n, (ARRAY['open', 'paid', 'sent'])[1 + n % 3], repeat(md5(n::text), 6)
  FROM generate_series(1, {rows}) n
"""
ACTS = ("Copy", "BuildIndexes")


def text_of(shard: str, copy: str) -> str:
    more = f"  resharding: {{copy: {copy}, pauseMax: 60s, throttle: {{latencyMax: 1000x}}}}\n"
    return spec_text(
        "big", f'{{name: {shard}, keys: ["-"]}}', tables="{orders: customer_id}", reference="[]",
        more=more,
    )  # fmt: skip


def seconds(copy: str, rows: int) -> tuple[float, int]:
    """Return how long the rows took to come, and the bytes of the source."""
    with fresh_home() as home, tempfile.TemporaryDirectory() as folder:
        lifecycle.up(home)
        scene = Scene(home, Path(folder))
        files = scene.specs / "big"
        files.mkdir(parents=True)
        (files / "001.sql").write_text(TABLE)
        scene.write("big", text_of("s0", copy))
        scene.applied()
        scene.sql("big", FILL.format(rows=rows))
        ((size,),) = scene.sql("big", "SELECT pg_database_size(current_database())")
        scene.write("big", text_of("s1", copy))
        ended = scene.apply()
        assert not ended.failed, scene.failures()
        store = scene.world().eyes.store
        (move,) = moves_under_way(store)
        lines = [line for line in read_logbook(store, move).lines if line.act in ACTS]
        taken = sum(
            (
                datetime.fromisoformat(line.ended_at) - datetime.fromisoformat(line.begun_at)
            ).total_seconds()
            for line in lines
        )
        return taken, int(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=3_000_000)
    rows = parser.parse_args().rows
    by_rows, size = seconds("own", rows)
    print(
        f"by rows: {by_rows:.1f} s, {size / 1e6:.0f} MB, {size / by_rows / 1e6:.0f} MB/s",
        flush=True,
    )
    by_bytes, size = seconds("physical", rows)
    print(f"by bytes: {by_bytes:.1f} s, {size / by_bytes / 1e6:.0f} MB/s")
    print(f"by bytes takes {by_bytes / by_rows:.2f} of the time")


if __name__ == "__main__":
    main()
