"""Patroni's REST API of one shard: the port ``Patroni``.

A member speaks for itself (``GET /patroni``, fresh from its own PostgreSQL); ``/cluster`` and
``/config`` are what etcd holds, through whichever member answers first. Nothing is concluded from
silence: without etcd's word there is no view at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from reconciler.edges.patroni_http import (
    Answer,
    NoAnswer,
    PatroniHttp,
    PatroniRefused,
    PatroniUnreachable,
)
from reconciler.edges.patroni_settle import Asked, is_settled
from reconciler.edges.patroni_view import observed_member, parameters_of, pending, view_of
from reconciler.model.access import Login
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import MemberName
from reconciler.model.observed import ObservedMember, PatroniView, Role, Unseen
from reconciler.model.platform import RESTART_IN_PLACE_S, PlatformMember

POLL_S = 0.1
RELOAD_AFTER_S = 3.0
"""When a member that has not taken a configuration is told to write its files anew.

A member that is just being started keeps the new parameters in mind, and never writes them
(``ConfigHandler.reload_config`` compares only in state ``running``).
"""
CONFIGURE_ATTEMPTS_MAX = 5


class ConfigurationNotTaken(ReconcilerError):
    """A member did not take the new parameters in time.

    They are in Patroni's dynamic configuration. A member that is busy takes them later; one whose
    PostgreSQL does not know a parameter, or whose local configuration overrides it, never does.
    """

    code = "PA110"
    transient = True


class ConfigurationContested(ReconcilerError):
    """Somebody else changed Patroni's dynamic configuration at the same moment, again and again."""

    code = "PA111"
    transient = True


class SwitchoverFailed(ReconcilerError):
    """Patroni refused a planned switchover, or it did not end in time.

    Patroni switches over only to a member that has everything: in synchronous mode to the
    synchronous standby. A standby that has just started becomes one after some seconds.
    """

    code = "PA120"
    transient = True


class RestartFailed(ReconcilerError):
    """Patroni could not restart a member's PostgreSQL, or it was not healthy again in time."""

    code = "PA130"
    transient = True


@dataclass(frozen=True, slots=True)
class PatroniTimeouts:
    """Bounds in seconds: one look, one configuration, one switchover, one restart."""

    deadline_s: float = 2.0
    configure_s: float = 30.0
    switchover_s: float = 60.0
    restart_s: float = 120.0


_SHARED = ("/cluster", "/config")
"""What every member knows of all of them, by etcd."""


