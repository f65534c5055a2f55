"""Commits that are believed: signed with ssh-keygen or gpg, by keys of a file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.edges.git import GitCache, read_repository
from reconciler.edges.git_address import parse_address
from reconciler.edges.git_repository import GitReference
from reconciler.spec.documents import Documents


def _run(folder: Path, *words: str, **environment: str) -> str:
    ended = subprocess.run(
        words, cwd=folder, check=True, capture_output=True, text=True,
        env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null"} | environment,
    )  # fmt: skip
    return ended.stdout


class Repository:
    """A repository whose commits can be signed in several ways."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder / "specs", GitCache(folder / "cache")
        self.keys = folder / "allowed_signers"
        self.folder.mkdir()
        _run(self.folder, "git", "init", "-q", "-b", "main")
        self._count = 0

    def commit(self, *settings: str, message: str = "change", **environment: str) -> None:
        self._count += 1
        (self.folder / "shop.yaml").write_text(f"kind: Other  # {self._count}\n")
        _run(self.folder, "git", "add", "-A")
        who = ["-c", "user.name=Kim", "-c", "user.email=kim@example.org"]
        sign = ["-S"] if settings else ["--no-gpg-sign"]
        options = [word for setting in settings for word in ("-c", setting)]
        _run(
            self.folder, "git", *who, *options, "commit", "-q", *sign, "-m", message, **environment
        )

    def read(self) -> Documents:
        address = parse_address(str(self.folder))
        return read_repository(address, GitReference(), ".", self.cache, keys=self.keys)

    def doubts(self) -> list[str]:
        """Return the codes of what is wrong; nothing of a commit in doubt is handed on."""
        documents = self.read()
        assert not documents.problems or not documents.files
        return [problem.code for problem in documents.problems]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def _ssh_key(folder: Path, name: str) -> Path:
    key = folder / name
    _run(folder, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key))
    return key


def _allow(repository: Repository, *keys: Path) -> None:
    publics = (key.with_suffix(".pub").read_text() for key in keys)
    repository.keys.write_text("".join(f"kim@example.org {public}" for public in publics))


def _ssh(key: Path) -> tuple[str, str]:
    return "gpg.format=ssh", f"user.signingKey={key}"


def test_a_commit_signed_with_an_allowed_ssh_key_is_believed(
    repository: Repository, tmp_path: Path
) -> None:
    kim, other = _ssh_key(tmp_path, "kim"), _ssh_key(tmp_path, "other")
    _allow(repository, kim)

    repository.commit(*_ssh(kim))
    assert repository.doubts() == []
    assert len(repository.read().files) == 1

    repository.commit()
    assert repository.doubts() == ["SO120"]
    repository.commit(*_ssh(other))
    assert repository.doubts() == ["SO120"]

    # The file is read each time: a key that comes in is believed, one that is taken out is not.
    _allow(repository, kim, other)
    assert repository.doubts() == []
    _allow(repository, kim)
    assert repository.doubts() == ["SO120"]
    repository.keys.unlink()
    assert repository.doubts() == ["SO121"]


@contextmanager
def _gpg_home(folder: Path) -> Iterator[Path]:
    home = folder / "gnupg"
    home.mkdir(mode=0o700)
    yield home
    _run(folder, "gpgconf", "--kill", "all", GNUPGHOME=str(home))


@pytest.mark.parametrize("armor", [["--armor"], []], ids=["armored", "binary"])
def test_a_commit_signed_with_an_openpgp_key_of_the_file_is_believed(
    repository: Repository, tmp_path: Path, armor: list[str]
) -> None:
    with _gpg_home(tmp_path) as home:
        gpg = ["gpg", "--batch", "--homedir", str(home), "--passphrase", ""]
        for who in ("kim", "other"):
            _run(tmp_path, *gpg, "--quick-gen-key", f"{who}@example.org", "ed25519", "sign", "0")
        ring = tmp_path / "ring"
        _run(tmp_path, *gpg, *armor, "--output", str(ring), "--export", "kim@example.org")
        repository.keys.write_bytes(ring.read_bytes())

        signing = "user.signingKey=kim@example.org"
        repository.commit("gpg.format=openpgp", signing, GNUPGHOME=str(home))
        assert repository.doubts() == []
        repository.commit(
            "gpg.format=openpgp", "user.signingKey=other@example.org", GNUPGHOME=str(home)
        )
        assert repository.doubts() == ["SO120"]


def test_a_key_of_openpgp_that_has_expired_or_was_revoked_is_not_believed(
    repository: Repository, tmp_path: Path
) -> None:
    with _gpg_home(tmp_path) as home:
        gpg = ["gpg", "--batch", "--homedir", str(home), "--passphrase", ""]
        then = ["--faked-system-time", "20200101T000000!"]
        _run(tmp_path, *gpg, *then, "--quick-gen-key", "old@e.org", "ed25519", "sign", "1y")
        _run(tmp_path, *gpg, "--quick-gen-key", "kim@e.org", "ed25519", "sign", "0")
        past = tmp_path / "past"
        past.write_text(f'#!/bin/sh\nexec {" ".join([*gpg[:1], *then])} "$@"\n')
        past.chmod(0o700)
        _export(gpg, repository)

        who = ("gpg.format=openpgp", "user.signingKey=old@e.org", f"gpg.program={past}")
        repository.commit(*who, GNUPGHOME=str(home))
        assert repository.doubts() == ["SO120"]

        repository.commit(*who[:1], "user.signingKey=kim@e.org", GNUPGHOME=str(home))
        assert repository.doubts() == []
        (revocation,) = (
            file for file in (home / "openpgp-revocs.d").iterdir()
            if "kim@e.org" in file.read_text()
        )  # fmt: skip
        revocation.write_text(revocation.read_text().replace(":-----BEGIN", "-----BEGIN"))
        _run(tmp_path, *gpg, "--import", str(revocation))
        _export(gpg, repository)
        assert repository.doubts() == ["SO120"], "the file has its revocation"


def _export(gpg: list[str], repository: Repository) -> None:
    exported = subprocess.run([*gpg, "--export"], check=True, capture_output=True)
    repository.keys.write_bytes(exported.stdout)


def test_an_ssh_key_is_believed_for_commits_of_its_time_only(
    repository: Repository, tmp_path: Path
) -> None:
    kim = _ssh_key(tmp_path, "kim")
    public = kim.with_suffix(".pub").read_text()
    repository.commit(*_ssh(kim))
    for option, doubts in (('valid-before="20200101"', ["SO120"]), ('valid-after="20200101"', [])):
        repository.keys.write_text(f"kim@example.org {option} {public}")
        assert repository.doubts() == doubts


def test_the_approvals_of_a_commit_are_in_its_trailers(repository: Repository) -> None:
    repository.commit(message="more memory\n\nShardwright-Approve: ap-1\nShardwright-Approve: ap-2")
    documents = read_repository(
        parse_address(str(repository.folder)), GitReference(), ".", repository.cache
    )
    assert documents.approved == ("ap-1", "ap-2")
    repository.commit(message="Shardwright-Approve: ap-3 is not a trailer here\n\nfor it goes on")
    assert (
        read_repository(
            parse_address(str(repository.folder)), GitReference(), ".", repository.cache
        ).approved
        == ()
    )
