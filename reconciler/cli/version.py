"""``shardwright version``."""

from __future__ import annotations

import platform
import sys

from reconciler import __version__
from reconciler.cli.lazy import command
from reconciler.cli.session import output_option
from reconciler.cli.terminal import write


@command("version")
@output_option("text", "json")
def version(output: str) -> None:
    """Print the version."""
    if output == "json":
        import json

        write(
            json.dumps(
                {
                    "version": __version__,
                    "python": platform.python_version(),
                    "platform": sys.platform,
                    "plan": "shardwright.dev/plan/v1",
                    "specs": "shardwright.dev/v1alpha1",
                }
            )
        )
    else:
        write(f"shardwright {__version__} (Python {platform.python_version()})")
