"""Which tag a range means, and what a force push is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.edges.git import GitCache, read_news
from reconciler.edges.git_address import parse_address
from reconciler.edges.git_repository import GitReference
from reconciler.edges.git_versions import NoVersionInRange, RangeInvalid, newest
from reconciler.spec.documents import Documents

TAGS = ("v1.2.0", "v1.10.1", "1.9.9", "v2.0.0", "v2.1.0-rc.1", "nightly", "v3")


@pytest.mark.parametrize(
    ("wanted", "tag"),
    [
        (">=1.2 <2", "v1.10.1"), (">=1.2, <2", "v1.10.1"), ("<1.10", "1.9.9"), ("1.2.0", "v1.2.0"),
        ("=v1.9.9", "1.9.9"), (">1", "v2.0.0"), (">=2.1.0-rc.0", "v2.1.0-rc.1"), ("!=2", "v1.10.1"),
    ],
)  # fmt: skip
def test_the_newest_version_of_a_range_is_meant(wanted: str, tag: str) -> None:
    assert newest(TAGS, wanted) == tag


def test_a_range_that_no_tag_is_in_names_the_highest() -> None:
    with pytest.raises(NoVersionInRange) as caught:
        newest(TAGS, ">=9")
    assert "v2.0.0" in caught.value.remedy
    with pytest.raises(NoVersionInRange, match="no tag"):
        newest((), ">=1")


@pytest.mark.parametrize("wanted", ["", "latest", ">=1 || <2", "^1.2", ">=", "1.2.3.4"])
def test_what_is_no_range_is_refused(wanted: str) -> None:
    with pytest.raises(RangeInvalid):
        newest(TAGS, wanted)


class Repository:
    """A repository that is pushed to, with force or without."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder / "specs", GitCache(folder / "cache")
        self.folder.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=K", "-c", "user.email=k@e.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=self.folder, check=True, capture_output=True)

    def commit(self, text: str, *words: str) -> None:
        (self.folder / "shop.yaml").write_text(f"kind: Other  # {text}\n")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", text, *words)

    def news(self, known: str = "", standing: str = "", kind: str = "branch") -> Documents | None:
        name = "main" if kind == "branch" else ">=1"
        reference = GitReference(kind, name)  # type: ignore[arg-type]
        address = parse_address(str(self.folder))
        return read_news(address, reference, ".", self.cache, known, standing=standing)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def _revision(documents: Documents | None) -> str:
    assert documents is not None
    return str(documents.revision)


def _codes(documents: Documents | None) -> list[str]:
    assert documents is not None
    return [problem.code for problem in documents.problems]


def test_a_rewritten_branch_is_handed_on_as_a_problem_until_it_follows_again(
    repository: Repository,
) -> None:
    repository.commit("one")
    standing = _revision(repository.news())
    repository.commit("two")
    assert _codes(repository.news(standing, standing)) == []
    in_force = _revision(repository.news())

    repository.commit("two, otherwise", "--amend")
    rewritten = repository.news(in_force, in_force)
    assert _codes(rewritten) == ["SO142"]
    assert rewritten is not None
    assert rewritten.files == ()
    # What follows on the rewritten commit does not make it right.
    repository.commit("three")
    assert _codes(repository.news(_revision(rewritten), in_force)) == ["SO142"]
    assert _codes(repository.news(_revision(rewritten), "")) == [], "onRewrite: follow"

    repository.git("reset", "-q", "--hard", in_force.rpartition(":")[2])
    repository.commit("three, on what is in force")
    assert _codes(repository.news(_revision(rewritten), in_force)) == []


def test_the_newest_tag_is_followed(repository: Repository) -> None:
    repository.commit("one")
    repository.git("tag", "v1.0.0")
    first = _revision(repository.news(kind="semver"))
    assert first.startswith("v1.0.0@")
    repository.commit("two")
    assert repository.news(first, kind="semver") is None
    repository.git("tag", "-a", "v1.1.0", "-m", "annotated")
    assert _revision(repository.news(first, kind="semver")).startswith("v1.1.0@")


def test_a_tag_that_was_moved_is_held_and_a_newer_one_is_taken_wherever_it_is(
    repository: Repository,
) -> None:
    repository.commit("one")
    repository.git("tag", "v1.0.0")
    in_force = _revision(repository.news(kind="semver"))
    repository.commit("one, otherwise", "--amend")
    repository.git("tag", "-f", "v1.0.0")
    moved = repository.news(in_force, in_force, "semver")
    assert _codes(moved) == ["SO142"]
    assert moved is not None
    assert moved.files == ()
    assert _codes(repository.news(in_force, "", "semver")) == [], "onRewrite: follow"
    repository.git("tag", "v1.0.1")
    newer = repository.news(_revision(moved), in_force, "semver")
    assert _codes(newer) == []
    assert _revision(newer).startswith("v1.0.1@")
