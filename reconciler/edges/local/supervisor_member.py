"""One member's processes as its supervisor holds them: started, adopted, watched, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field

from reconciler.edges.local import death
from reconciler.edges.local.controldata import control_data
from reconciler.edges.local.process_identity import (
    ProcessIdentity,
    identity_of,
    is_alive,
    read_identity,
    send_signal,
    wait_until_gone,
)
from reconciler.edges.local.supervisor_etcd import LeaseUnreachable, Scope
from reconciler.edges.local.supervisor_files import (
    Member,
    bound_log,
    record,
    record_path,
    say,
)
from reconciler.workflow.failover import (
    FENCE_AFTER_S,
    LIVED_S,
    ControlState,
    MemberFacts,
    ScopeView,
    Survivors,
    Unseen,
    control_state,
)

_KILL_WITHIN_S = 5.0
_FENCE_WITHIN_S = 2.0
_PROGRAMS = "reconciler.edges.local."


@dataclass(slots=True)
class Watched:
    """A process and the pidfd that becomes readable when it ends."""

    process: ProcessIdentity
    pidfd: int
    since: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, process: ProcessIdentity | None) -> Watched | None:
        """Watch a process; None when there is none, or it is dead."""
        pidfd = death.open_pidfd(process) if process else None
        return cls(process, pidfd) if process and pidfd is not None else None

    @property
    def alive(self) -> bool:
        """Whether exactly this process lives."""
        return is_alive(self.process)

    @property
    def age_s(self) -> float:
        """Seconds since it is watched."""
        return time.monotonic() - self.since

    def close(self) -> None:
        """Stop watching."""
        os.close(self.pidfd)


@dataclass(slots=True)
class RunningMember:
    """Patroni and PostgreSQL of one member.

    ``adopted``: they may have been started under an earlier supervisor, and then are no descendants
    of this process: only the shared memory segment tells whether all of PostgreSQL is gone.
    ``heard``: this Patroni has answered, so it keeps the lease; its age alone proves nothing, as on
    a busy machine one that fails takes long to do so.
    """

    member: Member
    patroni: Watched | None = None
    postmaster: Watched | None = None
    segment: death.Segment | None = None
    adopted: bool = True
    short_lives: int = 0
    kept_at: float = field(default_factory=time.monotonic)
    heard: bool = False

    def find(self) -> None:
        """Find what runs of this member, whoever started it, and watch it."""
        recorded = read_identity(record_path(self.member.folder, "patroni"))
        found = [recorded] if recorded else []
        found += death.find_by_arguments(
            *self.member.patroni_command[1:], self.member.patroni_config
        )
        self.patroni = next((w for p in found if (w := Watched.open(p))), None)
        self.look_for_postmaster()
        self.segment = self.segment or death.last_segment(self.member.data_dir)

    def adopt(self) -> bool:
        """Take over what runs already; return whether Patroni does."""
        self.find()
        if self.patroni:
            record(self.member.folder, "patroni", self.patroni.process)
        return self.patroni is not None

    def close(self) -> None:
        """Stop watching."""
        for watched in (self.patroni, self.postmaster):
            if watched:
                watched.close()
        self.patroni = self.postmaster = None

    def start_patroni(self) -> None:
        """Start Patroni as a child. What an earlier one left behind is killed first.

        A pg_basebackup or pg_rewind that outlived its Patroni would write into the folder that the
        next one works on. Raises OSError when it cannot be started.
        """
        self.kill_orphans()
        log_path = self.member.folder / "patroni.log"
        bound_log(log_path)
        with log_path.open("ab") as log:
            child = subprocess.Popen(
                [*self.member.patroni_command, self.member.patroni_config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.member.folder,
                start_new_session=True,
            )
        self.adopted = self.adopted and self.postmaster is not None
        child.returncode = 0  # the loop reaps all children; Popen must not wait for this one
        process = identity_of(child.pid)
        self.patroni = Watched.open(process)
        if self.patroni:
            record(self.member.folder, "patroni", self.patroni.process)
        else:
            self.short_lives += 1
        say(f"started Patroni, pid {child.pid}")

    def look_for_postmaster(self) -> bool:
        """Find the running postmaster, or its segment, when not known; True when it is new."""
        if self.postmaster and self.segment:
            return False
        found = death.find_postmaster(self.member.data_dir)
        if found is None:
            return False
        known = self.postmaster is not None
        self.postmaster = self.postmaster or Watched.open(found.process)
        self.segment = found.segment
        return not known and self.postmaster is not None

    def hear(self) -> None:
        """Ask a new Patroni until it answers once."""
        if self.patroni and not self.heard:
            self.heard = self.member.store.is_kept(self.member.api_url)

    def notice_deaths(self) -> bool:
        """Forget what has died; return whether anything has."""
        died = False
        if self.patroni and not self.patroni.alive:
            died = True
            lived = self.patroni.age_s >= LIVED_S
            self.kept_at = time.monotonic() if self.heard else self.kept_at
            self.heard = False
            self.short_lives = 0 if lived else self.short_lives + 1
            say(f"Patroni, pid {self.patroni.process.pid}, has ended")
            self.patroni.close()
            self.patroni = None
            record_path(self.member.folder, "patroni").unlink(missing_ok=True)
        if self.postmaster and not self.postmaster.alive:
            died = True
            say(f"PostgreSQL, pid {self.postmaster.process.pid}, has ended")
            self.postmaster.close()
            self.postmaster = None
        return died

    @property
    def unkept_s(self) -> float:
        """How long PostgreSQL is without a Patroni that was heard."""
        if self.patroni and self.heard:
            return 0.0
        return time.monotonic() - self.kept_at

    def survivors(self, *, peer: bool = False) -> Survivors:
        """Tell whether anything of PostgreSQL is left, now that its postmaster is gone."""
        if death.processes_in(self.member.data_dir) if peer else self._strays():
            return Survivors.SOME
        left = death.attached(self.segment)
        # All that this supervisor started is its descendant, so no stray means that none is left.
        return left if self.adopted or left is Survivors.SOME else Survivors.NONE

    def kill_everything(self) -> bool:
        """Kill Patroni, the postmaster and all they left, with -9; True when all are dead."""
        main = tuple(w.process for w in (self.patroni, self.postmaster) if w)
        deadline = time.monotonic() + _KILL_WITHIN_S
        ended = death.kill_all(main, within_s=_KILL_WITHIN_S)
        while time.monotonic() < deadline:  # a fork may be under way, so look again
            death.reap()
            strays = self._strays()
            if not strays and death.attached(self.segment) is not Survivors.SOME:
                break
            ended = death.kill_all(strays, within_s=_KILL_WITHIN_S) and ended
            time.sleep(0.002)
        self.notice_deaths()
        return ended and self.survivors() is not Survivors.SOME

    def kill_orphans(self) -> None:
        """Kill children that are neither Patroni nor PostgreSQL: a dead Patroni's helpers."""
        kept = {w.process for w in (self.patroni, self.postmaster) if w}
        orphans = tuple(p for p in self._own_children() if p not in kept)
        if orphans:
            say(f"killing what Patroni left behind: {[p.pid for p in orphans]}")
            death.kill_all(orphans, within_s=_KILL_WITHIN_S)
            death.reap()

    def fence(self) -> None:
        """Stop PostgreSQL without its help: SIGQUIT, then -9."""
        if self.postmaster:
            send_signal(self.postmaster.process, signal.SIGQUIT)
            wait_until_gone((self.postmaster.process,), _FENCE_WITHIN_S)
        self.kill_everything()

    def facts(self, *, peer: bool = False) -> MemberFacts:
        """Read what the decision needs, and no more: etcd is asked only when something is dead.

        ``peer``: the member is another one's, whose processes are no children of this process.
        """
        self.look_for_postmaster()
        self.notice_deaths()
        running = self.postmaster is not None
        if running and (self.patroni or self.unkept_s < FENCE_AFTER_S):
            return self._facts(Survivors.SOME, ControlState.UNREADABLE, Unseen("not asked"))
        control, lsn = read_control(self.member)
        gone = not running and self.patroni is None
        survivors = self.survivors(peer=peer) if gone else Survivors.UNKNOWN
        if survivors is Survivors.SOME and gone:
            return self._facts(survivors, control, Unseen("not asked"))
        try:
            scope = self.member.store.read()
        except LeaseUnreachable as error:
            return self._facts(survivors, control, Unseen(error.problem))
        return self._facts(survivors, control, scope.view, lsn, self._received(scope, control))

    def _facts(
        self,
        survivors: Survivors,
        control: ControlState,
        view: ScopeView | Unseen,
        lsn: int = 0,
        received: tuple[tuple[str, int], ...] = (),
    ) -> MemberFacts:
        return MemberFacts(
            member=self.member.name,
            patroni_alive=self.patroni is not None,
            postmaster_alive=self.postmaster is not None,
            survivors=survivors,
            control=control,
            view=view,
            shutdown_lsn=lsn,
            received=received,
            unkept_s=self.unkept_s,
        )

    def _received(self, scope: Scope, control: ControlState) -> tuple[tuple[str, int], ...]:
        """Ask the others for their positions: only a clean shutdown for a switchover needs them."""
        switchover = scope.view.switchover
        if control is not ControlState.SHUT_DOWN or switchover is None or self.patroni is None:
            return ()
        wanted = [
            (name, url)
            for name, url in scope.api_urls
            if name in scope.view.sync_standbys and switchover.candidate in ("", name)
        ]
        return tuple((name, self.member.store.received(url)) for name, url in wanted)

    def _strays(self) -> tuple[ProcessIdentity, ...]:
        kept = {w.process for w in (self.patroni, self.postmaster) if w and w.alive}
        found = {*self._own_children(), *death.processes_in(self.member.data_dir)}
        return tuple(sorted(found - kept, key=lambda p: p.pid))

    def _own_children(self) -> tuple[ProcessIdentity, ...]:
        """Return this process's children that are of its member.

        What it started again for others, a peer's supervisor or etcd's keeper, comes back to it as
        the subreaper, and so does the etcd that such a keeper starts.
        """
        return tuple(
            process
            for process in death.children_of(os.getpid())
            if not any(word.startswith(_PROGRAMS) for word in death.command_of(process.pid))
            and death.may_work_in(process.pid, self.member.folder)
        )


def read_control(member: Member) -> tuple[ControlState, int]:
    """Ask pg_controldata: the state, and where the latest checkpoint's record starts."""
    try:
        told = control_data(member.bin_dir, member.data_dir)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ControlState.UNREADABLE, 0
    state = control_state(told.get("Database cluster state", ""))
    return state, parse_lsn(told.get("Latest checkpoint location", ""))


def parse_lsn(text: str) -> int:
    """Turn PostgreSQL's ``16/B374D848`` into a byte position; 0 when it is none."""
    try:
        high, low = text.split("/")
        return (int(high, 16) << 32) + int(low, 16)
    except ValueError:
        return 0
