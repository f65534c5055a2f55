"""Users in the home's etcd: made before etcd asks anybody for a login, and kept as the code says.

While it does not ask, all of this may be repeated, and is, after an interruption. Asking is one
request, so it is on or off. Afterwards what differs is mended: passwords whose files were lost or
replaced, and what a user may, where another release of Shardwright said otherwise.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reconciler.edges.local import etcd_server, etcd_users
from reconciler.edges.local.etcd_users import GRANTS, EtcdUser, Grant
from reconciler.edges.local.home import Home, HomeRecord
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import AUTHENTICATE

_THERE = "already exists"
_KINDS = {"READ": "read", "WRITE": "write", "READWRITE": "read and write"}


class EtcdUserRefused(ReconcilerError):
    """The home's etcd did not take a user, or not root's password.

    The passwords are files below `etcd/logins` in the home. `platform up` makes a lost one anew,
    which takes root's.
    """

    code = "LP143"


def is_open(home: Home, ports: HomeRecord) -> bool:
    """Tell whether etcd asks nobody for a login yet. Raises EtcdNotUp."""
    key = base64.b64encode(b"/shardwright/ready").decode()
    status, _ = etcd_server.ask(home, ports, "/v3/kv/range", {"key": key})
    return status == etcd_server.OK


def admit_users(home: Home, ports: HomeRecord) -> None:
    """Let an open etcd know all users, their passwords and what they may. Raises EtcdNotUp."""
    for user in EtcdUser:
        _admit(home, ports, user, None)
        _mend_grants(home, ports, user, None)


def _admit(home: Home, ports: HomeRecord, user: EtcdUser, by: EtcdUser | None) -> None:
    named = {"name": user, "password": etcd_users.credential(home, user).password}
    if not _do(home, ports, "/v3/auth/user/add", named, by):
        _do(home, ports, "/v3/auth/user/changepw", named, by)


def close(home: Home, ports: HomeRecord) -> None:
    """Ask everybody for a login from now on. Raises EtcdNotUp, EtcdUserRefused."""
    _do(home, ports, "/v3/auth/enable", {})


def locked_out(home: Home, ports: HomeRecord) -> tuple[EtcdUser, ...]:
    """Return the users whose password in etcd is not that of their file.

    Raises EtcdNotUp, and EtcdUserRefused when root is one of them.
    """
    found = []
    for user in EtcdUser:
        status, answer = _log_in(home, ports, user)
        if status != etcd_server.OK and user is EtcdUser.ROOT:
            raise _refused(user, _message(answer), etcd_users.login(home, user).password_file)
        if status != etcd_server.OK:
            found.append(user)
    return tuple(found)


def mend_users(home: Home, ports: HomeRecord, locked: tuple[EtcdUser, ...]) -> None:
    """Give those who are locked out the passwords of their files, and all what they may.

    Only what differs is changed, as each change makes all tokens old. Raises EtcdNotUp,
    EtcdUserRefused.
    """
    for user in locked:
        _admit(home, ports, user, EtcdUser.ROOT)
    for user in EtcdUser:
        _mend_grants(home, ports, user, EtcdUser.ROOT)


def differing(home: Home, ports: HomeRecord) -> tuple[str, ...]:
    """Return in words what users may, and should not, or the reverse. Raises EtcdNotUp."""
    return tuple(
        words
        for user in EtcdUser
        for words in _words(user, *_seen(home, ports, user, EtcdUser.ROOT))
    )


def shortfalls(home: Home, ports: HomeRecord) -> tuple[str, ...]:
    """Return in words why not everybody may just what is theirs. Nothing is changed.

    Each user is asked about itself, as nobody but root may ask about others. Raises EtcdNotUp.
    """
    if is_open(home, ports):
        return ("it asks nobody for a login: who has the client certificate may write all of it",)
    found: list[str] = []
    for user in EtcdUser:
        if not Path(etcd_users.login(home, user).password_file).exists():
            found.append(f"the password of {user} is lost")
        elif _log_in(home, ports, user)[0] != etcd_server.OK:
            found.append(f"it does not take the password of {user}")
        else:
            found += _words(user, *_seen(home, ports, user, user))
    return tuple(found)


def _log_in(home: Home, ports: HomeRecord, user: EtcdUser) -> tuple[int, bytes]:
    named = {"name": user, "password": etcd_users.credential(home, user).password}
    return etcd_server.ask(home, ports, AUTHENTICATE, named)


def _seen(
    home: Home, ports: HomeRecord, user: EtcdUser, by: EtcdUser | None
) -> tuple[frozenset[str], frozenset[Grant]]:
    """Return the roles of a user, and what its own role may; empty where there is none."""
    status, answer = etcd_server.ask(home, ports, "/v3/auth/user/get", {"name": user}, by)
    roles = json.loads(answer).get("roles", ()) if status == etcd_server.OK else ()
    if user is EtcdUser.ROOT:
        return frozenset(roles), frozenset(GRANTS[user])
    status, answer = etcd_server.ask(home, ports, "/v3/auth/role/get", {"role": user}, by)
    perms = json.loads(answer).get("perm", ()) if status == etcd_server.OK else ()
    return frozenset(roles), frozenset(_grant(perm) for perm in perms)


def _grant(perm: Mapping[str, str]) -> Grant:
    """READ is 0 in etcd's protocol, and therefore not said."""
    first, end = (base64.b64decode(perm.get(n, "")).decode() for n in ("key", "range_end"))
    return perm.get("permType", "READ"), (first, end)


