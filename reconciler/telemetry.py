"""Logs and metrics of the daemon: JSON lines with stable keys, and names that boards already know.

The names of controller-runtime and client-go (``controller_runtime_*``, ``workqueue_*``) are taken
over, so that their dashboards fit; our own begin with ``shardwright_``.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTROLLER = "shardeddatabase"
_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


def open_log(stream: TextIO, level: str = "info") -> Any:
    """Return a logger that writes one JSON object a line: ``ts``, ``level``, ``event``, …"""
    return structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.JSONRenderer(sort_keys=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )


class Metrics:
    """All metrics of one daemon, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: Any = {"registry": self.registry}
        self.reconciles = Counter(
            "controller_runtime_reconcile_total",
            "Rounds, by result.",
            ["controller", "result"],
            **of,
        )
        self.errors = Counter(
            "controller_runtime_reconcile_errors_total", "Rounds that failed.", ["controller"], **of
        )
        self.seconds = Histogram(
            "controller_runtime_reconcile_time_seconds", "How long a round took.",
            ["controller"], buckets=_BUCKETS, **of,
        )  # fmt: skip
        self.active = Gauge(
            "controller_runtime_active_workers", "Rounds that run now.", ["controller"], **of
        )
        self.depth = Gauge("workqueue_depth", "Databases that wait for a round.", ["name"], **of)
        self.adds = Counter("workqueue_adds_total", "Databases asked for.", ["name"], **of)
        self.queued = Histogram(
            "workqueue_queue_duration_seconds", "How long a database waited for its round.",
            ["name"], buckets=_BUCKETS, **of,
        )  # fmt: skip
        self.leads = Gauge("shardwright_leader", "1 while this daemon leads.", **of)
        self.ready = Gauge(
            "shardwright_database_ready", "1 ready, 0 not, -1 unknown.",
            ["namespace", "database"], **of,
        )  # fmt: skip
        self.stalled = Gauge(
            "shardwright_database_stalled", "1 while only a person or a commit helps.",
            ["namespace", "database"], **of,
        )  # fmt: skip
        self.quarantined = Gauge(
            "shardwright_source_quarantined", "1 while the newest revision is not in force.",
            ["source"], **of,
        )  # fmt: skip
        self.fetches = Counter(
            "shardwright_source_fetches_total", "Looks at a source, by result.",
            ["source", "result"], **of,
        )  # fmt: skip
        self.webhooks = Counter(
            "shardwright_webhooks_total", "Push events of forges, by what came of them.",
            ["forge", "result"], **of,
        )  # fmt: skip
        self.steps = Counter(
            "shardwright_steps_total", "Steps of applies, by result.", ["result"], **of
        )

    def forget(self, namespace: str, database: str) -> None:
        """Tell nothing more of a database."""
        for gauge in (self.ready, self.stalled):
            with suppress(KeyError):  # nothing was told of it
                gauge.remove(namespace, database)

    def render(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)
