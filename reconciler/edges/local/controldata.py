"""What a data directory says of itself, by pg_controldata."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_TIMEOUT_S = 5.0


def control_data(bin_dir: str | Path, data_dir: Path) -> dict[str, str]:
    """Return what pg_controldata tells, by name. Raises OSError, SubprocessError, UnicodeError."""
    answer = subprocess.run(
        [f"{bin_dir}/pg_controldata", str(data_dir)],
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=True,
        text=True,
    ).stdout
    pairs = (line.split(":", 1) for line in answer.splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}
