"""Run the ``git`` program: quiet, hardened, with a deadline."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from reconciler.model.errors import ReconcilerError

_KEPT_SETTINGS = r"^(credential|http|url|ssh)\.|^core\.sshcommand$"
"""Settings of the user that reaching a repository may need; all others stay out."""


_WRONG = ("fatal:", "error:", "remote:", "ssh:")
_SSH_WRONG = (
    "Permission denied (", "Host key verification failed", "host key is known for", "Load key",
)  # fmt: skip
"""What ssh says without its name in front; git itself then only says that it could not read."""
_OWN_SETTINGS = (
    '[safe]\n\tdirectory = "*"\n'  # a server's repository belongs to its own user
    "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n"
    "\tbigFileThreshold = 1m\n"  # larger files are not held in memory, and packs not whole
    "\tpackedGitLimit = 64m\n\tpackedGitWindowSize = 16m\n"
    # What comes is one file, whose size can be bounded; many of them are packed into one.
    "[fetch]\n\tunpackLimit = 1\n[gc]\n\tautoDetach = false\n"
)


class GitMissing(ReconcilerError):
    """The program git is not installed, and reading a repository needs it."""

    code = "SO106"


class GitFailed(Exception):
    """A git command failed; ``text`` is what it said, without secrets."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def write_settings(path: Path) -> None:
    """Write the global settings git runs with: the user's way to reach servers, nothing else."""
    try:
        kept = run_git_command(["config", "--global", "-z", "--get-regexp", _KEPT_SETTINGS], {}, 10)
    except GitFailed:
        kept = b""  # the user has none
    text = _OWN_SETTINGS
    for entry in kept.decode("utf-8", "replace").split("\0"):
        key, _, value = entry.partition("\n")
        if key:
            text += _setting(key, value)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _setting(key: str, value: str) -> str:
    """Return one setting as text; not by ``git config``, whose arguments others can see."""
    section, _, rest = key.partition(".")
    subsection, _, name = rest.rpartition(".")
    head = f'{section} "{_escaped(subsection)}"' if subsection else section
    escaped = _escaped(value).replace("\n", "\\n")
    return f'[{head}]\n\t{name} = "{escaped}"\n'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def run_git_command(
    arguments: list[str],
    environment: dict[str, str],
    timeout_s: float,
    stdin: bytes = b"",
    file_bytes_max: int = 0,
) -> bytes:
    """Run git in a session of its own, so that a timeout also ends its ssh; return its output.

    No file that it writes may become larger than ``file_bytes_max``, if that is given. Raises
    GitFailed and GitMissing.
    """
    kept = {k: v for k, v in os.environ.items() if not _is_foreign_git_setting(k)}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    quiet["GIT_SSH_COMMAND"] = kept.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
    try:
        process = subprocess.Popen(
            ["git", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=kept | quiet | environment,
            start_new_session=True,
            # Python ignores SIGXFSZ; so does git then, and says that a file became too large.
            restore_signals=not file_bytes_max,
        )
    except FileNotFoundError:
        raise GitMissing("git", "it is not installed", remedy="install git") from None
    with process:
        if file_bytes_max:  # long before it starts the child that writes what a server sends
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_bytes_max,) * 2)
        try:
            output, errors = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise GitFailed(f"no answer within {timeout_s:g} s") from None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise GitFailed(_reason(errors) or f"git ended with {process.returncode}")
    return output


_TIMED = re.compile(r" after \d+ ms")
"""curl says how long it tried: the same failure would be told anew at each look."""


def _reason(errors: bytes) -> str:
    """Return what git says is wrong, without its advice."""
    said = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    wrong = [s for s in said if s.startswith(_WRONG) or any(words in s for words in _SSH_WRONG)]
    return _TIMED.sub("", "; ".join((wrong or said)[:3]))


def _is_foreign_git_setting(name: str) -> bool:
    """Tell whether a variable would point our git elsewhere; those that reach servers stay."""
    return name.startswith("GIT_") and not name.startswith(("GIT_ASKPASS", "GIT_SSH", "GIT_TRACE"))
