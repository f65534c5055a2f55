"""``shardwright``, whose etcd is asked at the addresses in SHARDWRIGHT_TEST_ETCD.

The local platform has one etcd at one address; a daemon beside a cluster of three, or behind a slow
network, is this one. All else is as ever.
"""

from __future__ import annotations

import os
import sys

from reconciler.cli.main import main
from reconciler.edges.local.platform import LocalPlatform

PROGRAM = [sys.executable, "-m", "tests.e2e.etcd_elsewhere"]

if __name__ == "__main__":
    ADDRESSES = tuple(os.environ["SHARDWRIGHT_TEST_ETCD"].split(","))
    setattr(LocalPlatform, "etcd_endpoints", lambda _: ADDRESSES)  # noqa: B010 (mypy)
    main()
