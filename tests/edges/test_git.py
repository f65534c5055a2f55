"""Real repositories, read without a checkout."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.edges import git_command
from reconciler.edges.git import GitCache, GitCacheBusy, read_repository
from reconciler.edges.git_address import GitAddressRefused, parse_address
from reconciler.edges.git_command import GitFailed, run_git_command
from reconciler.edges.git_repository import (
    GitCacheUnusable,
    GitReference,
    GitRepositoryTooLarge,
    GitRevisionUnknown,
    GitUnreachable,
)
from reconciler.edges.git_tree import GitNoSpecs, GitPathUnknown, GitTreeTooLarge, TreeLimits
from reconciler.spec.documents import Documents
from tests.edges.test_folder import git


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A repository of two commits: the first has the tag v1, the second is on main."""
    home = tmp_path / "repo"
    (home / "prod/schema").mkdir(parents=True)
    (home / "prod/shop.yaml").write_text("x: 1\n")
    (home / "prod/schema/1.sql").write_text("select 1")
    (home / "README.md").write_text("hello")
    git(home, "init", "-q", "-b", "main")
    commit(home, "first")
    git(home, "tag", "-a", "v1", "-m", "one")
    (home / "prod/shop.yaml").write_text("x: 2\n")
    commit(home, "second")
    return home


def commit(home: Path, message: str) -> str:
    git(home, "add", "-A")
    git(home, "commit", "-q", "-m", message)
    return git(home, "rev-parse", "HEAD")


def read(
    home: Path, reference: GitReference | None = None, path: str = "prod", **limits: int
) -> Documents:
    address = parse_address(str(home))
    cache = GitCache(home.parent / "cache")
    return read_repository(address, reference or GitReference(), path, cache, TreeLimits(**limits))


def contents(documents: Documents) -> dict[str, bytes]:
    return {file.path: file.data for file in documents.files}


def test_the_default_branch_is_read_when_none_is_named(home: Path) -> None:
    found = read(home)
    assert str(found.revision) == f"main@sha1:{git(home, 'rev-parse', 'HEAD')}"
    assert contents(found) == {"prod/shop.yaml": b"x: 2\n", "prod/schema/1.sql": b"select 1"}
    assert found.source == f"{home}//prod"


def test_a_branch_a_tag_and_a_commit_are_read(home: Path) -> None:
    first = git(home, "rev-parse", "v1^{commit}")
    for reference, name in [
        (GitReference("tag", "v1"), "v1"),
        (GitReference("any", "v1"), "v1"),
        (GitReference("commit", first), first[:7]),
        (GitReference("commit", first[:8]), first[:7]),
        (GitReference("any", first[:8]), first[:7]),
    ]:
        found = read(home, reference)
        assert str(found.revision) == f"{name}@sha1:{first}"
        assert contents(found)["prod/shop.yaml"] == b"x: 1\n"
    assert read(home, GitReference("branch", "main")).revision == read(home).revision


def test_a_new_commit_and_a_rewritten_branch_are_seen(home: Path) -> None:
    read(home)
    (home / "prod/shop.yaml").write_text("x: 3\n")
    latest = commit(home, "third")
    assert read(home).revision.text == f"main@sha1:{latest}"
    git(home, "reset", "-q", "--hard", "v1")
    (home / "prod/shop.yaml").write_text("x: 4\n")
    commit(home, "rewritten")
    assert contents(read(home))["prod/shop.yaml"] == b"x: 4\n"


def test_a_single_file_is_read_with_the_sql_below_its_folder(home: Path) -> None:
    (home / "prod/other.yaml").write_text("y: 1")
    commit(home, "other")
    assert set(contents(read(home, path="prod/shop.yaml"))) == {
        "prod/shop.yaml", "prod/schema/1.sql",
    }  # fmt: skip


def test_the_whole_repository_is_read_without_its_hidden_folders(home: Path) -> None:
    (home / ".github").mkdir()
    (home / ".github/ci.yaml").write_text("x")
    commit(home, "ci")
    assert set(contents(read(home, path="."))) == {"prod/shop.yaml", "prod/schema/1.sql"}


