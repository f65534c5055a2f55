"""The settings of one call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.settings import Settings


def load_settings(home: str | None, config: str | None = None) -> Settings:
    """Return the settings: flag over environment over file over default."""
    from reconciler import settings

    flags = {"home": home} if home else {}
    named = config or os.environ.get("SHARDWRIGHT_CONFIG", "")
    return settings.load(flags, os.environ, Path(named) if named else None)
