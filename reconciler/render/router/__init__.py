"""The routing map in the language of each router, behind one port: ``driver.RouterDriver``.

``reference`` is our own router's. ``pgdog`` and ``spqr`` were written from those routers' published
documents and grammar, and **were not tried on the real programs**.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from reconciler.render.router.driver import RouterDriver
from reconciler.render.router.pgdog import PgDog
from reconciler.render.router.reference import Reference
from reconciler.render.router.spqr import Spqr

DRIVERS: MappingProxyType[str, Callable[[str], RouterDriver]] = MappingProxyType(
    {
        "reference": lambda _: Reference(),
        "pgdog": PgDog,
        "spqr": lambda column: Spqr(column or Spqr().key_column),
    }
)
"""Drivers by router; each is made with the name of the column that holds a key's hash, or ""."""

__all__ = ["DRIVERS", "PgDog", "Reference", "RouterDriver", "Spqr"]
