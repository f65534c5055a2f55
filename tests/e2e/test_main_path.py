"""From a spec to running shards, and from an edit to exactly that edit."""

from __future__ import annotations

import pytest

from tests.e2e.scene import TWO, Scene, key_of, spec_text

pytestmark = pytest.mark.platform


def test_a_spec_becomes_shards_then_nothing_is_to_do_then_an_edit_is_all_that_happens(
    scene: Scene,
) -> None:
    scene.write("main", spec_text("main", *TWO))
    call = scene.call

    planned = call("plan", "-f", "specs", "--detailed-exitcode")
    assert planned.code == 2, planned.told()
    assert "provision s0" in planned.out
    assert scene.seen("main").shards == ()  # a plan changes nothing

    earlier = {operation.id for operation in scene.operations()}
    applied = call("apply", "-f", "specs", "--yes", "--detailed-exitcode")
    assert applied.code == 2, applied.told()
    again = call("plan", "-f", "specs", "--detailed-exitcode")
    assert again.code == 0, again.told()
    assert call("apply", "-f", "specs", "--yes").code == 0
    assert (
        len({o.id for o in scene.operations()} - earlier) == 1
    )  # an apply with nothing to do leaves no trace
    before = scene.seen("main")

    scene.edit("main", "work_mem: 16MB", "work_mem: 32MB")
    assert scene.steps() == ["main-s0/configure", "main-s1/configure", "main/record"]
    assert call("apply", "-f", "specs", "--yes").code == 0

    after = scene.seen("main")
    assert scene.sql("main", "show work_mem", "s1") == [("32MB",)]
    assert [s.platform for s in after.shards] == [s.platform for s in before.shards]
    assert after.routing == before.routing
    assert call("plan", "-f", "specs", "--detailed-exitcode").code == 0
    assert key_of("main") in scene.operations()[-1].databases
