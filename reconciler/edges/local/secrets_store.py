"""Generated passwords: one file each, mode 0600, one set per shard.

``secrets/<namespace>/<scope>/<role>`` is the password in use; ``<role>.next`` beside it is one that
a rotation is about to bring into use. Passwords appear in no argument list, log or error text.
"""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path

from reconciler.edges.local.home import Home, write_file
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import ScopeKey
from reconciler.model.platform import Credential

LOGINS = {"superuser": "shardwright", "replication": "replicator", "rewind": "rewind_user"}
"""Names of the roles that Patroni needs; any other credential is named as its login."""
PATRONI_ROLES = (*LOGINS, "patroni_api")
PASSWORD_BYTES = 24
NEXT = ".next"
_ROLE = re.compile(r"[a-z_][a-z0-9_-]{0,62}")


class CredentialMissing(ReconcilerError):
    """A shard has no password for this role.

    Passwords are generated when a shard or a role is created and are kept in the home. One is
    missing when the shard does not exist here, or its file was deleted.
    """

    code = "LP121"


class CredentialNameInvalid(ReconcilerError):
    """A role's name cannot be the name of a password file."""

    code = "LP122"


class SecretsStore:
    """The passwords of one home. Writing takes place under the home's lock, held by the caller."""

    def __init__(self, home: Home) -> None:
        self._root = home.secrets

    def read(self, key: ScopeKey, role: str) -> Credential:
        """Return the credential in use. Raises CredentialMissing."""
        path = self._path(key, role)
        try:
            return _credential(role, path.read_text())
        except FileNotFoundError:
            raise CredentialMissing(
                f"{key} role {role}",
                "no password is kept for it",
                remedy="apply the shard's spec again, or restore the file under the home's secrets",
            ) from None

    def file(self, key: ScopeKey, role: str) -> Path:
        """Return where the credential in use is kept, for a person to read."""
        return self._path(key, role)

    def ensure(self, key: ScopeKey, role: str) -> Credential:
        """Return the credential in use, generated when there is none."""
        return self._ensure(self._path(key, role), role)

    def stage(self, key: ScopeKey, role: str) -> Credential:
        """Return the next credential, generated when none is staged."""
        return self._ensure(self._staged(key, role), role)

    def promote(self, key: ScopeKey, role: str) -> None:
        """Make the staged credential the one in use; nothing to do when none is staged."""
        staged = self._staged(key, role)
        if staged.exists():
            write_file(self._path(key, role), staged.read_bytes())
            staged.unlink()

    def roles(self, key: ScopeKey) -> tuple[str, ...]:
        """Return the roles that have a credential in use, sorted."""
        folder = self._root / key.namespace / key.scope
        return tuple(sorted(p.name for p in folder.glob("*") if _ROLE.fullmatch(p.name)))

    def staged(self, key: ScopeKey) -> tuple[str, ...]:
        """Return the roles whose next credential is staged."""
        folder = self._root / key.namespace / key.scope
        return tuple(sorted(path.name.removesuffix(NEXT) for path in folder.glob(f"*{NEXT}")))

    def delete(self, key: ScopeKey) -> None:
        """Delete all passwords of a shard."""
        shutil.rmtree(self._root / key.namespace / key.scope, ignore_errors=True)

    def _path(self, key: ScopeKey, role: str) -> Path:
        if not _ROLE.fullmatch(role):
            raise CredentialNameInvalid(
                f"{key} role {role!r}", "not lower case letters, digits, - and _ (63 at most)"
            )
        return self._root / key.namespace / key.scope / role

    def _staged(self, key: ScopeKey, role: str) -> Path:
        path = self._path(key, role)
        return path.with_name(f"{path.name}{NEXT}")

    def _ensure(self, path: Path, role: str) -> Credential:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(path, secrets.token_urlsafe(PASSWORD_BYTES).encode())
        return _credential(role, path.read_text())


def _credential(role: str, password: str) -> Credential:
    return Credential(LOGINS.get(role, role), password.strip())
