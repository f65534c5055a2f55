"""What one value means beside another."""

from __future__ import annotations

from itertools import pairwise

import pytest

from reconciler.model.hashing import position_of_key
from reconciler.model.keyspace import SPACE_END, KeyRange, gaps
from reconciler.spec.quantities import cpu_cores, duration_ms, ratio, size_bytes
from tests.spec.texts import GOOD, database, load, problems, spoilt

BOTH = '    - {name: s0, keys: ["-80"]}\n    - {name: s1, keys: ["80-"], instances: 3}\n'


def shards(*lines: str) -> str:
    return "".join(f"    - {{{line}}}\n" for line in lines)


def test_defaults_hold_for_every_shard_that_does_not_say_otherwise() -> None:
    found = database(GOOD)
    assert [(s.name, s.instances, s.synchronous, str(s.keys)) for s in found.shards] == [
        ("s0", 2, True, "-80"),
        ("s1", 3, True, "80-"),
    ]
    assert found.sharding.tables[0].name == "public.orders"
    assert found.sharding.reference == ("public.countries",)


def test_a_shard_overrides_a_part_of_a_default() -> None:
    text = GOOD.replace("instances: 2", "storage: {size: 20Gi, class: fast}").replace(
        "instances: 3", "storage: {size: 50Gi}, resources: {cpu: 2}, synchronous: false"
    )
    s0, s1 = database(text).shards
    assert (s0.resources.storage_size, s0.resources.storage_class) == ("20Gi", "fast")
    assert (s1.resources.storage_size, s1.resources.storage_class) == ("50Gi", "fast")
    assert (s1.resources.cpu, s1.synchronous, s1.instances) == ("2", False, 1)


def test_an_overlap_says_which_shards_and_how_to_part_them() -> None:
    assert spoilt('"80-"', '"7f-"') == [
        "SP102 a.yaml:18:25  shop: shards s0 (-80) and s1 (7f-) overlap in 7f-80\n"
        "      try: end s0 at 7f, or start s1 at 80"
    ]


def test_all_overlaps_are_found_when_one_range_holds_others() -> None:
    text = shards('name: a, keys: ["-"]', 'name: b, keys: ["20-40"]', 'name: c, keys: ["80-90"]')
    assert [p.split("  ")[1] for p in spoilt(BOTH, text)] == [
        "shop: shards a (-) and b (20-40) overlap in 20-40\n",
        "shop: shards a (-) and c (80-90) overlap in 80-90\n",
    ]


def test_a_gap_says_what_nobody_owns() -> None:
    assert spoilt('"80-"', '"90-"') == [
        "SP101 a.yaml:16:3  shop: no shard owns keys 80-90\n"
        "      try: end s0 at 90, or start s1 at 80"
    ]
    assert spoilt('"80-"', '"80-c0"') == [
        "SP101 a.yaml:16:3  shop: no shard owns keys c0-\n      try: let s1 end open"
    ]
    assert spoilt('"-80"', '"40-80"')[0].endswith(
        "no shard owns keys -40\n      try: let s0 start open"
    )


@pytest.mark.parametrize("text", ["80", "-8G", "80-40", "0x80-", "-80-", "a" * 200])
def test_what_is_no_range_is_refused_at_its_place(text: str) -> None:
    (problem,) = spoilt('"80-"', f'"{text}"')
    assert problem.startswith("SP103 a.yaml:18:25  shard s1: ")
    assert ("at most 16 lower-case hexadecimal digits" in problem) == (text != "80-40")


def test_an_isolated_key_is_taken_out_of_every_other_range() -> None:
    text = shards('name: s0, keys: ["-"]', "name: vip, keys: [{value: 42}]")
    s0, vip = database(GOOD.replace(BOTH, text)).shards
    position = position_of_key("bigint", "42")
    assert vip.keys.ranges == (KeyRange(position, position + 1),)
    assert position not in s0.keys
    assert not gaps([s0.keys, vip.keys])
    assert s0.keys.share + vip.keys.share == 1.0


def test_an_isolated_key_may_fill_a_gap_of_its_own_size() -> None:
    position = position_of_key("bigint", "42")
    text = shards(
        f'name: a, keys: ["-{position:016x}"]',
        f'name: b, keys: ["{position + 1:016x}-"]',
        "name: c, keys: [{value: 42}]",
    )
    assert len(database(GOOD.replace(BOTH, text)).shards) == 3


