"""Patroni's edge on a real shard of two members."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.edges.local import lifecycle
from reconciler.edges.local.platform import LocalPlatform
from reconciler.edges.patroni import (
    ConfigurationNotTaken,
    PatroniRest,
    PatroniTimeouts,
    SwitchoverFailed,
)
from reconciler.edges.patroni_http import PatroniRefused, PatroniUnreachable
from reconciler.edges.patroni_settle import ParameterOverridden
from reconciler.model.access import Login
from reconciler.model.names import MemberName
from reconciler.model.observed import PatroniView, Role
from reconciler.model.platform import Credential, PlatformMember
from tests.edges.servers import free_port
from tests.local_home import blueprint, connect, fresh_home, members, wait_for, wait_until_whole

pytestmark = pytest.mark.platform


class PatroniShard:
    """One shard of two members, and its login."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.platform = LocalPlatform(root)
        self.key = blueprint("shop-s0").key
        self.edge = PatroniRest()

    @property
    def login(self) -> Login:
        return Login(
            self.key,
            members(self.platform, self.key),
            self.platform.credential(self.key, "superuser"),
            self.platform.credential(self.key, "patroni_api"),
            self.platform.client_tls(),
        )

    def view(self) -> PatroniView:
        return self.edge.view(self.login)

    def whole(self) -> PatroniView:
        """Wait for a leader and a synchronous standby that streams."""

        def look() -> PatroniView | None:
            view = self.view()
            standbys = [m for m in view.members if m.role is Role.STANDBY]
            whole = view.leader and all(m.synchronous and m.state == "streaming" for m in standbys)
            return view if whole and len(view.members) == 2 else None

        return wait_for(look, "a whole shard")

    def standby(self) -> MemberName:
        view = self.whole()
        return next(m.name for m in view.members if m.name != view.leader)

    def setting(self, member: PlatformMember, name: str) -> str:
        with connect(self.platform, self.key, member.endpoint) as connection:
            row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
        assert row is not None
        return str(row[0])

    def settings(self, name: str) -> set[str]:
        return {self.setting(member, name) for member in self.login.members}

    def configure(self, **changes: Any) -> None:
        """Change single parameters; None removes."""
        now = dict(self.view().parameters) | changes
        wanted = tuple(sorted((n, v) for n, v in now.items() if v is not None))
        self.edge.configure(self.login, wanted, synchronous=True)


@pytest.fixture(scope="module")
def pair() -> Iterator[PatroniShard]:
    with fresh_home() as root:
        lifecycle.up(root)
        shard = PatroniShard(root)
        shard.platform.ensure_members(blueprint("shop-s0"), (0, 1))
        wait_until_whole(root, shard.key)
        yield shard


def test_a_whole_shard_is_seen_with_roles_lag_and_parameters(pair: PatroniShard) -> None:
    view = pair.whole()

    leader = view.member(view.leader or MemberName(""))
    standby = view.member(pair.standby())
    assert leader is not None
    assert standby is not None
    assert (leader.role, leader.state, leader.lag_bytes) == (Role.PRIMARY, "running", None)
    assert (standby.role, standby.state, standby.synchronous) == (Role.STANDBY, "streaming", True)
    assert standby.lag_bytes is not None
    assert leader.timeline == standby.timeline
    assert leader.healthy
    assert standby.healthy
    assert dict(view.parameters)["wal_level"] == "logical"
    assert view.parameters == tuple(sorted(view.parameters))
    assert (view.synchronous, view.paused, view.unseen_members) == (True, False, ())


def test_a_parameter_that_needs_a_reload_is_active_on_all_members_afterwards(
    pair: PatroniShard,
) -> None:
    for value in ("12MB", "13MB"):
        pair.configure(work_mem=value)
        assert pair.settings("work_mem") == {value}
        assert dict(pair.view().parameters)["work_mem"] == value

    pair.configure(work_mem=None)

    assert pair.settings("work_mem") == {"4MB"}
    assert "work_mem" not in dict(pair.view().parameters)
    assert all(not member.pending_restart for member in pair.view().members)


def test_a_parameter_that_needs_a_restart_is_pending_at_once_and_active_after_it(
    pair: PatroniShard,
) -> None:
    for buffers in ("24MB", "28MB"):
        pair.configure(shared_buffers=buffers)
        view = pair.view()
        assert [member.pending_restart for member in view.members] == [("shared_buffers",)] * 2

        standby = pair.standby()
        for name in (standby, view.leader):
            assert name is not None
            pair.edge.restart(pair.login, name)
            seen = pair.view().member(name)
            assert seen is not None
            assert seen.pending_restart == ()
            assert seen.healthy
        assert pair.settings("shared_buffers") == {buffers}


def test_setting_a_pending_parameter_back_leaves_nothing_pending(pair: PatroniShard) -> None:
    before = dict(pair.view().parameters)["max_connections"]
    pair.configure(max_connections="110")
    assert {m.pending_restart for m in pair.view().members} == {("max_connections",)}

    pair.configure(max_connections=before)

    assert {m.pending_restart for m in pair.view().members} == {()}


