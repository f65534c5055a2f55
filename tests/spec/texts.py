"""A good spec to spoil, and what reading a text gives."""

from __future__ import annotations

from reconciler import spec
from reconciler.model.desired import Database, Revision
from reconciler.model.errors import ProblemsFound
from reconciler.spec.documents import Documents, SourceFile
from reconciler.spec.loaded import Loaded

GOOD = """\
apiVersion: shardwright.dev/v1alpha1
kind: ShardedDatabase
metadata:
  name: shop
spec:
  postgres:
    version: "16"
    parameters:
      work_mem: 16MB
  sharding:
    type: bigint
    tables: {orders: customer_id}
    reference: [countries]
  defaults:
    instances: 2
  shards:
    - {name: s0, keys: ["-80"]}
    - {name: s1, keys: ["80-"], instances: 3}
  deletion: protected
"""


def load(*texts: str | bytes, **files: bytes) -> Loaded:
    """Read texts as ``a.yaml``, ``b.yaml``…, and other files by name (``__`` for ``/``)."""
    found = [
        SourceFile(f"{chr(97 + i)}.yaml", t if isinstance(t, bytes) else t.encode())
        for i, t in enumerate(texts)
    ]
    found += [
        SourceFile(n.replace("__", "/") + ("" if "." in n else ".sql"), data)
        for n, data in files.items()
    ]
    return spec.read(Documents("tests", Revision("files@sha256:0"), tuple(found)))


def database(text: str, **files: bytes) -> Database:
    """Read a text that holds one database."""
    (found,) = load(text, **files).desired.databases
    return found


def problems(*texts: str | bytes, **files: bytes) -> list[str]:
    """Return every problem of the texts as the user sees it."""
    try:
        load(*texts, **files)
    except ProblemsFound as found:
        return [str(problem) for problem in found.problems]
    return []


def spoilt(old: str, new: str) -> list[str]:
    """Return the problems of the good spec with one text replaced."""
    assert old in GOOD
    return problems(GOOD.replace(old, new, 1))
