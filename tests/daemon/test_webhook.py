"""Push events of forges, over real HTTP: signed ones poke, all others change nothing."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.daemon.http import Endpoints, Post
from reconciler.daemon.webhook import (
    BODY_BYTES_MAX,
    DELIVERIES_KEPT,
    Webhook,
    addresses_of,
    plain_address,
)

SECRET = b"a secret of the forge"
PUSH = json.dumps(
    {
        "ref": "refs/heads/main",
        "repository": {
            "clone_url": "https://git.example.org/platform/databases.git",
            "ssh_url": "git@git.example.org:platform/databases.git",
            "private": True,
        },
    }
).encode()


class Server:
    """A web server with a webhook; ``poked`` is what it passed on."""

    def __init__(self, folder: Path) -> None:
        self.poked: list[tuple[frozenset[str], str]] = []
        self.counted: Counter[tuple[str, str]] = Counter()
        self.secret = folder / "secret"
        self.secret.write_bytes(SECRET + b"\n")
        hook = Webhook(lambda: self.secret, self._poke, self._count)
        posts = {"/webhook": Post(BODY_BYTES_MAX, hook.answer)}
        self.web = Endpoints("127.0.0.1", 0, {}, posts)
        self.web.start()

    def _poke(self, addresses: frozenset[str], ref: str) -> int:
        self.poked.append((addresses, ref))
        return 1

    def _count(self, forge: str, result: str) -> None:
        self.counted[forge, result] += 1

    def post(
        self, body: bytes = PUSH, headers: dict[str, str] | None = None, path: str = "/webhook"
    ) -> int:
        connection = http.client.HTTPConnection(
            self.web.address.removeprefix("http://"), timeout=30
        )
        words = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        connection.request("POST", path, body, words)
        with connection.getresponse() as answer:
            answer.read()
        connection.close()
        return answer.status


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.web.stop()


def _digest(body: bytes = PUSH, secret: bytes = SECRET) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def _as(forge: str, body: bytes = PUSH, *, secret: bytes = SECRET, event: str = "push",
        id_: str = "") -> dict[str, str]:  # fmt: skip
    """Return the headers that a forge sends."""
    digest = _digest(body, secret)
    named = {
        "github": {"X_Hub_Signature_256": f"sha256={digest}", "X_GitHub_Event": event,
                   "X_GitHub_Delivery": id_},
        "gitea": {"X_Gitea_Signature": digest, "X_Gitea_Event": event, "X_Gitea_Delivery": id_,
                  "X_Hub_Signature_256": f"sha256={digest}", "X_GitHub_Event": event},
        "gitlab": {"X_Gitlab_Token": secret.decode(), "X_Gitlab_Event_UUID": id_,
                   "X_Gitlab_Event": {"push": "Push Hook"}.get(event, event)},
    }  # fmt: skip
    return {name: value for name, value in named[forge].items() if value}


@pytest.mark.parametrize("forge", ["github", "gitea", "gitlab"])
def test_a_signed_push_makes_its_source_look(server: Server, forge: str) -> None:
    assert server.post(headers=_as(forge)) == 202
    ((addresses, ref),) = server.poked
    assert addresses == {"git.example.org/platform/databases"}
    assert ref == "refs/heads/main"
    assert server.counted == {(forge, "heard"): 1}


@pytest.mark.parametrize("forge", ["github", "gitea", "gitlab"])
def test_a_wrong_signature_is_refused_and_tells_nothing(server: Server, forge: str) -> None:
    assert server.post(headers=_as(forge, secret=b"another")) == 403
    other = _as(forge, PUSH + b" ") if forge != "gitlab" else {"X_Gitlab_Token": ""}
    assert server.post(headers=other) == 403
    assert server.post() == 403
    assert server.post(headers={"X_Hub_Signature_256": "sha256=é".encode().decode("latin1")}) == 403
    assert server.poked == []
    assert server.counted == {("unknown", "refused"): 4}


def test_a_rotated_secret_counts_at_once_and_a_lost_one_refuses_all(server: Server) -> None:
    server.secret.write_bytes(b"rotated")
    assert server.post(headers=_as("gitea")) == 403
    assert server.post(headers=_as("gitea", secret=b"rotated")) == 202
    server.secret.write_bytes(b"")
    assert server.post(headers=_as("gitea", secret=b"")) == 503
    server.secret.unlink()
    assert server.post(headers=_as("gitea")) == 503


def test_a_replayed_delivery_makes_nobody_look_again(server: Server) -> None:
    for _ in range(3):
        assert server.post(headers=_as("github", id_="one")) == 202
    assert len(server.poked) == 1
    for number in range(DELIVERIES_KEPT):
        server.post(headers=_as("github", id_=f"more {number}"))
    assert server.post(headers=_as("github", id_="one")) == 202
    assert server.counted["github", "replayed"] == 2


def test_other_events_and_bodies_are_ignored_or_refused(server: Server) -> None:
    assert server.post(headers=_as("github", event="ping")) == 202
    for body in (b"no JSON", b"[]", b"[" * 100_000):
        assert server.post(body, _as("github", body)) == 400
    assert server.poked == []
    assert server.post(headers=_as("github"), path="/elsewhere") == 404


def test_a_body_that_is_too_long_is_refused_before_it_is_read(server: Server) -> None:
    connection = http.client.HTTPConnection(server.web.address.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/webhook")
    connection.putheader("Content-Length", str(BODY_BYTES_MAX + 1))
    connection.endheaders()  # and no byte of a body: the answer does not wait for it
    assert connection.getresponse().status == 413
    connection.close()
    connection = http.client.HTTPConnection(server.web.address.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/webhook")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org/a/b.git", "https://kim:secret@git.example.org/a/b",
        "ssh://git@git.example.org:2222/a/b.git", "git@git.example.org:a/b.git",
        "https://GIT.example.org:8443/a/b/",
    ],
)  # fmt: skip
def test_one_repository_has_one_address_however_it_is_reached(url: str) -> None:
    assert plain_address(url) == "git.example.org/a/b"


def test_addresses_of_gitlab_stand_under_project_too() -> None:
    event: dict[str, Any] = {
        "project": {"git_http_url": "https://g.org/a/b.git", "ssh_url": 7, "url": "git@g.org:a"},
        "repository": "no mapping",
    }  # fmt: skip
    assert addresses_of(event) == {"g.org/a/b", "g.org/a"}
