"""Start one member's supervisor again, if it belongs to its home and nobody is changing the home.

``python -m reconciler.edges.local.supervisor_revival MEMBER_DIR``, run by a peer's supervisor. The
home's lock decides against ``platform down`` and ``destroy``: what they stop is not revived.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reconciler.edges.local import member
from reconciler.edges.local.home import HomeBusy, locked, open_home
from reconciler.edges.local.supervisor_files import say
from reconciler.model.errors import ReconcilerError

#: ``HOME/shards/NAMESPACE/SCOPE/MEMBER``
_HOME_ABOVE_MEMBER = 3


def revive(folder: Path) -> bool:
    """Start the supervisor of the member in ``folder``; False when it must not run now.

    Raises what ``open_home``, ``locked`` and ``member.launch_supervisor`` raise.
    """
    home = open_home(folder.parents[_HOME_ABOVE_MEMBER])
    try:
        with locked(home, wait_s=0.0) as lock:
            wanted = [
                one
                for shard in home.shards()
                if not shard.stopped
                for one in member.members_of(home, shard)
                if one.folder == folder
            ]
            for one in wanted:
                if one.supervisor is None:
                    member.launch_supervisor(one, lock)
            return bool(wanted)
    except HomeBusy:
        return False


def main(arguments: list[str]) -> int:
    """Revive and say so; a failure is one line in the peer's log."""
    folder = Path(arguments[0]).resolve()
    try:
        done = revive(folder)
    except ReconcilerError as error:
        say(f"revival of {folder.name}: {error}")
        return 1
    say(f"revival of {folder.name}: {'started' if done else 'not now, the home is being changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