def _words(user: EtcdUser, roles: frozenset[str], grants: frozenset[Grant]) -> Iterator[str]:
    if user not in roles:
        yield f"{user} lacks its role"
    for role in sorted(roles - {user}):
        yield f"{user} has the role {role}, too"
    wanted = frozenset(GRANTS[user])
    for verb, differing_grants in (("may not", wanted - grants), ("may", grants - wanted)):
        for kind, (first, _) in sorted(differing_grants):
            yield f"{user} {verb} {_KINDS.get(kind, kind)} {first}"


def _mend_grants(home: Home, ports: HomeRecord, user: EtcdUser, by: EtcdUser | None) -> None:
    """Give first, so that nobody is without what is theirs meanwhile."""
    roles, grants = _seen(home, ports, user, by)
    wanted, ranges = frozenset(GRANTS[user]), {place for _, place in GRANTS[user]}
    if user not in roles:
        _do(home, ports, "/v3/auth/role/add", {"name": user}, by)
    for kind, (first, end) in sorted(wanted - grants):
        perm = {"permType": kind, "key": _b64(first), "range_end": _b64(end)}
        _do(home, ports, "/v3/auth/role/grant", {"name": user, "perm": perm}, by)
    if user not in roles:
        _do(home, ports, "/v3/auth/user/grant", {"user": user, "role": user}, by)
    for role in sorted(roles - {user}):
        _do(home, ports, "/v3/auth/user/revoke", {"name": user, "role": role}, by)
    for first, end in sorted({place for _, place in grants} - ranges):
        place = {"role": user, "key": _b64(first), "range_end": _b64(end)}
        _do(home, ports, "/v3/auth/role/revoke", place, by)


def _do(
    home: Home,
    ports: HomeRecord,
    path: str,
    body: dict[str, Any],
    user: EtcdUser | None = None,
) -> bool:
    """Change something; False when it is there already. Raises EtcdNotUp, EtcdUserRefused."""
    status, answer = etcd_server.ask(home, ports, path, body, user)
    if status != etcd_server.OK and _THERE not in _message(answer):
        raise _refused(path, _message(answer), "")
    return status == etcd_server.OK


def _refused(subject: str, message: str, file: str) -> EtcdUserRefused:
    cure = f"restore {file}" if file else "run shardwright platform up again"
    return EtcdUserRefused(f"etcd {subject}", message, remedy=cure)


def _message(answer: bytes) -> str:
    try:
        found = json.loads(answer)
        return str(found.get("message") or found.get("error"))
    except (ValueError, AttributeError):
        return answer[:200].decode(errors="replace")


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
