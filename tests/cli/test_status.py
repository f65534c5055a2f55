"""What `status` tells of a source."""

from __future__ import annotations

import pytest

from reconciler.cli.status import _show_source
from reconciler.plan.render_layout import unpainted


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
