"""The users file: who may log in at the router. The format is PgBouncer's ``userlist.txt``."""

from __future__ import annotations

import re
from pathlib import Path

from reconciler.model.errors import Position, ReconcilerError
from reconciler.router.scram import Verifier, read_verifier

_LINE = re.compile(r'\s*"((?:[^"]|"")+)"\s+"((?:[^"]|"")+)"\s*')


class UsersUnreadable(ReconcilerError):
    """The router's users file cannot be read.

    Each line names a user and its password or SCRAM-SHA-256 verifier, both in double quotes, as in
    PgBouncer's userlist.txt; a quote inside is written twice, and a line that begins with ; or #
    is a comment. What a line holds is never shown.
    """

    code = "RT001"


def read_users(path: Path) -> dict[str, Verifier]:
    """Return verifiers by user. Raises UsersUnreadable."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsersUnreadable(str(path), f"cannot be read: {reason}") from None
    found: dict[str, Verifier] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip()[0] in ";#":
            continue
        match = _LINE.fullmatch(line)
        try:
            if match is None:
                raise ValueError
            found[match[1].replace('""', '"')] = read_verifier(match[2].replace('""', '"'))
        except ValueError:
            raise UsersUnreadable(
                str(path),
                "the line is no user with a password or a SCRAM-SHA-256 verifier",
                remedy='write: "app" "secret"',
                where=Position(str(path), number),
            ) from None
    return found
