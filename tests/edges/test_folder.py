"""Files, folders, links and pipes on a real file system; revisions of a real work tree."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.edges.folder import (
    FolderLimits,
    NoSpecsFound,
    SourceNotThere,
    SourceTooLarge,
    read_folder,
)
from reconciler.edges.git_revision import work_tree_revision


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``specs/`` with a document and two SQL files, as the current folder's child."""
    (tmp_path / "specs/schema").mkdir(parents=True)
    (tmp_path / "specs/shop.yaml").write_text("files: [schema/*.sql]\n")
    (tmp_path / "specs/schema/1.sql").write_text("select 1")
    (tmp_path / "specs/schema/2.sql").write_text("select 2")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "specs"


def names(argument: str) -> list[str]:
    return [file.path for file in read_folder(argument).files]


ALL = ["specs/schema/1.sql", "specs/schema/2.sql", "specs/shop.yaml"]


@pytest.mark.parametrize("argument", ["specs", "specs/", "./specs", "specs/../specs"])
def test_a_folder_gives_its_files_under_the_name_the_user_wrote(tree: Path, argument: str) -> None:
    assert names(argument) == ALL
    assert read_folder(argument).source == str(tree)


def test_a_single_file_brings_its_schema_files_and_nothing_else(tree: Path) -> None:
    (tree / "other.yaml").write_text("x: 1")
    (tree / "else.sql").write_text("")
    assert names("specs/shop.yaml") == ALL
    os.chdir(tree)
    assert names("shop.yaml") == ["schema/1.sql", "schema/2.sql", "shop.yaml"]
    for line in ('files: ["schema/*.sql"]', "files:\n - schema/1.sql\n - 'schema/**/2.sql'"):
        (tree / "shop.yaml").write_text(line)
        assert names("shop.yaml") == ["schema/1.sql", "schema/2.sql", "shop.yaml"]


