"""Addresses of Git repositories: which kinds are allowed, and where their passwords stay."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from reconciler.model.errors import ReconcilerError
from reconciler.model.git import why_refused, without_login

_SCP_LIKE = re.compile(r"[\w.-]+@[\w.-]+:(?!//)")


class GitAddressRefused(ReconcilerError):
    """The address of a repository is of a kind that is not allowed.

    Allowed are local paths, https and ssh. Other transports can run commands or send passwords in
    the clear.
    """

    code = "SO107"


@dataclass(frozen=True, slots=True)
class GitAddress:
    """Where a repository is; ``url`` and ``shown`` are free of passwords."""

    url: str
    shown: str
    user: str = ""
    password: str = field(default="", repr=False)


def parse_address(text: str) -> GitAddress:
    """Read a URL, an ``user@host:path``, or a local path. Raises GitAddressRefused."""
    clean = without_login(text)
    if problem := why_refused(text):
        raise GitAddressRefused(clean, problem)
    if _SCP_LIKE.match(text):
        return GitAddress(text, text)
    if "://" not in text:
        path = os.path.realpath(text)
        return GitAddress(path, path)
    parts = urlsplit(text)
    if parts.scheme == "https":
        return GitAddress(
            clean, clean, unquote(parts.username or ""), unquote(parts.password or "")
        )
    if parts.password:
        problem = f"a password in an {parts.scheme} address is not used"
        raise GitAddressRefused(clean, problem, remedy="use a key")
    return GitAddress(text, clean)
