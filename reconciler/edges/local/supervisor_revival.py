"""Start one member's supervisor, or etcd's keeper, again, unless somebody is changing the home.

``python -m reconciler.edges.local.supervisor_revival FOLDER``, run by another member's supervisor.
The home's lock decides against ``platform down`` and ``destroy``: what they stop is not revived.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reconciler.edges.local import etcd_keeper, member
from reconciler.edges.local.home import MARKER, HomeBusy, locked, open_home
from reconciler.edges.local.supervisor_files import record_path, say
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


def revive_keeper(folder: Path) -> bool:
    """Start the keeper of the etcd in ``folder``; False when it must not run now.

    Raises what ``open_home``, ``locked`` and ``start_keeper`` raise.
    """
    try:
        with locked(open_home(folder.parent), wait_s=0.0) as lock:
            wanted = record_path(folder, etcd_keeper.KEEPER).exists()  # else ended on purpose
            if wanted:
                etcd_keeper.start_keeper(folder, lock, member.base_environment())
            return wanted
    except HomeBusy:
        return False


def main(arguments: list[str]) -> int:
    """Revive and say so; a failure is one line in the peer's log."""
    folder = Path(arguments[0]).resolve()
    try:
        is_etcd = (folder.parent / MARKER).exists()
        done = revive_keeper(folder) if is_etcd else revive(folder)
    except ReconcilerError as error:
        say(f"revival of {folder.name}: {error}")
        return 1
    say(f"revival of {folder.name}: {'started' if done else 'not now, the home is being changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
