"""What `status` tells, and how it fits a terminal."""

from __future__ import annotations

import pytest

from reconciler.cli.audit import _row
from reconciler.cli.status import _chosen, _show_source
from reconciler.cli.table import table_with_texts
from reconciler.engine.known import Known
from reconciler.engine.operations import Operation, Operations
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.plan.render_layout import columns_of, unpainted


def test_a_quarantine_names_some_of_its_problems_and_counts_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = {
        "name": "specs", "revision": "", "attempted": "main@sha1:0123456789", "unreachable": "",
        "problems": ["SP001 a.yaml:1 x: y"], "problemCount": 3,
    }  # fmt: skip
    _show_source(source, unpainted)
    told = capsys.readouterr().out
    assert "quarantined: main@sha1:0123456" in told
    assert told.splitlines()[-1].strip().startswith("and 2 more")
    _show_source({**source, "problemCount": 1}, unpainted)
    assert "more" not in capsys.readouterr().out


def test_a_text_is_beside_its_row_where_it_fits_and_below_it_in_lines_where_not() -> None:
    long = "restart s0: standbys first, then a switchover, then the former primary (restarts)"
    rows = [("shop", "True", "fine"), ("a-longer-name", "False", long)]
    for width in (40, 60, 80, 120):
        lines = table_with_texts(("DATABASE", "READY", "MESSAGE"), rows, width).splitlines()
        assert all(columns_of(line) <= width for line in lines)
        assert lines[0].index("MESSAGE") == lines[1].index("fine")
        assert " ".join(" ".join(lines[2:]).split()) == f"a-longer-name False {long}"
        assert (len(lines) == 3) == (width == 120)


def test_a_text_that_says_nothing_takes_no_line_and_columns_come_closer_where_it_is_narrow() -> (
    None
):
    rows = [("operation-1", "done", "-"), ("operation-2", "done", "")]
    lines = table_with_texts(("NAME", "RESULT", "NOW"), rows, 19).splitlines()
    assert lines == ["NAME         RESULT  NOW", "operation-1  done", "operation-2  done"]


def test_an_entry_of_the_audit_names_its_database() -> None:
    entry = {
        "number": 1, "at": "2026-11-27T09:24:24+00:00", "actor": "root@vm pid 1", "what": "approve",
        "outcome": "ordered", "database": "shop", "text": "ap-1 until 2026-11-28",
    }  # fmt: skip
    assert _row(entry)[3] == "approve shop"
    assert _row({**entry, "what": "rollout stops", "outcome": "done"})[3] == "rollout stops shop"
    assert _row({**entry, "what": "shop-s0/stop"})[3] == "shop-s0/stop"
    assert _row({**entry, "what": "shop/forget"})[3] == "shop/forget"


def test_a_database_whose_first_apply_runs_is_told() -> None:
    shop = DatabaseKey(Namespace("default"), DatabaseName("shop"))
    running = Operation("1", "specs", "r1", (shop,), "plan-1", "daemon", "", "running")
    known = Known(Operations((running,)), {}, {"actor": "daemon", "sources": []}, "daemon")
    (told,) = _chosen(known, None)
    assert (told.database, told.reconciling, told.ready) == (shop, True, None)
