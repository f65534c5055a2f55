"""The map as the reference router reads it: the record itself, taken up at SIGHUP.

``shardwright router run DATABASE --map FILE`` serves by such a file where etcd is out of reach;
without ``--map`` the router watches the same record in etcd.
"""

from __future__ import annotations

from reconciler.model.records import encode_routing
from reconciler.model.routing import RoutingMap
from reconciler.render.router.driver import SendSignal, Step, WriteFile


class Reference:
    """The reference router's driver."""

    def steps(self, routing: RoutingMap) -> tuple[Step, ...]:
        """Return the file and how it is taken up."""
        text = encode_routing(routing).decode()
        return (WriteFile(f"{routing.database.name}.map.json", text), SendSignal("HUP"))