def test_an_unknown_revision_lists_near_names(home: Path) -> None:
    git(home, "branch", "staging")
    with pytest.raises(GitRevisionUnknown) as found:
        read(home, GitReference("branch", "stagin"))
    assert str(found.value) == (
        f'SO101  {home}: it has no branch "stagin"\n      try: there is staging, main'
    )
    for reference in [
        GitReference("tag", "v2"), GitReference("commit", "0" * 40),
        GitReference("any", "nothing"), GitReference("commit", "--all"),
    ]:  # fmt: skip
        with pytest.raises(GitRevisionUnknown):
            read(home, reference)


def test_a_repository_without_a_commit_says_so(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(GitRevisionUnknown, match="it has no commit yet"):
        read(tmp_path / "empty")


def test_an_unknown_path_lists_near_names(home: Path) -> None:
    with pytest.raises(GitPathUnknown) as found:
        read(home, path="prd")
    assert str(found.value).endswith("has no such path\n      try: there is prod")
    with pytest.raises(GitPathUnknown, match="leads out of the repository"):
        read(home, path="../x")


def test_a_path_without_specs_is_refused(home: Path) -> None:
    with pytest.raises(GitNoSpecs, match="no specs found at"):
        read(home, path="prod/schema")


def test_submodules_and_links_out_of_the_tree_are_problems(home: Path) -> None:
    (home / "prod/passwd.yaml").symlink_to("/etc/passwd")
    (home / "prod/up.yaml").symlink_to("../README.md")
    (home / "prod/loop.yaml").symlink_to("loop.yaml")
    (home / "prod/same.yaml").symlink_to("shop.yaml")
    (home / "prod/again").symlink_to("schema")
    git(home, "add", "-A")
    head = git(home, "rev-parse", "HEAD")
    git(home, "update-index", "--add", "--cacheinfo", f"160000,{head},prod/sub")
    git(home, "commit", "-q", "-m", "links")
    found = read(home)
    assert set(contents(found)) == {
        "prod/shop.yaml", "prod/schema/1.sql", "prod/same.yaml", "prod/again/1.sql",
    }  # fmt: skip
    assert [(p.code, str(p.where)) for p in found.problems] == [
        ("SO108", "prod/loop.yaml"), ("SO108", "prod/passwd.yaml"), ("SO104", "prod/sub"),
        ("SO108", "prod/up.yaml"),
    ]  # fmt: skip


def test_a_tree_is_bounded(home: Path) -> None:
    with pytest.raises(GitTreeTooLarge, match="2 files, more than the 1 allowed"):
        read(home, files_max=1)
    with pytest.raises(GitTreeTooLarge, match="12 bytes allowed"):
        read(home, total_bytes_max=12)


def test_hooks_and_settings_of_a_repository_do_not_run(home: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    read(home)
    (cached,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    hook = cached / "hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {witness}\n")
    hook.chmod(0o755)
    git(home, "config", "uploadpack.packObjectsHook", f"touch {witness};")
    git(home, "commit", "-q", "--allow-empty", "-m", "again")
    read(home)
    assert not witness.exists()


def test_surroundings_of_another_git_command_do_not_leak_in(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_NAMESPACE", "other")
    assert contents(read(home))["prod/shop.yaml"] == b"x: 2\n"


def test_a_local_repository_of_another_user_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "65534", str(home)], check=True)
    else:  # who is not root cannot give it away, but git can be told to take it for another's
        monkeypatch.setattr(git_command, "_is_foreign_git_setting", lambda _: False)
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert contents(read(home))["prod/shop.yaml"] == b"x: 2\n"


def test_readers_of_one_cache_wait_for_one_another(home: Path, tmp_path: Path) -> None:
    found = [read(home).revision]
    (lock,) = (tmp_path / "cache").glob("*.lock")
    with open(lock, "w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        ask = lambda: found.append(read(home).revision)  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        threads[0].join(0.3)
        assert len(found) == 1
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1


def test_a_reader_that_holds_the_cache_for_ever_is_named_in_time(
    home: Path, tmp_path: Path
) -> None:
    read(home)
    (lock,) = (tmp_path / "cache").glob("*.lock")
    cache = GitCache(tmp_path / "cache", timeout_s=0.2)
    with open(lock, "w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(GitCacheBusy, match="SO111"):
            read_repository(parse_address(str(home)), GitReference(), "prod", cache)
    cache = GitCache(tmp_path / "cache")
    read_repository(parse_address(str(home)), GitReference(), "prod", cache)


def test_a_cache_that_cannot_be_used_is_named_with_the_remedy(home: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(GitCacheUnusable, match="XDG_CACHE_HOME"):
        read(home)


def _lock(cached: Path) -> None:
    (cached / "refs/cache/heads/main.lock").write_text("")
    git(cached.parent.parent / "repo", "commit", "-q", "--allow-empty", "-m", "more to fetch")


def _lose_objects(cached: Path) -> None:
    """Leave the commits, so that they look fetched, and nothing of what is in them."""
    for pack in [*(cached / "objects/pack").glob("*.pack")]:
        away = pack.rename(cached.parent / pack.name)
        with away.open("rb") as packed:  # what is in a pack is not unpacked again
            subprocess.run(["git", "unpack-objects", "-q"], cwd=cached, stdin=packed, check=True)
    shutil.rmtree(cached / "objects/pack")
    for kind in ("tree", "blob"):
        for line in git(cached, "cat-file", "--batch-all-objects", "--batch-check").splitlines():
            if line.split()[1] == kind:
                (cached / "objects" / line[:2] / line[2:40]).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        lambda cached: (cached / "settings").unlink(),
        lambda cached: [(cached / name).unlink() for name in ("settings", "HEAD", "config")],
        lambda cached: shutil.rmtree(cached / "objects"),
        lambda cached: [path.write_bytes(b"x") for path in _objects(cached)],
        _lose_objects,
        _lock,
    ],
    ids=["unfinished", "half made", "no objects", "objects damaged", "objects lost", "locked"],
)
def test_a_cache_damaged_by_a_kill_is_made_anew(
    home: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    read(home)
    (cached,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    damage(cached)
    found = read(home)
    assert contents(found) == {"prod/shop.yaml": b"x: 2\n", "prod/schema/1.sql": b"select 1"}
    assert str(found.revision) == f"main@sha1:{git(home, 'rev-parse', 'HEAD')}"


def _objects(cached: Path) -> list[Path]:
    found = [path for path in (cached / "objects").rglob("*") if path.is_file()]
    for path in found:
        path.chmod(0o600)
    return found


def test_an_unreachable_repository_says_so_without_its_password(tmp_path: Path) -> None:
    address = parse_address("https://joe:s3cr3t@127.0.0.1:1/x.git")
    assert "s3cr3t" not in repr(address)
    with pytest.raises(GitUnreachable) as found:
        read_repository(address, GitReference(), ".", GitCache(tmp_path))
    assert str(found.value).startswith("SO103  https://127.0.0.1:1/x.git: git cannot read it: ")
    assert "s3cr3t" not in str(found.value)
    assert "s3cr3t" not in "".join(
        p.read_text() for p in tmp_path.rglob("*") if p.is_file() and "hooks" not in p.parts
    )
    with pytest.raises(GitUnreachable, match=r"does not (exist|appear to be a git repository)"):
        read(tmp_path / "nothing")


def test_the_password_reaches_git_through_a_helper_only(tmp_path: Path) -> None:
    address = parse_address("https://joe:s3cr3t%40@git.example.org/x.git")
    assert (address.url, address.user, address.password) == (
        "https://git.example.org/x.git", "joe", "s3cr3t@",
    )  # fmt: skip
    with GitCache(tmp_path).repository(address) as repository:
        said = "fatal: unable to access https://joe:s3cr3t@git.example.org/x.git with s3cr3t@"
        assert repository.access.clean(said) == (
            "fatal: unable to access https://git.example.org/x.git with ***"
        )
        asked = b"protocol=https\nhost=git.example.org\n\n"
        answer = repository.ask("credential", "fill", stdin=asked).decode()
        assert "username=joe\npassword=s3cr3t@" in answer
        with pytest.raises(GitFailed):  # another host, such as one that a server points at
            repository.ask("credential", "fill", stdin=asked.replace(b"git.", b"other."))


@pytest.mark.parametrize(
    "address",
    ["ext::sh -c 'touch /tmp/x'", "--upload-pack=x", "http://example.org/x", "ftp://x/y", "fd::1"],
)
def test_a_dangerous_address_is_refused(address: str) -> None:
    with pytest.raises(GitAddressRefused, match="SO107"):
        parse_address(address)


def test_a_password_in_an_ssh_address_is_refused_and_not_shown() -> None:
    with pytest.raises(GitAddressRefused) as found:
        parse_address("ssh://git:pw@example.org/x.git")
    assert str(found.value) == (
        "SO107  ssh://example.org/x.git: a password in an ssh address is not used\n"
        "      try: use a key"
    )


def test_a_silent_server_ends_by_its_deadline() -> None:
    with pytest.raises(GitFailed, match=r"no answer within 0\.2 s"):
        run_git_command(["-c", "alias.w=!sleep 60", "w"], {}, 0.2)


def _held(tmp_path: Path) -> int:
    """Return how many files' contents the cache has."""
    (cached,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    listed = git(cached, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
    return listed.split().count("blob")


def test_of_a_server_that_filters_only_what_is_read_is_fetched(home: Path, tmp_path: Path) -> None:
    git(home, "config", "uploadpack.allowFilter", "true")
    (home / "prod/model.bin").write_bytes(os.urandom(100_000))
    (home / "prod/same.yaml").symlink_to("shop.yaml")
    commit(home, "more")
    found = contents(read(home))
    assert found["prod/same.yaml"] == found["prod/shop.yaml"] == b"x: 2\n"
    assert _held(tmp_path) == 3, "the spec, the link and the schema file"
    assert set(contents(read(home, path="prod/shop.yaml"))) == {
        "prod/shop.yaml", "prod/schema/1.sql",
    }  # fmt: skip
    with pytest.raises(GitPathUnknown, match="no such path"):
        read(home, path="prd")
    (home / "prod/shop.yaml").write_text("x: 3\n")
    commit(home, "again")
    assert contents(read(home))["prod/shop.yaml"] == b"x: 3\n"
    assert _held(tmp_path) == 4, "and nothing is fetched twice"


def test_what_a_server_sends_is_bounded_and_nothing_of_it_is_kept(
    home: Path, tmp_path: Path
) -> None:
    (home / "model.bin").write_bytes(os.urandom(3_000_000))
    commit(home, "large")
    address, cache = parse_address(str(home)), GitCache(tmp_path / "cache", 60, 1_000_000)
    with pytest.raises(GitRepositoryTooLarge, match="more than the 1,000,000 bytes"):
        read_repository(address, GitReference(), "prod", cache)
    kept = sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert kept < 100_000
    git(home, "config", "uploadpack.allowFilter", "true")
    assert len(read_repository(address, GitReference(), "prod", cache).files) == 2


def test_many_fetches_are_packed_into_few(home: Path, tmp_path: Path) -> None:
    git(home, "config", "uploadpack.allowFilter", "true")
    for number in range(30):
        (home / "prod/shop.yaml").write_text(f"x: {number}\n")
        commit(home, "again")
        assert contents(read(home))["prod/shop.yaml"] == f"x: {number}\n".encode()
    packs = list((tmp_path / "cache").rglob("*.pack"))
    assert len(packs) <= 52, "git packs 50 of them into one"


def test_how_long_curl_tried_is_no_part_of_what_is_wrong() -> None:
    told = (
        b"fatal: unable to access 'https://x/': Failed to connect to x port 1 after %d ms: Refused"
    )
    assert git_command._reason(told % 0) == git_command._reason(told % 17)
    assert "Failed to connect to x port 1: Refused" in git_command._reason(told % 3)