@pytest.mark.parametrize(
    ("key_type", "value"),
    [("bigint", "abc"), ("int", str(1 << 31)), ("bigint", '"1_000"'), ("uuid", "12"),
     ("bigint", '" 7"'), ("bigint", str(1 << 63))],
)  # fmt: skip
def test_an_isolated_key_is_of_the_shard_keys_type(key_type: str, value: str) -> None:
    text = shards('name: s0, keys: ["-"]', f"name: vip, keys: [{{value: {value}}}]")
    found = problems(GOOD.replace(BOTH, text).replace("bigint", key_type))
    assert [p[:5] for p in found] == ["SP104"]
    assert found[0].endswith(f"try: sharding.type is {key_type}")


def test_a_key_is_isolated_once() -> None:
    text = shards(
        'name: s0, keys: ["-"]', "name: a, keys: [{value: 1}]", "name: b, keys: [{value: 1}]"
    )
    (problem,) = spoilt(BOTH, text)
    assert "shop: shards a and b both isolate the same key" in problem
    text = shards('name: s0, keys: ["-"]', "name: a, keys: [{value: 1}, {value: 1}]")
    (problem,) = spoilt(BOTH, text)
    assert "shop: shard a isolates the same key twice\n      try: write it once" in problem


def test_a_shard_with_nothing_left_is_refused() -> None:
    position = position_of_key("bigint", "42")
    text = shards(
        f'name: a, keys: ["-{position:016x}", "{position + 1:016x}-"]',
        f'name: b, keys: ["{position:016x}-{position + 1:016x}"]',
        "name: c, keys: [{value: 42}]",
    )
    (problem,) = spoilt(BOTH, text)
    assert problem.startswith("SP112 a.yaml:18:7  shop: shard b owns nothing")


def test_two_shards_of_one_name_are_refused() -> None:
    assert spoilt("name: s1", "name: s0") == [
        "SP105 a.yaml:18:8  shop: two shards have the name s0\n      try: give each its own name"
    ]


@pytest.mark.parametrize("reference", ["[orders]", "[public.orders]", "[c, public.c]", "[c, c]"])
def test_a_table_is_declared_once(reference: str) -> None:
    found = spoilt("reference: [countries]", f"reference: {reference}")
    assert [p[:5] for p in found] == ["SP106"]


def test_a_table_declared_twice_says_as_what() -> None:
    assert spoilt("[countries]", "[public.orders]") == [
        "SP106 a.yaml:13:17  shop: table public.orders is a reference table, and is already "
        "declared as a sharded table\n      try: declare it once"
    ]


def test_sharding_without_a_table_is_refused() -> None:
    (problem,) = spoilt("{orders: customer_id}", "{}")
    assert problem.startswith("SP108 a.yaml:12:5  shop: sharding.tables is empty")


@pytest.mark.parametrize("name", ['"Orders"', '"a b"', '"a.b.c"', '"x;drop table y"', '""'])
def test_a_table_name_that_would_need_quotes_in_sql_is_refused(name: str) -> None:
    assert [p[:5] for p in spoilt("{orders:", f"{{{name}:")] == ["SP023"]
    assert [p[:5] for p in spoilt("[countries]", f"[{name}]")] == ["SP023"]


def test_only_major_versions_that_are_run_are_taken() -> None:
    assert spoilt('"16"', '"16.3"') == [
        'SP107 a.yaml:7:5  shop: "16.3" is a minor version; only the major is chosen here\n'
        '      try: write "16"'
    ]
    assert spoilt('"16"', '"14"') == [
        'SP107 a.yaml:7:5  shop: PostgreSQL "14" is not supported\n'
        "      try: write one of 15, 16, 17, 18"
    ]


@pytest.mark.parametrize(
    ("entry", "field", "words"),
    [
        ("{from: s1, to: s0}", "from", "shard s1 is said to be renamed, but is still in shards"),
        ("{from: a, to: x}", "to", "there is no shard x to take the name of a"),
        ("{from: a, to: s0}, {from: b, to: s0}", "to", "two shards are said to be renamed to s0"),
        ("{from: a, to: s0}, {from: a, to: s1}", "from", "shard a is said to be renamed twice"),
    ],
)
def test_a_rename_fits_the_shards(entry: str, field: str, words: str) -> None:
    (problem,) = spoilt("  deletion:", f"  moved: [{entry}]\n  deletion:")
    assert problem.startswith("SP109 a.yaml:19:")
    assert words in problem


