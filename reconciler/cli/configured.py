"""The settings of one call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.cli.session import Session
    from reconciler.settings import Settings


def load_settings(session: Session) -> Settings:
    """Return the settings: flag over environment over file over default."""
    from reconciler import settings

    flags = {"home": session.home} if session.home else {}
    named = session.config or os.environ.get("SHARDWRIGHT_CONFIG", "")
    return settings.load(flags, os.environ, Path(named) if named else None)
