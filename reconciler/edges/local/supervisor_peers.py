"""What a supervisor does for the other members of its shard, when their own supervisor is dead.

A primary may be killed together with its supervisor. The death is no less certain then: the peers'
process identities are recorded beside their data, so a peer sees them end too, and gives the lease
up in the same conditional way. Afterwards it starts the dead supervisor again, which takes over or
starts what belongs to it. Peers kill nothing.

Several peers may act at once: the second one's transaction finds the key changed, and the second
start finds the home locked or the supervisor running.

The keeper of the home's etcd is watched and started again in the same way.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.edges.local.etcd_keeper import KEEPER
from reconciler.edges.local.process_identity import ProcessIdentity, is_alive, read_identity
from reconciler.edges.local.supervisor_etcd import LeaseUnreachable
from reconciler.edges.local.supervisor_files import (
    Member,
    MemberUnreadable,
    read_member,
    record_path,
    say,
)
from reconciler.edges.local.supervisor_member import RunningMember, Watched
from reconciler.workflow.failover import GiveUpLease, LeaveToPatroni, Survivors, decide_for_peer

#: A dead supervisor is started again this much later, when the failover has passed.
REVIVE_AFTER_S = 2.0
#: How often one is started again at most.
_REVIVE_EVERY_S = 10.0
#: ``HOME/shards/NAMESPACE/SCOPE/MEMBER``
_HOME_ABOVE_MEMBER = 3
#: How long, and how often, processes that are just ending are waited for.
_ENDING_WITHIN_S = 3.0
_ASK_AGAIN_S = 0.05


@dataclass(slots=True)
class Peer:
    """One other member: the processes of it that are watched, and since when it has no parent."""

    folder: Path
    watched: list[Watched] = field(default_factory=list)
    orphan_since: float = 0.0
    next_revival: float = 0.0
    said: str = ""

    def watch(self, *processes: ProcessIdentity | None) -> None:
        """Watch exactly these processes, those of them that live."""
        wanted = {p for p in processes if p}
        for gone in [w for w in self.watched if w.process not in wanted or not w.alive]:
            gone.close()
            self.watched.remove(gone)
        known = {w.process for w in self.watched}
        self.watched += [w for p in wanted - known if (w := Watched.open(p))]

    def say(self, text: str) -> None:
        """Log a line once, not at every look."""
        if text != self.said:
            say(f"peer {self.folder.name}: {text}")
            self.said = text


@dataclass(slots=True)
class Peers:
    """The other members of one shard, found beside this one's folder."""

    own: Member
    keeper: Peer = field(init=False)
    peers: dict[Path, Peer] = field(default_factory=dict)
    look_again_s: float | None = None

    def __post_init__(self) -> None:
        self.keeper = Peer(self.own.folder.parents[_HOME_ABOVE_MEMBER] / "etcd")

    @property
    def pidfds(self) -> tuple[int, ...]:
        """The pidfds whose end is a reason to look again."""
        return tuple(w.pidfd for p in (self.keeper, *self.peers.values()) for w in p.watched)

    def look(self) -> None:
        """Look at every peer; ``look_again_s`` then says when to look again (None: at a tick)."""
        self.look_again_s = None
        self._look_at_keeper()
        present = {p.parent for p in self.own.folder.parent.glob("*/member.json")}
        for folder in sorted({*present, *self.peers} - {self.own.folder}):
            peer = self.peers.setdefault(folder, Peer(folder))
            if folder in present:
                self._look_at(peer)
            else:
                peer.watch()
                del self.peers[folder]

    def _look_at_keeper(self) -> None:
        keeper = read_identity(record_path(self.keeper.folder, KEEPER))
        self.keeper.watch(keeper)
        if keeper is None or is_alive(keeper):  # no record: it was ended on purpose
            self.keeper.orphan_since = 0.0
            return
        self.keeper.orphan_since = self.keeper.orphan_since or time.monotonic()
        self._revive_in_time(self.keeper)

    def _look_at(self, peer: Peer) -> None:
        supervisor = read_identity(record_path(peer.folder, "supervisor"))
        if supervisor is None or is_alive(supervisor):  # no record: it was stopped on purpose
            peer.watch(supervisor)
            peer.orphan_since, peer.said = 0.0, ""
            return
        peer.orphan_since = peer.orphan_since or time.monotonic()
        try:
            member = read_member(peer.folder)
        except MemberUnreadable as error:
            peer.say(error.problem)
            return
        if member.scope == self.own.scope:
            self._look_at_orphan(peer, RunningMember(member))

    def _look_at_orphan(self, peer: Peer, running: RunningMember) -> None:
        running.find()
        peer.watch(*(w.process for w in (running.patroni, running.postmaster) if w))
        if running.patroni or running.postmaster:
            peer.say("its supervisor is dead, a part of it lives")
            running.close()
        else:
            self._give_up(peer, running)
        self._revive_in_time(peer)

    def _revive_in_time(self, peer: Peer) -> None:
        since = time.monotonic() - peer.orphan_since
        if since >= REVIVE_AFTER_S:
            self._revive(peer)
        else:
            self._look_again(REVIVE_AFTER_S - since)

    def _give_up(self, peer: Peer, running: RunningMember) -> None:
        facts = running.facts(peer=True)
        running.close()
        match decide_for_peer(facts):
            case LeaveToPatroni(reason):
                peer.say(f"left to Patroni: {reason}")
                ending = facts.survivors is Survivors.SOME
                if ending and time.monotonic() - peer.orphan_since < _ENDING_WITHIN_S:
                    self._look_again(_ASK_AGAIN_S)
            case GiveUpLease() as order:
                try:
                    done = running.member.store.give_up(order)
                except LeaseUnreachable as error:
                    peer.say(f"lease {order.lease:x} not given up: {error.problem}")
                    self._look_again(_ASK_AGAIN_S)
                    return
                said = "gave up" if done else "did not give up, the key has changed:"
                say(f"{said} leader lease {order.lease:x} of {order.member}: {order.reason}")

    def _revive(self, peer: Peer) -> None:
        """Start the dead supervisor again, through a program of its own: its imports are heavy."""
        if time.monotonic() < peer.next_revival:
            return
        peer.next_revival = time.monotonic() + _REVIVE_EVERY_S
        say(f"peer {peer.folder.name}: starting its supervisor again")
        program = "reconciler.edges.local.supervisor_revival"
        child = subprocess.Popen(
            [sys.executable, "-m", program, str(peer.folder)], stdin=subprocess.DEVNULL
        )
        child.returncode = 0  # the loop reaps all children; Popen must not wait for this one

    def _look_again(self, after_s: float) -> None:
        self.look_again_s = min(after_s, self.look_again_s or after_s)
