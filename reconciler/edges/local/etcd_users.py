"""The users of a home's etcd: who there is, what each may do, and the files with their passwords.

Least privilege: commands that only look cannot write, a router writes its own record only, Patroni
its own prefix only, and root is nobody's but `platform up`'s. Passwords are random, so etcd need
not spend a tenth of a second on each to make guessing slow (``--bcrypt-cost``).

Tokens are JWTs rather than etcd's simple ones: those are etcd's for tests only, and Patroni, the
supervisors and all clients would have to log in at once just when an etcd that died is back. They
are signed with a key of the home that no one but etcd reads. A change of users makes all of them
old; Patroni does not understand how etcd before 3.6 says so, so with such a change the key is
changed too.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from pathlib import Path

from reconciler.edges.local.home import Home, write_file
from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.platform import Credential

TOKEN_TTL = "1h"  # noqa: S105 - a time
BCRYPT_COST = 4
_SECRET_BYTES = 32
_OURS = ("/shardwright/", "/shardwright0")
_PATRONIS = ("/shardwright/patroni/", "/shardwright/patroni0")
_ROUTERS = ("/shardwright/v1/routers/", "/shardwright/v1/routers0")
_DATABASES = ("/shardwright/v1/databases/", "/shardwright/v1/databases0")


class EtcdUser(StrEnum):
    """Everybody that a home's etcd knows."""

    ROOT = "root"
    PATRONI = "patroni"
    WRITER = "shardwright"
    READER = "shardwright-reader"
    ROUTER = "shardwright-router"


Grant = tuple[str, tuple[str, str]]
GRANTS: dict[EtcdUser, tuple[Grant, ...]] = {
    EtcdUser.ROOT: (),  # etcd's own role of this name may do everything
    EtcdUser.PATRONI: (("READWRITE", _PATRONIS),),
    EtcdUser.WRITER: (
        ("READ", _OURS),
        ("READWRITE", (_OURS[0], _PATRONIS[0])),
        ("READWRITE", (_PATRONIS[1], _OURS[1])),
    ),
    EtcdUser.READER: (("READ", _OURS),),
    EtcdUser.ROUTER: (("READ", _DATABASES), ("READWRITE", _ROUTERS)),
}
"""What each may do: kind of permission, first key, and the first key behind the last one."""


def login(home: Home, user: EtcdUser) -> EtcdLogin:
    """Return a user's login; the file is there once `platform up` has been."""
    return EtcdLogin(user.value, str(_folder(home) / user))


def credential(home: Home, user: EtcdUser) -> Credential:
    """Return a user's password, generated when there is none; under the home's lock."""
    return Credential(user.value, _ensured(_folder(home) / user))


def token_key(home: Home) -> Path:
    """Return the file with the key that etcd signs tokens with, generated when there is none."""
    path = _folder(home) / "token.key"
    _ensured(path)
    return path


def announce_new_key(home: Home) -> None:
    """Note that users are about to change, so that what they were given has to end."""
    write_file(_announced(home), b"")


def is_key_due(home: Home) -> bool:
    """Tell whether users were changed, perhaps, and etcd not started again with another key."""
    return _announced(home).exists()


def drop_key(home: Home) -> None:
    """Let etcd, when it starts again, take none of the tokens that it gave."""
    (_folder(home) / "token.key").unlink(missing_ok=True)


def note_new_key(home: Home) -> None:
    """Note that etcd runs with another key."""
    _announced(home).unlink(missing_ok=True)


def _announced(home: Home) -> Path:
    return _folder(home) / "token.key.due"


def _folder(home: Home) -> Path:
    return home.etcd / "logins"


def _ensured(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, secrets.token_urlsafe(_SECRET_BYTES).encode())
    return path.read_text().strip()