class PatroniRest:
    """The port ``Patroni`` on urllib3. Safe to share between threads."""

    def __init__(self, timeouts: PatroniTimeouts = PatroniTimeouts()) -> None:
        self._timeouts = timeouts
        self._http = PatroniHttp()

    def view(self, login: Login) -> PatroniView:
        """Ask every member at once; the look ends within its deadline.

        Raises PatroniUnreachable when no member answers, or none can say what etcd holds;
        PatroniRefused when they refuse the login.
        """
        until = time.monotonic() + self._timeouts.deadline_s
        with ThreadPoolExecutor(len(login.members) + 2) as pool:
            # Asked before anybody was heard: a second round would double what a look takes.
            early = [pool.submit(self._ask_first, login, path, until) for path in _SHARED]
            own = list(pool.map(lambda m: self._ask_member(login, m, until), login.members))
            heard = [
                member
                for member, word in zip(login.members, own, strict=True)
                if not isinstance(word, Unseen)
            ]
            if not heard:
                _nobody_answers(login, tuple(word for word in own if isinstance(word, Unseen)))
            cluster, config = (
                (heard[0] is login.members[0] and asked.result())  # else it may be a stranger
                or self._ask_any(login, heard, path, until)
                for path, asked in zip(_SHARED, early, strict=True)
            )
        return view_of(login, own, cluster, config)

    def _ask_first(self, login: Login, path: str, until: float) -> Mapping[str, Any] | None:
        try:
            return self._ask_any(login, list(login.members[:1]), path, until)
        except PatroniUnreachable:
            return None

    def configure(
        self, login: Login, parameters: tuple[tuple[str, str], ...], synchronous: bool
    ) -> None:
        """Make ``postgresql.parameters`` exactly these, and wait until the members show it.

        After it returns a look sees each reachable member with the values active, or with the
        parameters that wait for a restart named. Raises ConfigurationNotTaken,
        ConfigurationContested and what ``view`` raises.
        """
        until = time.monotonic() + self._timeouts.configure_s
        removed = self._write_configuration(login, dict(parameters), synchronous)
        asked = Asked(parameters, removed)
        waiting = {member.name: member for member in login.members}
        reload_at = time.monotonic() + RELOAD_AFTER_S
        problem = ""
        while waiting:
            for member in list(waiting.values()):
                word = self._ask_member(login, member, time.monotonic() + POLL_S * 10)
                if isinstance(word, Unseen):
                    del waiting[member.name]
                    continue
                problem = is_settled(login, member, asked, frozenset(pending(word)))
                if not problem:
                    del waiting[member.name]
                elif time.monotonic() > reload_at:
                    self._order(login, member, "/reload", {})
            if time.monotonic() > reload_at:
                reload_at += RELOAD_AFTER_S
            if waiting and time.monotonic() > until:
                raise ConfigurationNotTaken(
                    f"shard {login.key} member {sorted(waiting)[0]}",
                    f"after {self._timeouts.configure_s:g} s: {problem}",
                    remedy="check the parameter's name and value, and the member's Patroni log",
                )
            if waiting:
                time.sleep(POLL_S)

    def switch_over(self, login: Login, leader: MemberName, candidate: MemberName) -> None:
        """Order a planned switchover and return when the candidate leads; at once when it does.

        Raises SwitchoverFailed with Patroni's own words, and what ``view`` raises.
        """
        until = time.monotonic() + self._timeouts.switchover_s
        order: _Order | None = None
        refusal = ""
        while time.monotonic() < until:
            leads, is_serving = self._standing(login, candidate)
            if is_serving:
                return
            if order is None and leads != candidate:
                body = {"leader": leader, "candidate": candidate}
                order = self._order(login, _member(login, leader), "/switchover", body)
            elif order is not None and order.answer is not None:
                refusal = order.answer.text
                if leads not in (None, leader, candidate):
                    break
                if order.answer.status != 200:  # else it is on its way: the candidate promotes
                    order = None
                    time.sleep(POLL_S * 5)
            time.sleep(POLL_S)
        raise SwitchoverFailed(
            f"shard {login.key}",
            f"{candidate} did not take over from {leader}"
            + (f"; Patroni says: {refusal}" if refusal else ""),
            remedy="check that the candidate streams and is synchronous: shardwright get instances",
        )

    def restart(self, login: Login, member: MemberName) -> None:
        """Restart PostgreSQL of one member when something waits for that, and wait for it.

        Nothing happens to a member without a pending restart. Raises RestartFailed, and what
        ``view`` raises.
        """
        until = time.monotonic() + self._timeouts.restart_s
        place = _member(login, member)
        order: _Order | None = None
        said = ""
        while time.monotonic() < until:
            seen = self._look_at(login, place)
            if seen is not None and not seen.pending_restart and _serves(seen):
                return
            if order is not None and order.answer is not None:
                said, order = order.answer.text, None
                time.sleep(POLL_S * 5)
            if order is None and seen is not None and seen.pending_restart:
                order = self._order(login, place, "/restart", {"restart_pending": True})
            time.sleep(POLL_S)
        raise RestartFailed(
            f"shard {login.key} member {member}",
            f"not healthy within {self._timeouts.restart_s:g} s after its restart was ordered"
            + (f"; Patroni says: {said}" if said else ""),
            remedy="look at the member's Patroni and PostgreSQL logs: shardwright platform logs",
        )

    def _ask_member(
        self, login: Login, member: PlatformMember, until: float
    ) -> Mapping[str, Any] | Unseen:
        try:
            answer = self._http.ask(login, member, "GET", "/patroni", until)
            word: Mapping[str, Any] = answer.json()
        except NoAnswer as error:
            return Unseen("patroni", member.name, str(error))
        who = word.get("patroni", {})
        if (who.get("scope"), who.get("name")) != (login.key.scope, member.name):
            return Unseen("patroni", member.name, "another Patroni answers at its address")
        return word

    def _ask_any(
        self, login: Login, members: list[PlatformMember], path: str, until: float
    ) -> Mapping[str, Any]:
        """Return the first good answer. Raises PatroniUnreachable when no member has one."""
        reason = ""
        for member in members:
            try:
                answer = self._http.ask(login, member, "GET", path, until)
                if answer.status == 200:
                    found: Mapping[str, Any] = answer.json()
                    return found
                reason = f"HTTP {answer.status}"
            except NoAnswer as error:
                reason = str(error)
        raise PatroniUnreachable(
            f"shard {login.key}",
            f"no member can say what etcd holds (GET {path}: {reason})",
            remedy="check etcd: shardwright platform status",
        )

    def _look_at(self, login: Login, member: PlatformMember) -> ObservedMember | None:
        word = self._ask_member(login, member, time.monotonic() + self._timeouts.deadline_s)
        return None if isinstance(word, Unseen) else observed_member(member, word, None)

    def _standing(self, login: Login, candidate: MemberName) -> tuple[MemberName | None, bool]:
        """Return who leads, and whether that is the candidate, as a running primary."""
        try:
            seen = self.view(login)
        except PatroniUnreachable:
            return None, False
        member = seen.member(candidate)
        return seen.leader, seen.leader == candidate and member is not None and member.healthy

    def _write_configuration(
        self, login: Login, wanted: dict[str, str], synchronous: bool
    ) -> tuple[tuple[str, str], ...]:
        """PATCH /config at every member, which wakes each of them; return what was removed.

        Only the first PATCH changes something. A member that is not woken would look at etcd after
        up to ``loop_wait``.
        """
        removed: tuple[tuple[str, str], ...] = ()
        for _ in range(CONFIGURE_ATTEMPTS_MAX):
            until = time.monotonic() + self._timeouts.deadline_s
            old = dict(parameters_of(self._ask_any(login, list(login.members), "/config", until)))
            removed += tuple((n, v) for n, v in old.items() if n not in wanted)
            patch: dict[str, Any] = dict.fromkeys((n for n in old if n not in wanted), None)
            body = {
                "postgresql": {"parameters": patch | wanted},
                "synchronous_mode": synchronous,
                # A crashed primary fails over at once only where a standby has everything.
                "primary_start_timeout": 0 if synchronous else RESTART_IN_PLACE_S,
            }
            statuses = {self._patch(login, member, body) for member in login.members}
            if 200 in statuses and 409 not in statuses:
                return removed
            if statuses == {0}:
                _nobody_answers(login, ())
        raise ConfigurationContested(f"shard {login.key}", "PATCH /config met another change")

    def _patch(self, login: Login, member: PlatformMember, body: Mapping[str, Any]) -> int:
        until = time.monotonic() + self._timeouts.deadline_s
        try:
            return self._http.ask(login, member, "PATCH", "/config", until, body).status
        except NoAnswer:
            return 0

    def _order(
        self, login: Login, member: PlatformMember, path: str, body: Mapping[str, Any]
    ) -> _Order:
        """Post without waiting: Patroni answers a second late, and we see what happened sooner."""
        order = _Order()
        until = time.monotonic() + self._timeouts.restart_s

        def post() -> None:
            try:
                order.answer = self._http.ask(login, member, "POST", path, until, body)
            except (NoAnswer, PatroniRefused) as error:
                order.answer = Answer(0, str(error).encode())

        threading.Thread(target=post, name=f"patroni {path}", daemon=True).start()
        return order


@dataclass(slots=True)
class _Order:
    """A POST under way, and its answer once there is one."""

    answer: Answer | None = None


def _serves(member: ObservedMember) -> bool:
    return member.state == ("running" if member.role is Role.PRIMARY else "streaming")


def _member(login: Login, name: MemberName) -> PlatformMember:
    for member in login.members:
        if member.name == name:
            return member
    raise PatroniUnreachable(f"shard {login.key} member {name}", "the platform does not know it")


def _nobody_answers(login: Login, unseen: tuple[Unseen, ...]) -> NoReturn:
    reasons = "; ".join(f"{word.subject}: {word.reason}" for word in unseen)
    raise PatroniUnreachable(
        f"shard {login.key}",
        f"no member answers{f' ({reasons})' if reasons else ''}",
        remedy="shardwright platform status; shardwright platform logs",
    )