def test_a_renamed_shard_knows_its_former_name() -> None:
    text = GOOD.replace("  deletion:", "  moved: [{from: old, to: s1}]\n  deletion:")
    assert [s.moved_from for s in database(text).shards] == [None, "old"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("instances: 2", "storage: {size: 1Mi}"),
        ("instances: 2", "storage: {size: 1000000Ti}"),
        ("instances: 2", "resources: {memory: 1Mi}"),
        ("instances: 2", "resources: {cpu: 0}"),
        ("instances: 2", 'resources: {cpu: "1m"}'),
        ("deletion: protected", "resharding: {pauseMax: 2h}"),
        ("deletion: protected", "resharding: {rollbackWindow: 900d}"),
        ("deletion: protected", "resharding: {throttle: {latencyMax: 0.5x}}"),
    ],
)
def test_what_makes_no_sense_is_out_of_bounds(old: str, new: str) -> None:
    assert [p[:5] for p in spoilt(old, new)] == ["SP110"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("instances: 2", "storage: {size: 10GB}"),
        ("instances: 2", "storage: {size: ten}"),
        ("instances: 2", "resources: {memory: -1Gi}"),
        ("instances: 2", "resources: {cpu: lots}"),
        ("deletion: protected", "resharding: {pauseMax: 100}"),
        ("deletion: protected", "resharding: {pauseMax: 1.5s}"),
        ("deletion: protected", "resharding: {throttle: {latencyMax: '2'}}"),
    ],
)
def test_what_is_no_quantity_is_refused_with_an_example(old: str, new: str) -> None:
    (problem,) = spoilt(old, new)
    assert problem.startswith("SP023 ")
    assert "try: for example " in problem


def test_quantities_in_numbers() -> None:
    assert size_bytes("10Gi") == 10 * 1024**3
    assert size_bytes("1.5k") == 1500
    assert cpu_cores("500m") == cpu_cores("0.5") == 0.5
    assert duration_ms("24h") == 86_400_000
    assert ratio("2.5x") == 2.5
    for wrong in (size_bytes, duration_ms, ratio, cpu_cores):
        with pytest.raises(ValueError, match=r"."):
            wrong("x9")


def test_password_rotation_and_limits_reach_the_model() -> None:
    text = GOOD.replace('version: "16"', 'version: "16"\n    passwords: {generation: 3}').replace(
        "deletion: protected", "resharding: {pauseMax: 2s, rollbackWindow: 7d}\n  suspend: true"
    )
    found = database(text)
    assert found.password_generation == 3
    assert (found.resharding.pause_max_ms, found.resharding.rollback_window_s) == (2000, 604_800)
    assert found.suspend


def test_the_digest_is_that_of_the_meaning() -> None:
    base = database(GOOD)
    moved = database(
        "# a comment\n" + GOOD.replace("{orders: customer_id}", "\n      orders: customer_id")
    )
    assert moved.digest == base.digest
    changes = [
        ("instances: 3", "instances: 4"), ("16MB", "17MB"), ('"16"', '"17"'), ("bigint", "int"),
        ("protected", "destroy"), ("countries", "lands"), ("customer_id", "cid"),
        ("name: s1", "name: s2"), ("  deletion", "  moved: [{from: z, to: s1}]\n  deletion"),
        ("  name: shop", "  name: shop\n  labels: {a: b}"), ("name: shop", "name: shup"),
        ("  deletion", "  suspend: true\n  deletion"),
        ("instances: 2", "synchronous: false"), ("instances: 2", "storage: {size: 11Gi}"),
        ("  deletion", "  resharding: {pauseMax: 99ms}\n  deletion"),
        ('"16"', '"16"\n    passwords: {generation: 2}'),
    ]  # fmt: skip
    digests = {database(GOOD.replace(old, new, 1)).digest for old, new in changes}
    assert len(digests | {base.digest}) == len(changes) + 1


SCHEMA = GOOD.replace("  sharding:", "  schema:\n    files: [{}]\n  sharding:")


def with_files(patterns: str) -> str:
    return SCHEMA.replace("{}", patterns, 1)


def test_schema_files_are_sorted_checksummed_and_taken_once() -> None:
    text = with_files("z.sql, schema/*.sql, '**/*.sql'")
    found = database(text, z=b"", schema__b=b"b", schema__a=b"a", schema__deep__c=b"c").schema
    assert [f.name for f in found] == [
        "z.sql", "schema/a.sql", "schema/b.sql", "schema/deep/c.sql",
    ]  # fmt: skip
    assert found[1].sha256.startswith("ca978112ca1bbdca")
    other = database(text, z=b"", schema__b=b"b", schema__a=b"A", schema__deep__c=b"c")
    assert other.digest != database(text, z=b"", schema__b=b"b", schema__a=b"a").digest


