"""A forge's push events: who may send them, and which sources they make look at once.

A webhook only says "look now": what is taken up is always read from Git itself, so a forged or lost
event changes nothing but the time of a look. All the same nothing is believed unsigned.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.daemon.http import Answer

BODY_BYTES_MAX = 1024 * 1024
"""A longer event is refused before it is read; its source is polled as ever."""
DELIVERIES_KEPT = 1000
"""Deliveries that are remembered, so that one that is sent again makes nobody look again."""
PUSH_EVENTS = frozenset({"push", "Push Hook", "Tag Push Hook"})

_ADDRESS = re.compile(
    r"(?:\w+://)?(?:[^@/]*@)?([^/:]+)(?::\d+(?=/))?[:/]+(.+?)(?:\.git)?/*"
)  # scheme, user, host, port, path


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a forge says in its headers; ``event`` and ``id`` are empty when it says neither."""

    forge: str
    event: str
    id: str


def delivery_of(headers: Mapping[str, str], body: bytes, secret: bytes) -> Delivery | None:
    """Return who sent it, None unless it is signed with the secret.

    GitHub signs as ``sha256=<hex>``, Gitea and Forgejo as ``<hex>`` (HMAC-SHA256 over the body);
    GitLab sends the secret itself. Compared in constant time.
    """
    digest = hmac.new(secret, body, hashlib.sha256).hexdigest()
    get = {name.lower(): value for name, value in headers.items()}.get
    prefixed, token = f"sha256={digest}", secret.decode(errors="replace")
    for forge, header, expected, event, id_ in (
        ("gitea", "x-gitea-signature", digest, "x-gitea-event", "x-gitea-delivery"),
        ("forgejo", "x-forgejo-signature", digest, "x-forgejo-event", "x-forgejo-delivery"),
        ("github", "x-hub-signature-256", prefixed, "x-github-event", "x-github-delivery"),
        ("gitlab", "x-gitlab-token", token, "x-gitlab-event", "x-gitlab-event-uuid"),
    ):
        given = get(header)
        if given is not None:
            same = hmac.compare_digest(given.encode(), expected.encode())
            return Delivery(forge, get(event, ""), get(id_, "")) if same else None
    return None


def addresses_of(event: Mapping[str, Any]) -> frozenset[str]:
    """Return the repository's addresses in a push event, in the form of ``plain_address``."""
    found = set()
    for part in ("repository", "project"):
        described = event.get(part)
        if isinstance(described, Mapping):
            found |= {
                plain_address(value)
                for name, value in described.items()
                if name.endswith(("url", "git_http_url", "git_ssh_url")) and isinstance(value, str)
            }
    return frozenset(found - {""})


def plain_address(url: str) -> str:
    """Return host and path: what the https, ssh and scp-like addresses of a repository share.

    A local path is returned as it is; empty for what is no address.
    """
    if url.startswith(("/", "file:///")):
        return url.removeprefix("file://").removesuffix("/").removesuffix(".git")
    match = re.fullmatch(
        r"(?:\w+://)?(?:[^@/]*@)?([^/:]+)(?::\d+(?=/))?[:/]+(.+?)(?:\.git)?/*", url
    )
    return f"{match[1]}/{match[2]}".lower() if match else ""


@dataclass(slots=True)
class Webhook:
    """Answers a forge. ``poke`` gets the addresses and ref of a push, and returns how many look.

    ``count`` gets the forge and what came of it: for a metric. The secret's file is read at each
    delivery, so that a rotated secret counts at once.
    """

    secret_file: Callable[[], Path | None]
    poke: Callable[[frozenset[str], str], int]
    count: Callable[[str, str], None]
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take a delivery; tell the sender no more than whether it was taken."""
        secret = self._secret()
        if not secret:
            return self._said("unknown", "unconfigured", 503, "no secret is configured")
        delivery = delivery_of(headers, body, secret)
        if delivery is None:
            return self._said("unknown", "refused", 403, "not signed with the secret")
        if delivery.event not in PUSH_EVENTS:
            return self._said(delivery.forge, "ignored", 202, "not a push")
        if self._is_known(delivery):
            return self._said(delivery.forge, "replayed", 202, "seen before")
        try:
            event = json.loads(body)
            where, ref = addresses_of(event), str(event.get("ref", ""))
        except (ValueError, AttributeError, RecursionError):
            return self._said(delivery.forge, "unreadable", 400, "not the JSON of a push")
        looking = self.poke(where, ref)
        result = "heard" if looking else "unmatched"
        return self._said(delivery.forge, result, 202, f"{looking} sources look")

    def _secret(self) -> bytes:
        file = self.secret_file()
        try:
            return file.read_bytes().strip() if file else b""
        except OSError:
            return b""

    def _is_known(self, delivery: Delivery) -> bool:
        if not delivery.id:
            return False
        with self._lock:
            if delivery.id in self._seen:
                return True
            self._seen[delivery.id] = None
            if len(self._seen) > DELIVERIES_KEPT:
                self._seen.popitem(last=False)
        return False

    def _said(self, forge: str, result: str, status: int, text: str) -> Answer:
        self.count(forge, result)
        return status, "text/plain", f"{text}\n".encode()
