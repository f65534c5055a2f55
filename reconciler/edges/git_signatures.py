"""Whether a commit is signed by somebody who is believed: SSH or OpenPGP, checked by git itself."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.edges.git_command import GitFailed, run_git_command
from reconciler.model.desired import Revision
from reconciler.model.errors import Position, ReconcilerError

VERIFY_S = 30.0
_PGP = (b"-----BEGIN PGP PUBLIC KEY", b"\x99", b"\x98", b"\xc6")
"""How a file of OpenPGP keys begins: armored, or the tag of a public-key packet (RFC 9580, 4.2)."""


class CommitNotBelieved(ReconcilerError):
    """The source wants signed commits, and this one is not signed by a key that is believed.

    Nothing of the revision is taken up; the last good one stays in force. `verify.keys` names a
    file: allowed signers as ssh-keygen reads them, or OpenPGP public keys as gpg exports them.
    """

    code = "SO120"


class SignersUnreadable(ReconcilerError):
    """The file with the keys whose signatures are believed cannot be read or holds none."""

    code = "SO121"


def disbelieved(home: Path, commit: str, keys: Path, revision: Revision) -> ReconcilerError | None:
    """Return why a commit of a bare repository is not believed, None when it is.

    ``keys`` is read each time, so that a key that is taken out is out at once.
    """
    try:
        data = keys.read_bytes()
    except OSError as error:
        return SignersUnreadable(str(keys), f"cannot be read: {error.strerror}", where=_at(keys))
    try:
        with _verifying(data) as environment:
            run_git_command(
                ["--git-dir", str(home), "verify-commit", commit], environment, VERIFY_S
            )
    except GitFailed as failed:
        return CommitNotBelieved(
            f"commit {revision.short}",
            f"it has no signature of a key in {keys}: {failed.text or 'not signed'}",
            remedy="sign it (git commit -S), or add its signer's key to that file",
        )
    except subprocess.SubprocessError as error:
        return SignersUnreadable(str(keys), f"gpg cannot read it: {error}", where=_at(keys))
    return None


def _at(keys: Path) -> Position:
    return Position(str(keys))


@contextmanager
def _verifying(data: bytes) -> Iterator[dict[str, str]]:
    """Yield the environment in which git believes these keys and no others."""
    with tempfile.TemporaryDirectory(prefix="sw-signers-") as folder:
        settings, ring = Path(folder) / "settings", Path(folder) / "gnupg"
        ring.mkdir(mode=0o700)
        signers = Path(folder) / "allowed_signers"
        if data.lstrip().startswith(_PGP):
            _import(ring, data)
            signers.write_bytes(b"")
        else:
            signers.write_bytes(data)
        settings.write_text(f'[gpg "ssh"]\n\tallowedSignersFile = "{signers}"\n')
        yield {
            "GIT_CONFIG_GLOBAL": str(settings),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GNUPGHOME": str(ring),
        }


def _import(ring: Path, data: bytes) -> None:
    subprocess.run(
        ["gpg", "--homedir", str(ring), "--batch", "--quiet", "--no-autostart", "--import"],
        input=data, check=True, timeout=VERIFY_S, capture_output=True,
    )  # fmt: skip