def test_a_marker_in_the_first_lines_takes_a_file_out_of_its_transaction() -> None:
    marked = b"-- an index\n-- shardwright: no-transaction\ncreate index concurrently i on t (x);"
    late = b"\n" * 9 + marked
    found = database(with_files("'*.sql'"), a=marked, b=late, c=b"")
    assert [f.transactional for f in found.schema] == [False, True, True]


def test_a_pattern_without_a_match_is_refused() -> None:
    assert problems(with_files("shema/*.sql"), schema__a=b"") == [
        'SP116 a.yaml:11:13  schema: "shema/*.sql" matches no file in the folder\n'
        '      try: did you mean "schema/a.sql"?'
    ]


@pytest.mark.parametrize("pattern", ["../*.sql", "/etc/x.sql", "a/../../b.sql", "~/x.sql"])
def test_a_pattern_that_leads_out_of_the_tree_is_refused(pattern: str) -> None:
    (problem,) = problems(with_files(pattern), a=b"")
    assert problem.startswith(f'SP117 a.yaml:11:13  schema: "{pattern}" leads out of the folder')


def test_a_schema_file_that_cannot_be_applied_is_refused() -> None:
    found = problems(with_files("'*'"), a=b"\xff", b=b"x" * ((1 << 20) + 1), c=b"\0")
    assert sorted(p.partition("  ")[2].split("\n")[0] for p in found) == [
        "schema file a.sql: byte 0 is not UTF-8",
        "schema file b.sql: it has 1,048,577 bytes, more than the 1,048,576 allowed",
        "schema file c.sql: it holds a NUL character",
    ]


def test_a_thousand_shards_tile() -> None:
    bounds = [i * (SPACE_END // 1000) for i in range(1000)] + [SPACE_END]
    tiles = [KeyRange(a, b) for a, b in pairwise(bounds)]
    lines = [f'name: s{i}, keys: ["{tile}"]' for i, tile in enumerate(tiles)]
    assert len(database(GOOD.replace(BOTH, shards(*lines))).shards) == 1000


def test_databases_come_sorted_by_key() -> None:
    other = GOOD.replace("  name: shop", "  name: abc\n  namespace: a")
    assert [str(d.key) for d in load(GOOD, other).desired.databases] == ["a/abc", "shop"]


def test_what_no_shard_could_run_is_told_where_it_stands_in_the_schema_file() -> None:
    found = problems(
        with_files("'*.sql'"),
        a=b"CREATE TABLE countries ();\nCOMMIT;\n",
        b=b"-- shardwright: no-transaction\nSELECT 1;\n  SELECT 2;\n",
        c=b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; -- COMMIT;\nSAVEPOINT s;",
    )

    assert [problem.splitlines()[0] for problem in found] == [
        "PG232 a.sql:2:1  schema file a.sql: it says COMMIT",
        "PG233 b.sql:3:3  schema file b.sql: it is marked no-transaction and holds 2 statements",
    ]


@pytest.mark.parametrize("written", ["    type: bigit\n", "    type:\n", ""])
def test_a_bad_shard_key_type_does_not_hide_overlaps_and_parameters(written: str) -> None:
    text = GOOD.replace("    type: bigint\n", written).replace("work_mem", "wrk_mem")

    found = problems(text.replace('["-80"]', '["-90"]'))

    assert len(found) == 3
    assert any(problem.startswith("SP102") for problem in found)
    assert any(problem.startswith("SP113") for problem in found)
    assert any("sharding" in problem for problem in found)


def test_a_referenced_secret_is_refused_by_name_where_nothing_keeps_it() -> None:
    text = GOOD.replace(
        "    parameters:", "    passwords: {secretRef: {name: shop-app}}\n    parameters:"
    )
    assert problems(text) == [
        "SP121 a.yaml:8:17  shop: the local platform keeps no Secrets, so shop-app/password is not "
        "there\n      try: leave secretRef out: passwords are generated, and rotated by generation"
    ]
    (misspelt,) = problems(text.replace("secretRef", "secretref"))
    assert 'did you mean "secretRef"?' in misspelt
    unnamed, *_ = problems(text.replace("name: shop-app", "file: /run/secrets/app"))
    assert unnamed.startswith("SP02")
