"""Addresses of Git repositories, and the files that hold the credentials for them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEMES = ("file", "https", "ssh")
_LOGIN = re.compile(r"(?<=//)[^/@\s]+@")


def without_login(text: str) -> str:
    """Return a text whose addresses name neither user nor password any more."""
    return _LOGIN.sub("", text)


def holds_password(address: str) -> bool:
    """Tell whether an address has a password, or a token in its place, in it."""
    login = _LOGIN.search(address)
    return login is not None and (":" in login[0] or address.startswith("https://"))


def why_refused(address: str) -> str:
    """Say why an address is of no repository that may be read, empty when it is.

    Other transports can run commands or send passwords in the clear.
    """
    spaced = any(ord(c) < 33 for c in address)
    if not address or spaced or address.startswith("-") or "::" in address.split("/")[0]:
        return "it is not an address of a repository"
    scheme, separator, _ = address.partition("://")
    if separator and scheme.lower() not in SCHEMES:
        return f"{scheme} is not allowed; use {', '.join(SCHEMES)} or a path"
    return ""


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Paths of files, each empty when there is none; their contents are never kept.

    ``username`` and ``password`` (a token as well), or ``bearer_token``, and ``ca`` (PEM) for
    https; ``identity`` (a private key) and ``known_hosts`` for SSH. Read anew at each fetch, so
    that what was rotated is in force at the next.
    """

    username: str = ""
    password: str = ""
    bearer_token: str = ""
    ca: str = ""
    identity: str = ""
    known_hosts: str = ""

    def __bool__(self) -> bool:
        return self != NO_CREDENTIALS


NO_CREDENTIALS = CredentialFiles()
