"""Putting a clone in the place of a shard's data, in steps that whoever comes next can end.

The shard's record names the clone that is to take over (``ShardRecord.swapping``) before anything
is deleted, and forgets it last. No member is started in between.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from subprocess import SubprocessError

from reconciler.edges.local import etcd_server, member
from reconciler.edges.local.controldata import control_data
from reconciler.edges.local.death import kill_all
from reconciler.edges.local.home import Home, HomeRecord, ShardRecord, write_record
from reconciler.edges.local.member import Member
from reconciler.edges.local.patroni_config import patroni_namespace
from reconciler.edges.local.process_identity import ProcessIdentity, processes_of_member
from reconciler.model.errors import ReconcilerError

CLONE_SUFFIX = ".clone"
_KILL_TIMEOUT_S = 10.0
_OF_A_CLUSTER = ("leader", "history", "status", "sync", "failover", "failsafe")
"""What Patroni keeps in etcd of a cluster's past. Its configuration stays."""


class CloneUnusable(ReconcilerError):
    """A folder that is to become a shard's data is none of PostgreSQL's.

    The shard is not started before that is cleared up; no other shard is touched.
    """

    code = "LP133"


def clone_folder(one: Member, name: str) -> Path:
    """Return where a clone of this name is, beside the member's data."""
    return one.folder / f"{name}{CLONE_SUFFIX}"


def clones_of(one: Member) -> tuple[Path, ...]:
    """Return the folders of all clones beside the member's data."""
    return tuple(sorted(one.folder.glob(f"*{CLONE_SUFFIX}")))


def discard_clones(one: Member) -> None:
    """End the servers and backups of all clones, and delete them. Raises CloneUnusable."""
    for folder in clones_of(one):
        if not kill_all(processes_in_clone(one, folder), within_s=_KILL_TIMEOUT_S):
            raise CloneUnusable(str(folder), "processes that work in it do not end")
        shutil.rmtree(folder)


def processes_in_clone(one: Member, folder: Path) -> tuple[ProcessIdentity, ...]:
    """Return the programs of PostgreSQL that work in a clone's folder."""
    return processes_of_member(folder, member.bin_dir(one))


def finish_swap(home: Home, ports: HomeRecord, shard: ShardRecord) -> ShardRecord:
    """Put the clone that the record names in place, all members stopped; return the new record.

    The first member gets it, the others nothing: they copy it from there. Patroni finds a cluster
    that exists and has no leader. Raises MemberNotStopped, EtcdNotUp, CloneUnusable.
    """
    if not shard.swapping:
        return shard
    members = member.members_of(home, shard)
    first, clone = members[0], clone_folder(members[0], shard.swapping)
    member.stop(members)
    new = clone / "data"
    system = _system_of(first, new if new.is_dir() else first.data_dir)
    prefix = f"{patroni_namespace(shard.namespace)}/{shard.scope}"
    for key in _OF_A_CLUSTER:
        etcd_server.delete_patronis(home, ports, f"{prefix}/{key}")
    etcd_server.delete_patronis(home, ports, f"{prefix}/members/", prefix=True)
    etcd_server.put_patronis(home, ports, f"{prefix}/initialize", system)
    for one in members[1:]:
        shutil.rmtree(one.data_dir, ignore_errors=True)
    if new.is_dir():
        shutil.rmtree(first.data_dir, ignore_errors=True)
        new.rename(first.data_dir)
    shutil.rmtree(clone, ignore_errors=True)
    done = dataclasses.replace(shard, swapping="")
    write_record(home.shard_record(first.key), done)
    return done


def _system_of(one: Member, data: Path) -> str:
    """Return the system identifier of a data directory, as pg_controldata says it."""
    try:
        return control_data(member.bin_dir(one), data)["Database system identifier"]
    except (OSError, SubprocessError, UnicodeDecodeError, KeyError) as problem:
        raise CloneUnusable(str(data), f"pg_controldata cannot read it: {problem}") from None