def test_a_restart_without_anything_pending_restarts_nothing(pair: PatroniShard) -> None:
    def started() -> list[Any]:
        found = []
        for member in pair.login.members:
            with connect(pair.platform, pair.key, member.endpoint) as connection:
                found.append(connection.execute("SELECT pg_postmaster_start_time()").fetchone())
        return found

    before = started()
    for member in pair.login.members:
        pair.edge.restart(pair.login, member.name)
    assert started() == before


def test_a_parameter_that_does_not_exist_is_named(pair: PatroniShard) -> None:
    edge = PatroniRest(PatroniTimeouts(configure_s=6))
    before = pair.view().parameters
    wanted = tuple(sorted((*before, ("no_such_parameter", "1"))))

    with pytest.raises(ConfigurationNotTaken, match=r"PA110.*no_such_parameter"):
        edge.configure(pair.login, wanted, synchronous=True)

    pair.edge.configure(pair.login, before, synchronous=True)


def test_a_parameter_that_alter_system_overrides_is_said_so_at_once(pair: PatroniShard) -> None:
    member = pair.login.members[1]
    with connect(pair.platform, pair.key, member.endpoint) as connection:
        connection.execute("ALTER SYSTEM SET work_mem = '3MB'")
        try:
            with pytest.raises(ParameterOverridden, match=r"PA112.*work_mem") as caught:
                pair.configure(work_mem="5MB")
        finally:
            connection.execute("ALTER SYSTEM RESET work_mem")
    assert caught.value.subject.endswith(member.name)
    assert "ALTER SYSTEM RESET work_mem" in caught.value.remedy
    pair.configure(work_mem=None)


def test_a_switchover_ends_when_the_candidate_leads_and_twice_is_as_once(
    pair: PatroniShard,
) -> None:
    standby = pair.standby()
    leader = pair.view().leader
    assert leader is not None

    pair.edge.switch_over(pair.login, leader, standby)

    view = pair.view()
    seen = view.member(standby)
    assert view.leader == standby
    assert seen is not None
    assert seen.role is Role.PRIMARY
    pair.edge.switch_over(pair.login, leader, standby)
    assert pair.whole().leader == standby


def test_a_switchover_from_a_member_that_does_not_lead_is_refused_in_patronis_words(
    pair: PatroniShard,
) -> None:
    standby = pair.standby()
    ghost = MemberName("shop-s0-7")
    with pytest.raises(SwitchoverFailed, match=r"PA120.*leader name does not match"):
        pair.edge.switch_over(pair.login, standby, ghost)


def test_a_wrong_password_is_refused_without_being_shown(pair: PatroniShard) -> None:
    login = replace(pair.login, patroni_api=Credential("patroni", "s3cr3t"))
    now = pair.view().parameters
    with pytest.raises(PatroniRefused, match=r"PA102.*HTTP 401") as caught:
        pair.edge.configure(login, (*now, ("work_mem", "9MB")), synchronous=True)
    assert "s3cr3t" not in f"{caught.value} {caught.value!r}"
    assert pair.view().parameters == now


def test_no_answer_at_all_is_an_error_and_not_an_empty_view(pair: PatroniShard) -> None:
    nowhere = tuple(
        replace(m, endpoint=replace(m.endpoint, patroni_port=free_port()))
        for m in pair.login.members
    )
    with pytest.raises(PatroniUnreachable, match=r"PA101.*no member answers") as caught:
        pair.edge.view(replace(pair.login, members=nowhere))
    assert caught.value.transient


def test_a_member_under_another_name_is_not_believed(pair: PatroniShard) -> None:
    first, second = pair.login.members
    swapped = (replace(first, endpoint=second.endpoint), second)
    view = pair.edge.view(replace(pair.login, members=swapped))
    assert [m.name for m in view.members] == [second.name]
    assert "another Patroni" in view.unseen_members[0].reason


def test_a_member_that_hangs_is_unseen_and_the_look_ends_at_its_deadline(
    pair: PatroniShard,
) -> None:
    from reconciler.edges.local.home import ShardRecord, open_home, read_record
    from reconciler.edges.local.member import members_of
    from reconciler.edges.local.process_identity import read_identity, send_signal

    standby = pair.standby()
    home = open_home(pair.root)
    record = read_record(home.shard_record(pair.key), ShardRecord)
    assert record is not None
    folder = next(m.folder for m in members_of(home, record) if m.name == standby)
    process = read_identity(folder / "patroni.json")
    assert process is not None
    send_signal(process, signal.SIGSTOP)
    try:
        started = time.monotonic()
        view = pair.view()
        took = time.monotonic() - started
    finally:
        send_signal(process, signal.SIGCONT)

    assert [unseen.subject for unseen in view.unseen_members] == [standby]
    assert view.leader is not None
    assert view.leader != standby
    assert took < 60, "it hung with the member"
    pair.whole()
