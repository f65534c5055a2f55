"""What reading a Git repository needs beside its address: the files that hold its credentials."""

from __future__ import annotations

from dataclasses import dataclass


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
