"""A follower of a repository: what it begins from, and what it holds to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.daemon.config import FollowedSource
from reconciler.daemon.sources import Follower
from reconciler.engine.saved import SourceRequest
from reconciler.model.errors import ReconcilerError
from tests.edges.test_folder import git
from tests.git_servers import spec


class Log:
    """Keeps the events of a follower."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def bind(self, **_: object) -> Log:
        return self

    def info(self, event: str, **_: object) -> None:
        self.events.append(event)

    warning = error = info


class Away(ReconcilerError):
    """The store does not answer."""

    code = "XX902"
    transient = True


class Repository:
    """A repository with one spec, and followers of its branch main."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, Log()
        folder.mkdir()
        git(folder, "init", "-q", "-b", "main")

    def commit(self, message: str) -> str:
        (self.folder / "stays.yaml").write_text(spec(message))
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "-m", message)
        return f"main@sha1:{git(self.folder, 'rev-parse', 'HEAD')}"

    def follower(self, recorded: Callable[[], str], *, holds: bool = True) -> Follower:
        request = SourceRequest(".", str(self.folder), "refs/heads/main")
        source = FollowedSource("specs", request, 60.0, holds_rewrites=holds)
        return Follower(source, lambda _: None, lambda *_: None, self.log, recorded)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Repository(tmp_path / "specs")


def _codes(follower: Follower) -> list[str]:
    return [problem.code for problem in follower.state.problems]


def test_it_begins_from_what_is_on_record_and_holds_a_rewrite(repository: Repository) -> None:
    repository.commit("one")
    good = repository.commit("two")
    first = repository.follower(str)
    first.look()
    assert first.state.revision == good
    git(repository.folder, "reset", "-q", "--hard", "HEAD~1")
    other = repository.commit("another")

    second = repository.follower(lambda: good)
    second.look()
    assert (second.state.revision, _codes(second)) == (good, ["SO142"])
    follows = repository.follower(lambda: good, holds=False)
    follows.look()
    assert (follows.state.revision, _codes(follows)) == (other, [])


def test_a_rewrite_is_held_even_when_what_was_in_force_is_nowhere_any_more(
    repository: Repository,
) -> None:
    repository.commit("one")
    follower = repository.follower(lambda: f"main@sha1:{'1' * 40}")
    follower.look()
    assert (follower.state.revision, _codes(follower)) == ("", ["SO142"])
    assert "not restored" in repository.log.events


def test_nothing_is_taken_up_before_it_is_known_what_was_in_force(repository: Repository) -> None:
    good = repository.commit("one")
    answers: list[str | Away] = [Away("etcd", "does not answer"), ""]

    def recorded() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Away):
            raise answer
        return answer

    follower = repository.follower(recorded)
    assert follower.look() == "unreachable"
    assert follower.state.revision == ""
    follower.look()
    assert (follower.state.revision, answers) == (good, [])
    follower.look()  # and it is not asked again


def test_a_look_that_was_under_way_when_it_began_to_lead_counts_for_nothing(
    repository: Repository,
) -> None:
    repository.commit("one")
    good = repository.commit("two")
    repository.follower(str).look()
    git(repository.folder, "reset", "-q", "--hard", "HEAD~1")
    repository.commit("another")
    leads: list[bool] = []

    def recorded() -> str:
        if not leads:
            leads.append(True)
            follower.begin_from(good)
            return ""
        return good

    follower = repository.follower(recorded)
    follower.look()
    assert follower.state.good is None
    follower.look()
    assert (follower.state.revision, _codes(follower)) == (good, ["SO142"])


def test_a_revision_without_specs_is_quarantined_and_the_next_one_looked_for_as_soon_as_ever(
    repository: Repository,
) -> None:
    good = repository.commit("one")
    follower = repository.follower(str)
    follower.look()
    git(repository.folder, "rm", "-q", "stays.yaml")
    git(repository.folder, "commit", "-q", "-m", "nothing left", "--allow-empty")
    (repository.folder / "README.md").write_text("no spec")
    git(repository.folder, "add", "-A")
    git(repository.folder, "commit", "-q", "-m", "but this")
    for _ in range(3):
        follower.look()
    assert (follower.state.revision, _codes(follower)) == (good, ["SO109"])
    assert follower.state.unreachable is None
    assert follower.pause_s == follower.source.interval_s, "the forge answers: no back-off"
    mended = repository.commit("mended")
    follower.look()
    assert (follower.state.revision, _codes(follower)) == (mended, [])


def test_what_was_fetched_before_is_in_force_while_the_repository_is_away(
    repository: Repository,
) -> None:
    good = repository.commit("one")
    repository.follower(str).look()
    away = repository.folder.rename(repository.folder.with_name("away"))
    follower = repository.follower(lambda: good)
    follower.look()
    assert follower.state.revision == good
    assert follower.state.unreachable is not None
    away.rename(repository.folder)
    follower.look()
    assert follower.state.revision == good
    assert not follower.state.unreachable


def test_who_begins_to_lead_forgets_what_differs_from_what_the_other_had_in_force(
    repository: Repository,
) -> None:
    repository.commit("one")
    records = [""]
    follower = repository.follower(lambda: records[0])
    follower.look()
    standing = follower.state.revision
    later = repository.commit("two")
    repository.follower(str).look()  # the one who led read it, and then it was rewritten
    git(repository.folder, "reset", "-q", "--hard", "HEAD~1")
    repository.commit("another two")
    records[0] = later
    follower.begin_from(standing)
    assert follower.state.revision == standing, "the same is kept"
    before = f"main@sha1:{git(repository.folder, 'rev-parse', f'{later[10:]}~1')}"
    ahead = repository.follower(str)
    git(repository.folder, "reset", "-q", "--hard", later[10:])
    ahead.look()
    ahead.begin_from(before)
    assert ahead.state.revision == later, "what follows on it is kept"
    git(repository.folder, "reset", "-q", "--hard", "HEAD~1")
    repository.commit("another two")
    follower.begin_from(later)
    assert follower.state.good is None, "until it was read"
    follower.look()
    assert (follower.state.revision, _codes(follower)) == (later, ["SO142"])
