from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.edges.local import etcd_server, lifecycle, ports
from reconciler.edges.local.binaries import (
    EtcdBinary,
    EtcdMissing,
    PostgresMissing,
    available_etcd,
    available_postgres,
    find_etcd,
    find_postgres,
)
from reconciler.edges.local.home import (
    MARKER,
    DiskFull,
    Home,
    HomeBusy,
    HomeOfAnotherUser,
    HomeRecord,
    HomeUnusable,
    NotAHome,
    RecordDamaged,
    create_home,
    locked,
    open_home,
    read_record,
    require_room,
    typed_os_errors,
    write_record,
)
from reconciler.edges.local.launch import NotStarted, launch
from reconciler.edges.local.member import base_environment
from reconciler.edges.local.ports import NoPortFree, PortTaken, choose_ports, require_free
from reconciler.edges.local.process_identity import (
    ProcessIdentity,
    identity_of,
    is_alive,
    processes_of_member,
    read_identity,
    send_signal,
    started_at,
    wait_until_gone,
)
from reconciler.edges.local.secrets_store import (
    CredentialMissing,
    CredentialNameInvalid,
    SecretsStore,
)
from reconciler.model.names import Namespace, Scope, ScopeKey

KEY = ScopeKey(Namespace("default"), Scope("shop-s0"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "home")


def test_a_home_is_its_owners_alone(home: Home) -> None:
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert create_home(home.root) == open_home(home.root) == home


def test_a_folder_with_other_files_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(NotAHome, match="other files"):
        lifecycle.up(tmp_path)


@pytest.mark.parametrize("command", [lifecycle.destroy, lifecycle.down, lifecycle.status])
def test_a_folder_without_the_marker_is_not_touched(tmp_path: Path, command: object) -> None:
    (tmp_path / "home.json").write_text("{}")

    with pytest.raises(NotAHome):
        command(tmp_path)  # type: ignore[operator]
    assert (tmp_path / "home.json").exists()


def test_the_home_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        theirs = create_home(tmp_path / "home").root
        os.chown(theirs, 1000, 1000)
        with pytest.raises(HomeOfAnotherUser, match="belongs to uid 1000"):
            open_home(theirs)
    else:
        theirs = Path("/usr")
    with pytest.raises(HomeOfAnotherUser):
        create_home(theirs)


def test_a_place_where_no_folder_can_be_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(HomeUnusable, match="Not a directory") as caught:
        lifecycle.up(tmp_path / "file" / "home")
    assert "--home" in caught.value.remedy


def test_a_full_disk_is_said_to_be_full(home: Home) -> None:
    with pytest.raises(DiskFull, match="no space left"), typed_os_errors(home.root):
        Path("/dev/full").write_bytes(b"x")
    with pytest.raises(DiskFull, match="wanted for a member"):
        require_room(home, 1 << 60, "a member")


def test_who_waits_for_the_lock_learns_who_holds_it(home: Home) -> None:
    with locked(home), pytest.raises(HomeBusy, match=f"process {os.getpid()} "):  # noqa: SIM117
        with locked(home, wait_s=0.1):
            pass
    with locked(home, wait_s=0.1):
        pass


def test_a_record_edited_by_hand_is_named(home: Home) -> None:
    write_record(home.record, HomeRecord(1, 2))
    assert read_record(home.record, HomeRecord) == HomeRecord(1, 2)

    home.record.write_text('{"etcd_client_port": "many"}')
    with pytest.raises(RecordDamaged, match="etcd_client_port"):
        lifecycle.status(home.root)


def test_an_interrupted_deletion_of_a_home_can_be_repeated(home: Home) -> None:
    write_record(home.record, HomeRecord(1, 2))
    for entry in home.root.iterdir():
        if entry.name != MARKER:
            entry.unlink()

    lifecycle.destroy(home.root)
    assert not home.root.exists()


def test_passwords_are_files_of_their_owner_and_not_in_a_repr(home: Home) -> None:
    store = SecretsStore(home)
    made = store.ensure(KEY, "superuser")

    assert made.role == "shardwright"
    assert store.read(KEY, "superuser") == store.ensure(KEY, "superuser") == made
    assert made.password not in repr(made)
    assert (home.secrets / "default/shop-s0/superuser").stat().st_mode & 0o777 == 0o600


def test_a_staged_password_waits_until_it_is_promoted(home: Home) -> None:
    store = SecretsStore(home)
    old = store.ensure(KEY, "owner")
    new = store.stage(KEY, "owner")

    assert store.stage(KEY, "owner") == new != old
    assert store.read(KEY, "owner") == old
    for _ in range(2):
        store.promote(KEY, "owner")
        assert store.read(KEY, "owner") == new
    assert store.stage(KEY, "owner") != new


def test_a_password_that_is_not_there_is_an_error(home: Home) -> None:
    with pytest.raises(CredentialMissing, match="role app"):
        SecretsStore(home).read(KEY, "app")
    with pytest.raises(CredentialNameInvalid):
        SecretsStore(home).ensure(KEY, "../../etc/passwd")


def test_chosen_ports_are_free_different_and_below_the_ephemeral_range() -> None:
    chosen = choose_ports(20, frozenset())

    assert len(set(chosen)) == 20
    assert all(ports.FIRST_PORT <= port <= ports.LAST_PORT for port in chosen)


def test_ports_that_are_taken_or_remembered_are_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr(ports, "FIRST_PORT", port)
        monkeypatch.setattr(ports, "LAST_PORT", port)

        with pytest.raises(NoPortFree):
            choose_ports(1, frozenset())
        with pytest.raises(PortTaken, match=f"etcd, 127.0.0.1:{port}"):
            require_free(port, "etcd")
    assert choose_ports(1, frozenset()) == (port,)
    with pytest.raises(NoPortFree):
        choose_ports(1, frozenset([port]))


def test_a_process_is_its_id_and_its_start() -> None:
    me = identity_of(os.getpid())

    assert me is not None
    assert is_alive(me)
    assert not is_alive(ProcessIdentity(me.pid, me.start_time + 1, me.boot_id))
    assert not is_alive(ProcessIdentity(me.pid, me.start_time, "another boot"))
    assert started_at(me) > 1_600_000_000


def test_a_signal_never_reaches_a_process_that_took_over_the_id() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            seen = identity_of(other.pid)
            assert seen is not None
            former = ProcessIdentity(seen.pid, seen.start_time - 1, seen.boot_id)

            assert not send_signal(former, 9)  # type: ignore[arg-type]
            assert wait_until_gone([former], 0) == ()
            assert wait_until_gone([seen], 0.05) == (seen,)
        finally:
            other.kill()


def test_a_process_that_waits_to_be_reaped_is_dead() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert identity_of(child.pid) is None


def test_a_launched_program_is_recorded_and_outlives_its_starter(home: Home) -> None:
    record = home.root / "sleep.json"
    with locked(home) as lock:
        launch(
            ["sleep", "60"],
            record=record,
            log=home.root / "sleep.log",
            folder=home.root,
            lock=lock,
            environment=base_environment(),
        )
    started = read_identity(record)
    assert started is not None
    try:
        assert Path(f"/proc/{started.pid}/comm").read_text().strip() == "sleep"
        assert os.getsid(started.pid) == started.pid
        with locked(home, wait_s=1):
            pass  # the program did not keep the lock
    finally:
        send_signal(started, 9)  # type: ignore[arg-type]


def test_a_program_that_cannot_start_is_an_error(home: Home) -> None:
    with locked(home) as lock, pytest.raises(NotStarted, match="No such file"):
        launch(
            ["/nonexistent"],
            record=home.root / "none.json",
            log=home.root / "none.log",
            folder=home.root,
            lock=lock,
            environment=base_environment(),
        )


def test_a_persons_shell_in_a_members_folder_is_not_a_process_of_the_member(
    tmp_path: Path,
) -> None:
    mark = {"SHARDWRIGHT_MEMBER_DIR": str(tmp_path)}
    wait = [sys.executable, "-c", "input()"]
    with (
        subprocess.Popen(wait, cwd=tmp_path, stdin=subprocess.PIPE) as shell,
        subprocess.Popen(wait, env=mark, stdin=subprocess.PIPE) as patroni,
    ):
        found = [p.pid for p in processes_of_member(tmp_path, Path("/nonexistent"))]
        shell.kill()
        patroni.kill()
    assert found == [patroni.pid]


def test_a_version_that_is_not_here_names_those_that_are() -> None:
    with pytest.raises(PostgresMissing) as caught:
        find_postgres("14")
    for there in available_postgres():
        assert there.major in caught.value.problem


def test_a_home_is_not_opened_with_an_older_etcd() -> None:
    with pytest.raises(EtcdMissing, match=r"etcd 9\.9 or newer"):
        find_etcd("9.9.1")


def fake_etcd(folder: Path, version: str) -> Path:
    """Write a script that says it is an etcd; a script is never taken for the system's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "etcd"
    path.write_text(f"#!/bin/sh\necho 'etcd Version: {version}'\n")
    path.chmod(0o755)
    return path


def test_a_script_or_a_program_of_a_virtual_environment_is_not_the_systems_etcd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHARDWRIGHT_ETCD_BIN", raising=False)
    real = next((e for e in available_etcd() if e.origin == "system"), None)
    script = fake_etcd(tmp_path / "bin", "3.5.1")
    program = tmp_path / "venv" / "bin" / "etcd"
    program.parent.mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    if real:
        program.symlink_to(real.path)
    else:
        program.write_bytes(b"\x7fELF")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{program.parent}:{os.environ['PATH']}")

    assert [e for e in available_etcd() if e.origin == "system"] == ([real] if real else [])


def test_a_home_keeps_the_etcd_that_it_was_created_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHARDWRIGHT_ETCD_BIN", raising=False)
    mine = fake_etcd(tmp_path / "mine", "3.4.2")
    kept = find_etcd("3.4.2", str(mine))
    assert (kept.path, kept.version_text) == (str(mine), "3.4.2")


def test_an_etcd_that_is_gone_is_replaced_by_a_newer_one_and_the_change_is_noted(
    tmp_path: Path,
) -> None:
    found = find_etcd("3.4.0", str(tmp_path / "gone"))
    assert found.version >= (3, 4, 0)
    record = etcd_server.remembered(HomeRecord(1, 2, "3.4.0", "/gone"), found)
    assert record.etcd_path == found.path
    assert record.etcd_version == found.version_text
    assert record.etcd_replaced == "3.4.0 (/gone)"
    assert etcd_server.remembered(record, found) == record


def test_a_home_of_a_newer_etcd_names_both_when_only_older_ones_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDWRIGHT_ETCD_BIN", str(fake_etcd(tmp_path / "old", "3.4.7")))
    with pytest.raises(EtcdMissing, match=r"written by etcd 3\.5\.1.*available: 3\.4\.7"):
        find_etcd("3.5.1", str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("version", "inconsistent"),
    [((3, 4, 23), False), ((3, 5, 0), True), ((3, 5, 2), True), ((3, 5, 3), False)],
)
def test_the_releases_that_lose_consistency_when_killed_are_known(
    version: tuple[int, int, int], inconsistent: bool
) -> None:
    assert EtcdBinary("/x", version, "system").inconsistent is inconsistent
