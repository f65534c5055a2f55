"""The audit on a real platform: every step, with its SQL; spoilt in etcd, it says where."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.engine import audit
from reconciler.engine.audit import HEAD, LOG
from tests.e2e.scene import Scene

pytestmark = pytest.mark.platform


def test_every_step_and_order_is_in_the_audit_and_a_change_in_etcd_is_found(
    scene: Scene, tmp_path: Path
) -> None:
    call, began = scene.call, datetime.now(UTC)
    scene.write("shop")
    scene.applied()
    scene.write("shop", _002="ALTER TABLE customers ADD COLUMN note text; SELECT 1 / 0;")
    assert scene.apply().failed
    scene.write("shop", _002="ALTER TABLE customers ADD COLUMN note text;")
    scene.applied()
    assert call("suspend", "shop", "--reason", "audit").code == 0
    assert call("resume", "shop").code == 0

    entries = json.loads(call("audit", "list", "-n", "500", "-o", "json").out)
    mine = [  # others had a shop as well in this etcd
        entry
        for entry in entries
        if entry["database"] == "shop" and datetime.fromisoformat(entry["at"]) >= began
    ]
    told = {(entry["what"].rpartition("/")[2], entry["outcome"]) for entry in mine}
    assert {("guards", "begun"), ("guards", "done"), ("record", "done")} <= told
    assert {("suspend", "ordered"), ("resume", "ordered")} <= told
    (failed,) = [entry for entry in mine if entry["outcome"] == "failed"]
    assert "division by zero" in failed["error"]
    assert any("ALTER TABLE customers" in text for entry in mine for text in entry.get("sql", ()))
    assert all(entry["actor"] and entry["at"] for entry in mine)
    passwords = {scene.login("shop").superuser.password}
    text = json.dumps(entries)
    assert not any(password in text for password in passwords)
    assert "SCRAM-SHA-256$" not in text
    begun = {e["what"] for e in mine if e["outcome"] == "begun"}
    ended = {e["what"] for e in mine if e["outcome"] in ("done", "failed")}
    assert begun == ended

    export = tmp_path / "audit.jsonl"
    export.write_text(call("audit", "export").out)
    assert "whole:" in call("audit", "verify").out
    assert "whole:" in call("audit", "verify", "--file", str(export)).out
    since = call("audit", "verify", "--since", str(export))
    assert "it goes on from the export at entry" in since.out, since.told()
    assert "CL001" in call("audit", "list", "--since", str(export)).told()
    listed = call("audit", "list").out
    assert "suspend" in listed

    # Somebody with rights at etcd changes one entry in the middle.
    number = mine[2]["number"]
    key = f"{LOG}{number:012}"
    stored = {k: v for k, v in mine[2].items() if k != "key"}
    scene.etcd_put(key, json.dumps({**stored, "actor": "nobody"}).encode())
    ended_call = call("audit", "verify")
    assert ended_call.code == 1
    assert "AU101" in ended_call.told()
    assert f"audit entry {number}" in ended_call.told()
    scene.etcd_put(key, json.dumps(stored, separators=(",", ":")).encode())
    assert "whole:" in call("audit", "verify").out

    # A line of the export is taken out.
    lines = export.read_text().splitlines(keepends=True)
    export.write_text("".join(lines[:3] + lines[4:]))
    assert "AU101" in call("audit", "verify", "--file", str(export)).told()
    assert HEAD in scene.world().eyes.store.read(HEAD)


def test_the_oldest_entries_are_let_go_and_the_rest_still_holds(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "KEPT", 12)
    monkeypatch.setattr(audit, "BATCH", 5)
    store = scene.world().eyes.store
    lease = store.acquire("/shardwright/test", "test", 60)
    try:
        for number in range(400):
            trail = audit.read_trail(store)
            if number >= 30 and len(trail.entries) <= 12 + 5:
                break
            deed = audit.Deed(datetime.now(UTC), "test", f"deed {number}", "ordered")
            audit.write_audited(store, lease, {}, deed)
    finally:
        store.release(lease)
    assert trail.anchor[0] > 0
    assert trail.head is not None
    assert audit.verify(trail) == len(trail.entries) == trail.head[0] - trail.anchor[0]
    assert "it begins after entry" in scene.call("audit", "verify").out
