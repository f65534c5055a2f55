"""Addresses of Git repositories: which kinds are allowed, and where their passwords stay."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from reconciler.model.errors import ReconcilerError

USER_INFO = re.compile(r"(?<=//)[^/@\s]+@")
_SCP_LIKE = re.compile(r"[\w.-]+@[\w.-]+:(?!//)")
SCHEMES = ("file", "https", "ssh")


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
    if text.startswith("-") or "::" in text.split("/")[0] or any(ord(c) < 33 for c in text):
        raise GitAddressRefused(USER_INFO.sub("", text), "it is not an address of a repository")
    if _SCP_LIKE.match(text):
        return GitAddress(text, text)
    if "://" not in text:
        path = os.path.realpath(text)
        return GitAddress(path, path)
    parts = urlsplit(text)
    clean = USER_INFO.sub("", text)
    if parts.scheme not in SCHEMES:
        problem = f"{parts.scheme} is not allowed; use {', '.join(SCHEMES)} or a path"
        raise GitAddressRefused(clean, problem)
    if parts.scheme == "https":
        return GitAddress(
            clean, clean, unquote(parts.username or ""), unquote(parts.password or "")
        )
    if parts.password:
        problem = f"a password in an {parts.scheme} address is not used"
        raise GitAddressRefused(clean, problem, remedy="use a key")
    return GitAddress(text, clean)
