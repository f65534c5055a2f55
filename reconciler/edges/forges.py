"""Comments and commit statuses at GitHub, Gitea (Forgejo) and GitLab; a comment is found again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import urllib3

from reconciler.model.errors import ReconcilerError

ANSWER_S = 30.0
PAGE = 50
PAGES_MAX = 40
"""Comments beyond 2,000 are not searched for ours; a new one is made then."""
STATUS_CHARS_MAX = 140
"""GitHub's limit of a status' description."""
Kind = Literal["github", "gitea", "gitlab"]
State = Literal["success", "failure", "pending"]


class ForgeRefused(ReconcilerError):
    """A forge did not take a comment or a status.

    The token needs the right to write to pull requests (GitHub: `pull-requests: write` and
    `statuses: write`; GitLab: `api`; Gitea: `write:issue` and `write:repository`).
    """

    code = "FG101"


class ForgeUnreachable(ReconcilerError):
    """A forge did not answer."""

    code = "FG102"
    transient = True


@dataclass(frozen=True, slots=True)
class Forge:
    """A project of a forge. ``api`` is its API's root, ``project`` its path or id there."""

    kind: Kind
    api: str
    project: str
    token: str

    def __repr__(self) -> str:
        return f"Forge({self.kind}, {self.api}, {self.project})"

    def comment(self, request: str, marker: str, text: str) -> bool:
        """Make a pull request's comment with this marker say ``text``; True when it is a new one.

        Raises ForgeRefused and ForgeUnreachable.
        """
        at = self._comments(request)
        id_ = self._find(at, marker)
        if id_ is None:
            self._call("POST", at, {"body": text})
        elif self.kind == "gitlab":
            self._call("PUT", f"{at}/{id_}", {"body": text})
        else:
            self._call("PATCH", f"{self._repository}/issues/comments/{id_}", {"body": text})
        return id_ is None

    def status(self, commit: str, state: State, description: str, context: str) -> None:
        """Set a commit's status. Raises ForgeRefused and ForgeUnreachable."""
        if len(description) > STATUS_CHARS_MAX:
            description = description[: STATUS_CHARS_MAX - 1] + "…"
        if self.kind == "gitlab":
            word = {"success": "success", "failure": "failed", "pending": "pending"}[state]
            fields = {"state": word, "name": context, "description": description}
            self._call("POST", f"{self._repository}/statuses/{commit}", fields)
            return
        fields = {"state": state, "context": context, "description": description}
        self._call("POST", f"{self._repository}/statuses/{commit}", fields)

    @property
    def _repository(self) -> str:
        return f"projects/{self.project}" if self.kind == "gitlab" else f"repos/{self.project}"

    def _comments(self, request: str) -> str:
        if self.kind == "gitlab":
            return f"{self._repository}/merge_requests/{request}/notes"
        return f"{self._repository}/issues/{request}/comments"

    def _find(self, at: str, marker: str) -> int | None:
        for page in range(1, PAGES_MAX + 1):
            found = self._call("GET", f"{at}?page={page}&per_page={PAGE}&limit={PAGE}")
            for comment in found if isinstance(found, list) else ():
                if str(comment.get("body", "")).startswith(marker):
                    return int(comment["id"])
            if not isinstance(found, list) or len(found) < PAGE:
                break
        return None

    def _call(self, method: str, path: str, fields: dict[str, str] | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.kind == "gitlab":
            headers["PRIVATE-TOKEN"] = self.token
        else:
            headers["Authorization"] = f"Bearer {self.token}"
        body = json.dumps(fields).encode() if fields else None
        try:
            answer = urllib3.PoolManager().request(
                method, f"{self.api.rstrip('/')}/{path}", headers=headers, body=body,
                timeout=ANSWER_S, retries=urllib3.Retry(2, redirect=0, allowed_methods=["GET"]),
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            raise ForgeUnreachable(self.api, f"does not answer: {error}") from None
        if answer.status >= 300:
            said = answer.data[:200].decode("utf-8", "replace")
            raise ForgeRefused(
                f"{method} {self.api}/{path.partition('?')[0]}", f"answers {answer.status}: {said}",
                remedy="check the token's rights and that the pull request is there",
            )  # fmt: skip
        return json.loads(answer.data) if answer.data else None
