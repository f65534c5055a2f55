"""Whether the address and the credentials of a Git source can be used. Pure."""

from __future__ import annotations

import re

from msgspec import UNSET

from reconciler.model.git import holds_password, why_refused
from reconciler.spec.manifest_other import GitSource
from reconciler.spec.problems import CredentialsUnfit, ValueNotAllowed

_SSH = re.compile(r"ssh://|[\w.-]+@[\w.-]+:(?!//)")
_OF_HTTPS = ("usernameFile", "passwordFile", "bearerTokenFile", "caFile")
_OF_SSH = ("identityFile", "knownHostsFile")


def astray(git: GitSource, subject: str) -> ValueNotAllowed | None:
    """Return what is wrong with the address of a source, None when nothing is. It is not shown.

    A password in it would stand in logs, statuses and etcd, as sources are called by their address.
    """
    if holds_password(git.url):
        remedy = "write it without, and credentials: {usernameFile: ..., passwordFile: ...}"
        return ValueNotAllowed(
            subject, "it holds a login, which is shown wherever it is", remedy=remedy
        )
    problem = why_refused(git.url)
    return (
        ValueNotAllowed(subject, problem, remedy="https://host/path, or a path")
        if problem
        else None
    )


def unfit(git: GitSource, subject: str) -> CredentialsUnfit | None:
    """Return what is wrong with the credentials of a source, None when nothing is."""
    written = git.credentials
    if written is UNSET:
        return None
    values = (
        written.username_file, written.password_file, written.bearer_token_file, written.ca_file,
        written.identity_file, written.known_hosts_file,
    )  # fmt: skip
    named = {n for n, v in zip((*_OF_HTTPS, *_OF_SSH), values, strict=True) if v is not UNSET}
    fitting = _fitting(git.url)
    astray = sorted(named - set(fitting))
    if astray:
        problem = f"{astray[0]} is of no use to an address of this kind"
        only = "only https and ssh addresses take credentials"
        remedy = f"it takes {', '.join(fitting)}" if fitting else only
        return CredentialsUnfit(subject, problem, remedy=remedy)
    for one, other in (("usernameFile", "passwordFile"), ("identityFile", "knownHostsFile")):
        if (one in named) != (other in named):
            there, missing = (one, other) if one in named else (other, one)
            return CredentialsUnfit(subject, f"{there} needs {missing}", remedy=f"add {missing}")
    if {"passwordFile", "bearerTokenFile"} <= named:
        return CredentialsUnfit(
            subject, "passwordFile and bearerTokenFile are two ways in", remedy="name one of them"
        )
    return None


def _fitting(url: str) -> tuple[str, ...]:
    if url.startswith("https://"):
        return _OF_HTTPS
    return _OF_SSH if _SSH.match(url) else ()