def test_standard_input_is_read_and_its_schema_files_are_those_here(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"files: [specs/schema/*.sql]\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert names("-") == ["<stdin>.yaml", "specs/schema/1.sql", "specs/schema/2.sql"]


def test_hidden_folders_and_other_files_are_not_read(tree: Path) -> None:
    for name in (".git/a.yaml", ".venv/b.yaml", "README.md", "c.txt"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("x")
    assert names("specs") == ALL


def test_links_inside_the_tree_are_followed_and_read_once(tree: Path) -> None:
    (tree / "again").symlink_to("schema")
    (tree / "loop").symlink_to(".")
    (tree / "b.yaml").symlink_to("shop.yaml")
    (tree / "schema/c.yaml").write_text("x: 1")
    assert names("specs") == [
        "specs/again/1.sql", "specs/again/2.sql", "specs/b.yaml",
        "specs/schema/1.sql", "specs/schema/2.sql", "specs/schema/c.yaml", "specs/shop.yaml",
    ]  # fmt: skip


def test_a_mounted_config_map_is_read_through_its_links(tree: Path) -> None:
    hidden = tree / "mount/..2026_11_23"
    hidden.mkdir(parents=True)
    (hidden / "a.yaml").write_text("x: 1")
    (tree / "mount/..data").symlink_to("..2026_11_23")
    (tree / "mount/a.yaml").symlink_to("..data/a.yaml")
    assert names("specs/mount") == ["specs/mount/a.yaml"]


def test_links_out_of_the_tree_or_to_nowhere_are_problems(tree: Path) -> None:
    (tree / "passwd.yaml").symlink_to("/etc/passwd")
    (tree / "etc").symlink_to("/etc")
    (tree / "gone.yaml").symlink_to("nothing")
    found = read_folder("specs")
    assert [f.path for f in found.files] == ALL
    assert [str(p) for p in found.problems] == [
        "SO003 specs/etc  specs/etc: the link leads out of the folder\n"
        "      try: put the file itself there",
        "SO003 specs/gone.yaml  specs/gone.yaml: the link leads nowhere\n"
        "      try: put the file itself there",
        "SO003 specs/passwd.yaml  specs/passwd.yaml: the link leads out of the folder\n"
        "      try: put the file itself there",
    ]


def test_a_single_file_does_not_follow_its_patterns_out_of_its_folder(tree: Path) -> None:
    (tree / "away").symlink_to("/etc")
    (tree / "shop.yaml").write_text("[/etc/x.sql, ../y.sql, away/*.sql, schema/1.sql]")
    found = read_folder("specs/shop.yaml")
    assert [f.path for f in found.files] == ["specs/schema/1.sql", "specs/shop.yaml"]
    assert [p.code for p in found.problems] == ["SO003"]


def test_a_loop_of_links_is_no_folder_and_a_problem_where_a_file_is_meant(tree: Path) -> None:
    (tree / "self").symlink_to("self")
    (tree / "a.yaml").symlink_to("b.yaml")
    (tree / "b.yaml").symlink_to("a.yaml")
    found = read_folder("specs")
    assert [f.path for f in found.files] == ALL
    assert [(p.code, p.subject) for p in found.problems] == [
        ("SO005", "specs/a.yaml"), ("SO005", "specs/b.yaml"),
    ]  # fmt: skip


def test_a_pattern_longer_than_any_file_name_matches_nothing(tree: Path) -> None:
    (tree / "shop.yaml").write_text(f"files: [{'x' * 300}.sql, {'y' * 300}/*.sql, schema/1.sql]")
    assert names("specs/shop.yaml") == ["specs/schema/1.sql", "specs/shop.yaml"]


def test_a_pipe_is_not_opened(tree: Path) -> None:
    os.mkfifo(tree / "pipe.yaml")
    found = read_folder("specs")
    assert [str(p) for p in found.problems] == [
        "SO005 specs/pipe.yaml  specs/pipe.yaml: it is not a regular file"
    ]


def test_a_file_without_permission_is_a_problem(tree: Path) -> None:
    (tree / "shop.yaml").chmod(0)
    # Root may read everything, so it looks from a user namespace in which it is nobody special.
    plain = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    look = "from reconciler.edges.folder import read_folder; print(*read_folder('specs').problems)"
    seen = subprocess.run(
        [*(plain if os.geteuid() == 0 else []), sys.executable, "-c", look],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "it cannot be read: Permission denied" in seen.stdout


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(NoSpecsFound) as found:
        read_folder(str(tmp_path))
    assert str(found.value) == (
        f"SO002  {tmp_path}: no specs found: 1 files seen, none ends in .yaml, .yml, .json\n"
        "      try: name a folder that holds specs, or begin with one; if the last database "
        "is to go, leave another document there, such as a policy"
    )


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotThere, match=r"SO001  .*/no: it cannot be read: No such file"):
        read_folder(str(tmp_path / "no"))
    with pytest.raises(SourceNotThere, match="neither a file nor a folder"):
        read_folder("/dev/null")


def test_a_source_is_bounded(tree: Path) -> None:
    with pytest.raises(SourceTooLarge, match="more than 3 files"):
        read_folder("specs", limits=FolderLimits(files_max=3))
    with pytest.raises(SourceTooLarge, match="more than 20 bytes together"):
        read_folder("specs", limits=FolderLimits(total_bytes_max=20))
    found = read_folder("specs", limits=FolderLimits(file_bytes_max=4))
    assert {len(f.data) for f in found.files} == {5}


def test_without_git_a_revision_is_the_digest_of_the_contents(tree: Path) -> None:
    first = read_folder("specs", revision_of=work_tree_revision).revision
    assert first.text.startswith("files@sha256:")
    (tree / "schema/1.sql").write_text("select 3")
    assert read_folder("specs").revision != first


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_in_a_work_tree_a_revision_is_the_commit_and_whether_it_was_changed(tree: Path) -> None:
    top = tree.parent
    git(top, "init", "-q", "-b", "main")
    assert work_tree_revision(tree) is None
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "first")
    commit = git(top, "rev-parse", "HEAD")
    found = read_folder("specs", revision_of=work_tree_revision).revision
    assert str(found) == f"main@sha1:{commit}"

    (top / "elsewhere.yaml").write_text("x")
    assert work_tree_revision(tree) == found
    (tree / "new.yaml").write_text("x: 1")
    assert str(work_tree_revision(tree)) == f"main@sha1:{commit} with uncommitted changes"
    (top / ".gitignore").write_text("new.yaml\n*.swp\n")
    assert str(work_tree_revision(tree)).endswith("uncommitted changes")
    (tree / "new.yaml").rename(tree / "x.swp")
    assert work_tree_revision(tree) == found
    (tree / "schema/1.sql").write_text("select 9")
    assert str(work_tree_revision(tree / "shop.yaml")) == str(found)
    assert str(work_tree_revision(tree)).endswith("uncommitted changes")


def test_a_detached_head_is_called_head(tree: Path) -> None:
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "first")
    git(tree, "checkout", "-q", "--detach")
    assert str(work_tree_revision(tree)).startswith("HEAD@sha1:")
