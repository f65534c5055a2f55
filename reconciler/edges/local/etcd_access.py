"""Users in the home's etcd: made once, before etcd asks anybody for a login.

While it does not ask, all of this may be repeated, and is, after an interruption. Asking is one
request, so it is on or off. Afterwards only passwords are mended whose files were lost.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from reconciler.edges.local import etcd_server, etcd_users
from reconciler.edges.local.etcd_users import GRANTS, EtcdUser
from reconciler.edges.local.home import Home, HomeRecord
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import AUTHENTICATE

_THERE = "already exists"


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
        named = {"name": user, "password": etcd_users.credential(home, user).password}
        if not _do(home, ports, "/v3/auth/user/add", named):
            _do(home, ports, "/v3/auth/user/changepw", named)
        _do(home, ports, "/v3/auth/role/add", {"name": user})
        for kind, (first, end) in GRANTS[user]:
            perm = {"permType": kind, "key": _b64(first), "range_end": _b64(end)}
            _do(home, ports, "/v3/auth/role/grant", {"name": user, "perm": perm})
        _do(home, ports, "/v3/auth/user/grant", {"user": user, "role": user})


def close(home: Home, ports: HomeRecord) -> None:
    """Ask everybody for a login from now on. Raises EtcdNotUp, EtcdUserRefused."""
    _do(home, ports, "/v3/auth/enable", {})


def mend_passwords(home: Home, ports: HomeRecord) -> bool:
    """Give users the passwords of their files, where those differ; tell whether any did.

    Raises EtcdNotUp, EtcdUserRefused.
    """
    differing = []
    for user in EtcdUser:
        named = {"name": user, "password": etcd_users.credential(home, user).password}
        status, answer = etcd_server.ask(home, ports, AUTHENTICATE, named)
        if status == etcd_server.OK:
            continue
        if user is EtcdUser.ROOT:
            raise _refused(user, _message(answer), etcd_users.login(home, user).password_file)
        differing.append(named)
    for named in differing:
        _do(home, ports, "/v3/auth/user/changepw", named, EtcdUser.ROOT)
    return bool(differing)


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
