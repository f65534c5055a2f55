"""The port of a router's driver: how any router is told a map, as steps that people can read.

A driver is pure. It says a map in its router's language and in which steps all routers of a
database take it up; whoever performs them does each step at *every* router before the next one
begins. Meanwhile some routers serve the map before. That does no harm, because the fences at the
shards refuse what is sent to the wrong one; the steps are about clients that wait, not safety.
``router.follow`` performs them, beside each router.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from reconciler.model.routing import RoutingMap


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Put a file where the router reads it, whole or not at all (write beside it, rename)."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class RunStatements:
    """Run statements at the router's console (its admin database), in order."""

    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Send the router's processes a signal."""

    name: str


Step = WriteFile | RunStatements | SendSignal


class RouterDriver(Protocol):
    """One kind of router."""

    def steps(self, routing: RoutingMap) -> tuple[Step, ...]:
        """Return how every router takes a map up, the same each time. Raises RouterCannot."""
