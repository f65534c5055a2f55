"""What `status` tells, and how it fits a terminal."""

from __future__ import annotations

import pytest

from reconciler.cli.status import _show_source
from reconciler.cli.table import table_with_texts
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
