"""A login at etcd, and what etcd says about logins. Pure.

etcd's JSON gateway takes no user from a client's certificate, so whoever wants to be somebody there
shows a token, which ``/v3/auth/authenticate`` gives for a password.
"""

from __future__ import annotations

from dataclasses import dataclass

AUTHENTICATE = "/v3/auth/authenticate"
_ASKS = (
    "invalid auth token",
    "user name is empty",
    "revision in header is old",  # etcd 3.4 and 3.5; the next is 3.6's
    "revision of auth store is old",
)


@dataclass(frozen=True, slots=True)
class EtcdLogin:
    """A user of etcd, and the file with the password, which is read at each login."""

    user: str
    password_file: str


def asks_for_login(message: str, token: str) -> bool:
    """Tell whether a refusal asks for another ``token``. What was refused so has not happened.

    Who shows none is either told that the user's name is empty, or that nobody may do this.
    """
    return any(words in message for words in _ASKS) or (is_forbidden(message) and not token)


def is_forbidden(message: str) -> bool:
    """Tell whether a request was refused because of who asked."""
    return "permission denied" in message


def needs_no_login(message: str) -> bool:
    """Tell whether a login was refused because this etcd knows no users."""
    return "authentication is not enabled" in message
