"""What holds for all tests: no test may fail because the machine is busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("shardwright", deadline=None)
settings.load_profile("shardwright")
