"""A real forge: a push there becomes shards, a pull request there shows what it would do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.edges.git import GitCache, read_repository
from reconciler.edges.git_address import parse_address
from reconciler.edges.git_repository import GitReference, GitUnreachable
from tests.cli.calls import SHOP, TABLES, Caller
from tests.e2e.test_daemon import World, world
from tests.forge import PASSWORD, USER, Forge, is_buildable, running_forge
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
__all__ = ["world"]
ROOT = Path(__file__).parents[2]
CONFIG = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {{name: reconciler}}
spec:
  webhook: {{secretFile: secret}}
  sources:
    - git: {{url: "{url}", branch: main, interval: 1h, webhook: true}}
"""


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    if not is_buildable():
        pytest.skip("Gitea is built from its Go module: install go and gcc")
    with running_forge() as forge:
        yield forge


@dataclass(frozen=True)
class Clone:
    """A clone of a repository of the forge, from where its user pushes."""

    folder: Path
    forge: Forge
    name: str

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=Kim", "-c", "user.email=kim@e.org", "-c", "commit.gpgsign=false"]
        known = ["-c", "credential.helper="]
        ended = subprocess.run(
            ["git", *who, *known, *words], cwd=self.folder, check=False, capture_output=True,
            text=True,
            env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_SSL_CAINFO": self.forge.ca},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    @property
    def url(self) -> str:
        return f"{self.forge.address}/{USER}/{self.name}.git"

    def push(self, message: str, branch: str = "main") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        there = self.url.replace("https://", f"https://{USER}:{PASSWORD}@")
        self.git("push", "-q", there, f"HEAD:{branch}")
        commit = self.git("rev-parse", "HEAD")
        # Gitea takes a push up in the background: its API may not know the branch yet.
        wait_for(lambda: self._head(branch) == commit, "the forge knows the branch", 60)
        return commit

    def _head(self, branch: str) -> str:
        found = self.forge.api("GET", f"repos/{USER}/{self.name}/branches")
        return next((str(b["commit"]["id"]) for b in found or () if b["name"] == branch), "")


def repository(forge: Forge, folder: Path, name: str, *, private: bool = False) -> Clone:
    forge.api("POST", "user/repos", name=name, default_branch="main", private=private)
    folder.mkdir(parents=True, exist_ok=True)
    clone = Clone(folder, forge, name)
    clone.git("init", "-q", "-b", "main")
    return clone


def test_a_push_to_the_forge_is_applied_by_its_webhook(world: World, forge: Forge) -> None:
    scene = world.scene
    clone = repository(forge, scene.specs, "databases")
    (scene.folder / ".gitconfig").write_text(f'[http]\n\tsslCAInfo = "{forge.ca}"\n')
    (scene.folder / "secret").write_text("of the forge")
    world.config.write_text(CONFIG.format(url=clone.url))
    scene.write("forged")
    clone.push("a database")
    daemon = world.start()
    world.await_ready("forged")
    hook = {"url": f"{daemon.address}/webhook", "content_type": "json", "secret": "of the forge"}
    forge.api(
        "POST", f"repos/{USER}/databases/hooks", type="gitea", active=True, events=["push"],
        config=hook,
    )  # fmt: skip

    scene.edit("forged", "work_mem: 16MB", "work_mem: 21MB")
    clone.push("more memory")
    # Its source polls once an hour: only the webhook can have told.
    wait_for(lambda: scene.sql("forged", "SHOW work_mem") == [("21MB",)], "the push is applied", 90)
    wait_for(
        lambda: 'shardwright_webhooks_total{forge="gitea",result="heard"}'
        in daemon.page("/metrics")[1],
        "it counts the event", 30,
    )  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A pull request that adds the database desk to shop."""

    number: int
    commit: str
    state: Path


def pull_request(forge: Forge, clone: Clone, state: Path) -> Request:
    """Make one from a clone's branch topic, and the state file that it is planned against."""
    (clone.folder / "specs" / "schema").mkdir(parents=True)
    (clone.folder / "specs" / "schema" / "001.sql").write_text(TABLES)
    (clone.folder / "specs" / "shop.yaml").write_text(SHOP)
    (clone.folder / "README").write_text("specs of the shop\n")
    clone.push("base")
    clone.git("update-ref", "refs/remotes/origin/main", "HEAD")
    clone.git("checkout", "-q", "-b", "topic")
    second = clone.folder / "specs" / "desk.yaml"
    second.write_text(SHOP.replace("name: shop", "name: desk"))
    commit = clone.push("a second database", "topic")
    asked = {"title": "desk", "head": "topic", "base": "main"}
    number = forge.api("POST", f"repos/{USER}/{clone.name}/pulls", **asked)["number"]
    _write_state(state)
    return Request(number, commit, state)


def test_a_pull_request_gets_one_comment_that_follows_it_and_a_status(
    forge: Forge, tmp_path: Path
) -> None:
    clone = repository(forge, tmp_path / "checked", "checked")
    asked = pull_request(forge, clone, tmp_path / "state.json")
    second = clone.folder / "specs" / "desk.yaml"

    def check(commit: str) -> subprocess.CompletedProcess[str]:
        """Run what the workflow's file runs, with the variables of the forge's runner."""
        tools = tmp_path / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "shardwright").write_text(
            f'#!/bin/sh\nexec "{ROOT}/.venv/bin/python" -m reconciler.cli.main "$@"\n'
        )
        (tools / "shardwright").chmod(0o755)
        caller = Caller(clone.folder, tmp_path / "no-home")
        return subprocess.run(
            ["bash", str(ROOT / ".ci" / "check.sh"), "gitea"], cwd=clone.folder,
            capture_output=True, text=True, check=False,
            env=caller.environment | {
                "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                "SPECS": "specs", "BASE": "origin/main", "STATE": str(asked.state),
                "REQUEST": str(asked.number), "COMMIT": commit, "GITHUB_TOKEN": token,
                "GITHUB_API_URL": forge.api_address, "GITHUB_REPOSITORY": f"{USER}/checked",
                "SSL_CERT_FILE": forge.ca,
            },
        )  # fmt: skip

    token = forge.token()
    done = check(asked.commit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "commented" in done.stdout
    (comment,) = comments(forge, clone, asked)
    assert comment["body"].startswith("<!-- shardwright:plan -->")
    assert "2 shards to add" in comment["body"]
    assert commit_status(forge, clone, asked.commit) == ("success", "shardwright/plan")

    # The branch goes on, with a mistake: the same comment says so, and the check fails.
    second.write_text(second.read_text().replace("bigint", "biginteger"))
    commit = clone.push("a mistake", "topic")
    done = check(commit)
    assert done.returncode == 1
    assert "::error file=specs/desk.yaml,line=" in done.stdout
    (edited,) = comments(forge, clone, asked)
    assert edited["id"] == comment["id"]
    assert "no plan can be made" in edited["body"]
    assert "specs/desk.yaml" in edited["body"]
    assert commit_status(forge, clone, commit) == ("failure", "shardwright/plan")
    assert token not in done.stdout + done.stderr

    token = "wrong"
    refused = check(commit)
    assert "FG101" in refused.stderr


def _write_state(file: Path) -> None:
    from dataclasses import replace

    from reconciler.engine.snapshot import encode_state
    from tests.worlds import NOTHING

    at = "2026-11-26T12:00:00.000+00:00"
    file.write_bytes(encode_state(replace(NOTHING, looked_at=at), "kim"))


def comments(forge: Forge, clone: Clone, asked: Request) -> list[dict[str, Any]]:
    at = f"repos/{USER}/{clone.name}/issues/{asked.number}/comments"
    found: list[dict[str, Any]] = forge.api("GET", at)
    return found


def commit_status(forge: Forge, clone: Clone, commit: str) -> tuple[str, str]:
    found = forge.api("GET", f"repos/{USER}/{clone.name}/commits/{commit}/status")
    (status,) = found["statuses"]
    return str(found["state"]), str(status["context"])


def test_a_private_repository_is_read_over_ssh_from_the_known_host_only(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = repository(forge, tmp_path / "private", "private", private=True)
    (clone.folder / "shop.yaml").write_text(SHOP.replace("schema: {files: [schema/*.sql]}", ""))
    clone.push("base")
    key, other = tmp_path / "key", tmp_path / "other"
    for one in (key, other):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(one)], check=True)
    public = key.with_suffix(".pub").read_text()
    forge.api("POST", "user/keys", title="reader", key=public, read_only=True)
    known = tmp_path / "known_hosts"
    scanned = subprocess.run(
        ["ssh-keyscan", "-p", str(forge.ssh), "127.0.0.1"],
        capture_output=True,
        text=True,
        check=True,
    )
    known.write_text(scanned.stdout)
    address = parse_address(f"ssh://git@127.0.0.1:{forge.ssh}/{USER}/private.git")

    def read(identity: Path) -> int:
        monkeypatch.setenv(
            "GIT_SSH_COMMAND",
            f"ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -i {identity}"
            f" -o StrictHostKeyChecking=yes -o UserKnownHostsFile={known}",
        )
        documents = read_repository(address, GitReference(), ".", GitCache(tmp_path / "cache"))
        return len(documents.files)

    assert read(key) == 1
    with pytest.raises(GitUnreachable) as refused:
        read(other)
    assert "ssh" in refused.value.remedy.lower()
    forged = other.with_suffix(".pub").read_text().split()
    known.write_text(f"[127.0.0.1]:{forge.ssh} {forged[0]} {forged[1]}\n")
    with pytest.raises(GitUnreachable, match=r"(?i)host key"):
        read(key)
    known.write_text("")
    with pytest.raises(GitUnreachable, match=r"(?i)host key"):
        read(key)


def test_a_private_repository_over_https_needs_the_right_password_and_authority(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = repository(forge, tmp_path / "closed", "closed", private=True)
    (clone.folder / "shop.yaml").write_text(SHOP.replace("schema: {files: [schema/*.sql]}", ""))
    clone.push("base")
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = tmp_path / ".gitconfig"

    def read(password: str) -> int:
        url = f"https://{USER}:{password}@127.0.0.1:{forge.web}/{USER}/closed.git"
        cache = GitCache(tmp_path / "cache")
        return len(read_repository(parse_address(url), GitReference(), ".", cache).files)

    with pytest.raises(GitUnreachable, match="certificate"):
        read(PASSWORD)
    settings.write_text(f'[http]\n\tsslCAInfo = "{forge.ca}"\n')
    assert read(PASSWORD) == 1
    with pytest.raises(GitUnreachable) as refused:
        read("hunter2-wrong")
    assert "hunter2-wrong" not in str(refused.value)
