"""The routing map in the language of each router. Pure functions, one for each router.

``reference`` is what our own router serves by, for people and scripts to read. ``pgdog`` and
``spqr`` were written from those routers' documents and **were not tried on the real programs**.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from reconciler.model.routing import RoutingMap
from reconciler.render.router.pgdog import render_pgdog
from reconciler.render.router.reference import render_reference
from reconciler.render.router.spqr import render_spqr

Renderer = Callable[[RoutingMap], str]
"""The port of a router's driver: a map in, the router's text out; raises RouterCannot."""

RENDERERS: MappingProxyType[str, Renderer] = MappingProxyType(
    {"reference": render_reference, "pgdog": render_pgdog, "spqr": render_spqr}
)

__all__ = ["RENDERERS", "Renderer", "render_pgdog", "render_reference", "render_spqr"]
