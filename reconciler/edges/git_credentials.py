"""How one git command may reach its repository: what it asks for, handed on without a trace.

Contents of files go to git through its environment and to ssh through memory that only this user
can open: neither an argument, nor a file of ours, nor a message ever holds a secret.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from reconciler.edges.git_address import GitAddress
from reconciler.model.errors import Position, ReconcilerError
from reconciler.model.git import CredentialFiles, without_login

BYTES_MAX = 1_000_000
"""A larger file is none of credentials."""
_HELPER = (
    '!f() { test "$1" = get && echo "username=$SHARDWRIGHT_GIT_USER" '
    '&& echo "password=$SHARDWRIGHT_GIT_PASSWORD"; }; f'
)
_SSH = (
    "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none"
    " -o PreferredAuthentications=publickey -o StrictHostKeyChecking=yes -o UpdateHostKeys=no"
    " -o GlobalKnownHostsFile=/dev/null -o ConnectTimeout=20"
)


class CredentialUnreadable(ReconcilerError):
    """A file with credentials of a Git source is missing, cannot be read, or holds none.

    The last good revision stays in force; the file is read again at the next look.
    """

    code = "SO122"
    transient = True


class CredentialTooOpen(ReconcilerError):
    """A file with a secret of a Git source is open to other users of the machine.

    Its group may read it, so that it can be mounted for a container's user; nobody else. Files of
    public things, such as known hosts, may be read by all, and written by their owner and group.
    """

    code = "SO123"


@dataclass(frozen=True, slots=True)
class Access:
    """The environment of the commands that reach a repository.

    ``shown``: texts that stand for secrets or for files of ours, and what messages say instead.
    """

    environment: dict[str, str] = field(default_factory=dict, repr=False)
    shown: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    from_files: bool = False

    def clean(self, text: str) -> str:
        """Return a message without secrets, and without user information of addresses."""
        text = without_login(text)
        for hidden, instead in self.shown:
            text = text.replace(hidden, instead)
        return text


@contextmanager
def reaching(address: GitAddress, files: CredentialFiles) -> Iterator[Access]:
    """Read the credentials now. Raises CredentialUnreadable and CredentialTooOpen."""
    settings: dict[str, str] = {}
    environment: dict[str, str] = {}
    shown: list[tuple[str, str]] = []
    user, password = address.user, address.password
    here = _base(address)
    if files.password:
        user, password = _line(files.username, secret=False), _line(files.password, secret=True)
    if user or password:
        settings["credential.helper"] = ""  # none of the user's, which might keep it
        settings[f"credential.{here}.helper"] = _HELPER
        environment |= {"SHARDWRIGHT_GIT_USER": user, "SHARDWRIGHT_GIT_PASSWORD": password}
        shown.append((password, "***"))
    if files.bearer_token:
        token = _line(files.bearer_token, secret=True)
        settings["http.followRedirects"] = "false"  # the header is for this server alone
        settings[f"http.{here}.extraHeader"] = f"Authorization: Bearer {token}"
        shown.append((token, "***"))
    if files.ca:
        _contents(files.ca, secret=False)
        settings[f"http.{here}.sslCAInfo"] = files.ca
    with ExitStack() as open_files:
        if files.identity:
            key = open_files.enter_context(_in_memory(_contents(files.identity, secret=True)))
            known = open_files.enter_context(_in_memory(_contents(files.known_hosts, secret=False)))
            environment["GIT_SSH_COMMAND"] = f"{_SSH} -i {key} -o UserKnownHostsFile={known}"
            shown += [(key, files.identity), (known, files.known_hosts)]
        hidden = tuple(pair for pair in shown if pair[0])
        yield Access(environment | _as_environment(settings), hidden, bool(files))


def _base(address: GitAddress) -> str:
    parts = urlsplit(address.url) if "://" in address.url else None
    return f"{parts.scheme}://{parts.netloc}" if parts else address.url


def _as_environment(settings: dict[str, str]) -> dict[str, str]:
    """Return settings as git reads them from its environment."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))} if settings else {}
    for number, (key, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """Yield the path of a file that is in memory, and that only this user's processes can open.

    A mounted key may be open to its group, which ssh refuses, or lack its last line's end.
    """
    descriptor = os.memfd_create("shardwright")
    try:
        os.fchmod(descriptor, 0o600)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data.rstrip() + b"\n")
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _line(path: str, *, secret: bool) -> str:
    try:
        text = _contents(path, secret=secret).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise _unreadable(path, "it is not text") from None
    if any(ord(character) < 32 for character in text):
        raise _unreadable(path, "it holds more than one line")
    return text


def _contents(path: str, *, secret: bool) -> bytes:
    """Read a file of credentials that is closed to those whom it does not concern."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(BYTES_MAX + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode) or len(data) > BYTES_MAX:
        raise _unreadable(path, "it is no file of credentials")
    if not data.strip():
        raise _unreadable(path, "it is empty")
    if mode & (0o027 if secret else 0o002):
        who = "others" if mode & 0o007 else "its group"
        what = "read or written" if secret else "written"
        raise CredentialTooOpen(
            path, f"it may be {what} by {who} (mode {stat.S_IMODE(mode):04o})",
            remedy=f"chmod {'g-w,o=' if secret else 'o-w'} {path}; of a Secret's volume: "
            "defaultMode: 0440", where=Position(path),
        )  # fmt: skip
    return data


def _unreadable(path: str, problem: str) -> CredentialUnreadable:
    remedy = "see that the file is there, and that this user may read it"
    return CredentialUnreadable(path, problem, remedy=remedy, where=Position(path))
