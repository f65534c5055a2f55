"""The parent of one member: keeps Patroni running and gives the lease up when death is certain.

``python -m reconciler.edges.local.supervisor MEMBER_DIR`` runs for as long as the member. It is
Patroni's parent and, as a subreaper, PostgreSQL's too, so it learns of each death at once. What is
then done is decided in ``reconciler.workflow.failover``; here it is carried out.

PostgreSQL does not die with its supervisor (no PDEATHSIG): a killed supervisor must not take a
healthy primary down. The next one adopts what runs.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import assert_never

from reconciler.edges.local import death
from reconciler.edges.local.process_identity import identity_of, send_signal
from reconciler.edges.local.supervisor_etcd import LeaseUnreachable
from reconciler.edges.local.supervisor_files import (
    MemberHeld,
    MemberUnreadable,
    bound_log,
    hold,
    read_member,
    record,
    record_path,
    say,
)
from reconciler.edges.local.supervisor_member import RunningMember
from reconciler.edges.local.supervisor_peers import Peers
from reconciler.workflow.failover import (
    FENCE_AFTER_S,
    AwaitCandidate,
    Decision,
    FencePostgres,
    GiveUpLease,
    KillMember,
    LeaveToPatroni,
    MemberFacts,
    RestartPatroni,
    Unseen,
    decide_failover,
    restart_delay_s,
)

#: How long a silent etcd, or a candidate that lags, is asked again before Patroni is left alone.
PATIENCE_S = 3.0
_ASK_AGAIN_S = 0.02
#: How often a postmaster is looked for while none is known, and the housekeeping's interval.
_LOOK_S = 0.5
_TICK_S = 5.0


@dataclass(slots=True)
class Supervisor:
    """The loop: wait for an event, see what died, decide, act."""

    running: RunningMember
    peers: Peers
    start_at: float | None = None
    stopping: bool = False
    reload: bool = False
    wakeup: tuple[int, int] = field(default_factory=os.pipe)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then stop the member."""
        self._take_signals()
        if self.running.adopt():
            say("adopted the running Patroni")
        unsettled = self.running.patroni is None and self.running.segment is not None
        while not self.stopping:
            try:
                if unsettled:  # an earlier supervisor left it: it may have died as the leader
                    unsettled = False
                    self._settle()
                self._round()
            except Exception as error:  # whatever fails, the next round starts from what is there
                say(f"unexpected {type(error).__name__}: {error}")
                time.sleep(_LOOK_S)
        self._stop()

    def _round(self) -> None:
        """Wait for one event, then look at everything: what counts is the state, not the event."""
        quiet = self._wait(self._timeout_s())
        death.reap()
        if self.reload:
            self.reload = False
            self._pass_to_patroni(signal.SIGHUP)
        if self.running.look_for_postmaster():
            say("PostgreSQL runs")
        self.running.hear()
        unkept = self.running.postmaster and self.running.unkept_s >= FENCE_AFTER_S
        if self.running.notice_deaths() or (unkept and not self.running.patroni):
            self._settle()
        if self.running.patroni is None and self.start_at is None:
            self._plan_start()
        if self.start_at is not None and time.monotonic() >= self.start_at:
            self._start()
        self.peers.look()
        if quiet:
            for name in ("patroni.log", "supervisor.log"):
                bound_log(self.running.member.folder / name)

    def _timeout_s(self) -> float:
        known = self.running.postmaster and self.running.segment
        waits = [_TICK_S if known else _LOOK_S]
        if not self.running.heard:  # a primary without a keeper is fenced in time
            waits.append(_LOOK_S)
        if self.running.patroni is None:
            waits.append(max(0.0, (self.start_at or 0.0) - time.monotonic()))
        if self.peers.look_again_s is not None:
            waits.append(self.peers.look_again_s)
        return min(waits)

    def _wait(self, timeout_s: float) -> bool:
        """Sleep until a watched process ends or a signal comes; True when neither did in time."""
        poller = select.poll()
        poller.register(self.wakeup[0], select.POLLIN)
        own = (self.running.patroni, self.running.postmaster)
        for pidfd in (*(w.pidfd for w in own if w), *self.peers.pidfds):
            poller.register(pidfd, select.POLLIN)
        ready = {fd for fd, _ in poller.poll(timeout_s * 1000)}
        if self.wakeup[0] in ready:
            os.read(self.wakeup[0], 4096)
        return not ready

    def _settle(self) -> None:
        """Decide and act until nothing is left to do now; bounded by PATIENCE_S and a kill."""
        deadline = time.monotonic() + PATIENCE_S
        killed = False
        said = ""
        while not self.stopping:
            death.reap()
            facts = self.running.facts()
            decision = decide_failover(facts)
            line = f"{type(decision).__name__}: {decision.reason}"
            if line != said:
                say(line)
                said = line
            if isinstance(decision, KillMember) and killed:
                say("not everything could be killed: the lease is left to its ttl")
                self._plan_start()
                return
            killed = killed or isinstance(decision, KillMember)
            again = self._act(decision, facts)
            if not again or (again == "ask" and time.monotonic() >= deadline):
                if again and self.running.patroni is None:
                    self._plan_start()
                return
            if again == "ask":
                time.sleep(_ASK_AGAIN_S)

    def _act(self, decision: Decision, facts: MemberFacts) -> str:
        """Carry a decision out; return ``now`` or ``ask`` when it has to be decided again."""
        match decision:
            case GiveUpLease():
                return self._give_up(decision)
            case KillMember():
                self.running.kill_everything()
                return "now"
            case FencePostgres():
                self.running.fence()
                return "now"
            case AwaitCandidate():
                return "ask"
            case RestartPatroni():
                if isinstance(facts.view, Unseen) and not facts.postmaster_alive:
                    return "ask"
                self._plan_start()
                return ""
            case LeaveToPatroni():
                return "ask" if _etcd_silent(facts) else ""
            case _:
                assert_never(decision)

    def _give_up(self, order: GiveUpLease) -> str:
        try:
            done = self.running.member.store.give_up(order)
        except LeaseUnreachable as error:
            say(f"lease {order.lease:x} not given up: {error.problem}")
            return "ask"
        said = "gave up" if done else "did not give up, the key has changed:"
        say(f"{said} leader lease {order.lease:x} of {order.member}")
        if self.running.patroni is None:
            self._plan_start()
        return ""

    def _plan_start(self) -> None:
        self.start_at = time.monotonic() + restart_delay_s(self.running.short_lives)

    def _start(self) -> None:
        self.start_at = None
        try:
            self.running.start_patroni()
        except OSError as error:
            say(f"Patroni cannot be started: {error.strerror}")
            self.running.short_lives += 1
            self._plan_start()

    def _pass_to_patroni(self, number: signal.Signals) -> None:
        if self.running.patroni:
            send_signal(self.running.patroni.process, number)

    def _stop(self) -> None:
        """Stop Patroni, which stops PostgreSQL; then PostgreSQL itself; then kill what is left."""
        say("stopping")
        deadline = time.monotonic() + self.running.member.stop_timeout_s
        self._pass_to_patroni(signal.SIGTERM)
        self._wait_until(lambda: self.running.patroni is None, deadline)
        if self.running.postmaster:  # Patroni was not there, or is paused
            send_signal(self.running.postmaster.process, signal.SIGINT)
            self._wait_until(lambda: self.running.postmaster is None, deadline)
        everything = self.running.kill_everything()
        say("stopped" if everything else "stopped, but some processes could not be killed")
        record_path(self.running.member.folder, "supervisor").unlink(missing_ok=True)

    def _wait_until(self, ended: Callable[[], bool], deadline: float) -> None:
        """Wait, and reap: Patroni waits for PostgreSQL, our child, until it is no zombie either."""
        self.running.look_for_postmaster()
        while not ended() and time.monotonic() < deadline:
            self._wait(min(_LOOK_S, max(0.0, deadline - time.monotonic())))
            death.reap()
            self.running.notice_deaths()
            self.running.look_for_postmaster()

    def _take_signals(self) -> None:
        os.set_blocking(self.wakeup[0], False)
        os.set_blocking(self.wakeup[1], False)
        signal.set_wakeup_fd(self.wakeup[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self.stopping = self.stopping or number in (signal.SIGTERM, signal.SIGINT)
        self.reload = self.reload or number == signal.SIGHUP


def _etcd_silent(facts: MemberFacts) -> bool:
    """Whether Patroni is left alone only because etcd did not answer: then it is asked again."""
    return isinstance(facts.view, Unseen) and not facts.postmaster_alive


def main(arguments: list[str]) -> int:
    """Run the supervisor of the member in this folder; 2: bad folder, 3: another one holds it."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m reconciler.edges.local.supervisor MEMBER_DIR\n")
        return 2
    folder = Path(arguments[0]).resolve()
    try:
        member = read_member(folder)
        lock = hold(folder)
    except MemberUnreadable as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except MemberHeld as error:
        sys.stderr.write(f"{error}\n")
        return 3
    with lock:
        death.become_subreaper()
        itself = identity_of(os.getpid())
        assert itself is not None  # noqa: S101  # this process lives
        record(folder, "supervisor", itself)
        say(f"supervisor of {member.name}, pid {itself.pid}")
        Supervisor(RunningMember(member), Peers(member)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
