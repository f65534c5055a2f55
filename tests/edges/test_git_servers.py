"""Git over OpenSSH and over nginx with TLS, with credentials from files, as a daemon reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reconciler import wiring
from reconciler.daemon.config import FollowedSource
from reconciler.daemon.sources import PAUSE_S_MAX, Follower
from reconciler.engine.saved import SourceRequest
from reconciler.model.errors import ReconcilerError
from reconciler.model.git import CredentialFiles
from tests.daemon.test_following import Log
from tests.git_servers import (
    PASSWORD,
    TOKEN,
    USER,
    HttpsServer,
    Served,
    SshServer,
    keygen,
    make_served,
    missing,
    serving,
    spec,
)

MAIN = "refs/heads/main"


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    if missing():
        pytest.skip(f"apt-get install {missing()}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    (tmp_path / "repositories").mkdir()
    return make_served(tmp_path, tmp_path / "repositories", "specs")


@pytest.fixture
def ssh(tmp_path: Path, served: Served) -> Iterator[SshServer]:
    server = SshServer(tmp_path / "ssh", served.bare.parent)
    server.home.mkdir()
    with serving(server):
        server.start()
        yield server


@pytest.fixture
def https(tmp_path: Path, served: Served) -> Iterator[HttpsServer]:
    server = HttpsServer(tmp_path / "https", served.bare.parent)
    server.home.mkdir()
    with serving(server):
        server.start()
        yield server


def secret(file: Path, text: str) -> str:
    """Write a file of a mounted Secret; return its path."""
    file.write_text(text)
    file.chmod(0o440)
    return str(file)


@dataclass
class Reader:
    """Looks at a source as a daemon does."""

    request: SourceRequest
    revision: str = ""
    told: list[str] = field(default_factory=list)

    def look(self, standing: str = "") -> str:
        """Return what came of a look: a code, or nothing when there was news or none."""
        try:
            found = wiring.fetch_news(self.request, self.revision, standing=standing)
        except ReconcilerError as error:
            self.told.append(str(error))
            return error.code
        if found is None:
            return ""
        self.told += [str(problem) for problem in found.problems]
        if found.problems:
            return found.problems[0].code
        self.revision = str(found.revision)
        return ""


def over_ssh(ssh: SshServer, tmp_path: Path, name: str = "specs") -> Reader:
    key = keygen(tmp_path / "key")
    ssh.let_in(key)
    key.chmod(0o440)  # as the mount of a Secret gives it to the group of the container's user
    known = secret(tmp_path / "known_hosts", ssh.known())
    files = CredentialFiles(identity=str(key), known_hosts=known)
    return Reader(SourceRequest(".", ssh.address(name), MAIN, credentials=files))


def over_https(https: HttpsServer, tmp_path: Path, name: str = "specs") -> Reader:
    files = CredentialFiles(
        username=secret(tmp_path / "username", f"{USER}\n"),
        password=secret(tmp_path / "password", f"{PASSWORD}\n"),
        ca=str(https.ca),
    )
    return Reader(SourceRequest(".", https.address(name), MAIN, credentials=files))


def test_a_key_from_a_file_is_used_and_a_rotated_one_is_in_force_at_the_next_look(
    ssh: SshServer, served: Served, tmp_path: Path
) -> None:
    reader = over_ssh(ssh, tmp_path)
    assert reader.look() == ""
    assert reader.revision == f"main@sha1:{served.git('rev-parse', 'HEAD')}"

    before, other = reader.revision, keygen(tmp_path / "other")
    ssh.let_in(other)
    latest = served.push(spec("two"))
    assert reader.look() == "SO103"
    assert reader.revision == before
    assert "Permission denied (publickey)" in reader.told[-1]
    assert "look into identityFile" in reader.told[-1]
    shutil.copy(other, tmp_path / "key")
    assert reader.look() == ""
    assert reader.revision == f"main@sha1:{latest}"


def test_a_host_with_another_key_than_the_known_one_is_refused(
    ssh: SshServer, tmp_path: Path
) -> None:
    reader = over_ssh(ssh, tmp_path)
    forged = keygen(tmp_path / "forged")
    known = Path(reader.request.credentials.known_hosts)
    known.write_text(ssh.known(forged))
    assert reader.look() == "SO103"
    assert "host key" in reader.told[-1].lower()
    known.write_text("[127.0.0.1]:1 " + ssh.known().split(" ", 1)[1])
    assert reader.look() == "SO103", "a host that is not known is not trusted either"

    # The server changes its key: it is not talked to until somebody says that it is right.
    known.write_text(ssh.known())
    assert reader.look() == ""
    ssh.stop()
    shutil.copy(forged, ssh.host_key)
    ssh.host_key.chmod(0o600)
    ssh.start()
    assert reader.look() == "SO103"
    known.write_text(ssh.known(forged))
    assert reader.look() == ""


def test_a_password_from_a_file_is_used_and_a_rotated_one_is_in_force_at_the_next_look(
    https: HttpsServer, served: Served, tmp_path: Path
) -> None:
    reader = over_https(https, tmp_path)
    assert reader.look() == ""
    before = reader.revision
    https.set_password("rotated-9")
    latest = served.push(spec("two"))
    assert reader.look() == "SO103"
    assert (reader.revision, PASSWORD in reader.told[-1]) == (before, False)
    assert "look into the files of the source's credentials" in reader.told[-1]
    Path(reader.request.credentials.password).write_text("rotated-9")
    assert reader.look() == ""
    assert reader.revision == f"main@sha1:{latest}"


def test_a_token_is_sent_as_bearer_and_only_the_named_authority_is_trusted(
    https: HttpsServer, tmp_path: Path
) -> None:
    token = secret(tmp_path / "token", TOKEN)
    files = CredentialFiles(bearer_token=token, ca=str(https.ca))
    address = https.address("specs", "/bearer")
    reader = Reader(SourceRequest(".", address, MAIN, credentials=files))
    assert reader.look() == ""
    Path(token).write_text("another")
    assert reader.look() == "SO103"
    assert "another" not in reader.told[-1]
    unsure = replace(reader.request, credentials=replace(files, ca=""))
    assert Reader(unsure).look() == "SO103"


def test_no_secret_is_in_an_argument_of_any_program_or_in_a_trace(
    https: HttpsServer, ssh: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git's trace has the arguments of all that it runs."""
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))
    monkeypatch.setenv("GIT_TRACE_CURL", str(trace))
    token = secret(tmp_path / "token", TOKEN)
    bearer = SourceRequest(
        ".", https.address("specs", "/bearer"), MAIN,
        credentials=CredentialFiles(bearer_token=token, ca=str(https.ca)),
    )  # fmt: skip
    for reader in (over_https(https, tmp_path), Reader(bearer), over_ssh(ssh, tmp_path)):
        assert reader.look() == "", reader.told
    text = trace.read_text()
    assert "remote-https" in text
    assert "StrictHostKeyChecking=yes" in text
    key = (tmp_path / "key").read_text().splitlines()[2]
    for hidden in (PASSWORD, TOKEN, key):
        assert hidden not in text
    kept = [p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert not [data for data in kept for s in (PASSWORD, TOKEN, key) if s.encode() in data]


def _make_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o440)


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda file: file.unlink(), "SO122", "No such file"),
        (lambda file: file.write_text("\n"), "SO122", "it is empty"),
        (lambda file: file.write_text("a\nb\n"), "SO122", "more than one line"),
        (lambda file: (file.unlink(), file.mkdir()), "SO122", "Is a directory"),
        (_make_pipe, "SO122", "no file of credentials"),
        (lambda file: file.chmod(0o444), "SO123", "chmod g-w,o="),
        (lambda file: file.chmod(0o460), "SO123", "by its group"),
    ],
)
def test_a_file_of_credentials_that_is_missing_spoilt_or_too_open_is_named(
    https: HttpsServer, tmp_path: Path, spoil: object, code: str, said: str
) -> None:
    reader = over_https(https, tmp_path)
    assert reader.look() == ""
    before = reader.revision
    spoil(tmp_path / "password")  # type: ignore[operator]
    assert reader.look() == code
    assert said in reader.told[-1]
    assert str(tmp_path / "password") in reader.told[-1]
    assert reader.revision == before


def test_what_is_public_may_be_read_by_all_but_not_written(ssh: SshServer, tmp_path: Path) -> None:
    reader = over_ssh(ssh, tmp_path)
    (tmp_path / "known_hosts").chmod(0o644)
    assert reader.look() == ""
    (tmp_path / "known_hosts").chmod(0o666)
    assert reader.look() == "SO123"


def test_a_branch_that_vanished_or_was_rewritten_changes_nothing(
    ssh: SshServer, https: HttpsServer, served: Served, tmp_path: Path
) -> None:
    for reader in (over_ssh(ssh, tmp_path), over_https(https, tmp_path)):
        good = served.push(spec("good"))
        assert reader.look() == ""
        in_force = reader.revision
        served.git("push", "-q", str(served.bare), ":main")
        assert reader.look(in_force) == "SO101"
        served.push(spec("rewritten"), "--amend")
        assert reader.look(in_force) == "SO142"
        assert reader.revision == in_force
        served.git("reset", "-q", "--hard", good)
        served.push(spec("follows"))
        assert reader.look(in_force) == ""


def test_a_server_that_is_away_for_an_hour_of_looks_changes_nothing_and_is_read_when_it_is_back(
    https: HttpsServer, served: Served, tmp_path: Path
) -> None:
    request, log = over_https(https, tmp_path).request, Log()
    follower = Follower(
        FollowedSource("specs", request, 60.0), lambda _: None, lambda *_: None, log
    )
    follower.look()
    in_force = follower.state.good
    assert in_force is not None
    https.stop()
    away_s, looks = 0.0, 0
    while away_s < 3600:
        follower.look()
        away_s, looks = away_s + follower.pause_s, looks + 1
    assert looks < 20, "it is asked less and less often"
    assert follower.pause_s == PAUSE_S_MAX
    assert follower.state.good is in_force
    assert follower.state.unreachable is not None
    assert log.events.count("source unreachable") == 1, "it is said once"
    served.push(spec("meanwhile"))
    https.start()
    follower.look()
    assert not follower.state.unreachable
    assert follower.pause_s == 60.0
    assert follower.state.revision == f"main@sha1:{served.git('rev-parse', 'HEAD')}"


def _measured(request: SourceRequest, cache: Path, bytes_max: int) -> dict[str, Any]:
    """Look in a process of its own; return what came of it, and its memory and git's in MiB."""
    program = f"""if True:
        import json, resource
        from pathlib import Path
        from reconciler.edges.git import GitCache, read_repository
        from reconciler.edges.git_address import parse_address
        from reconciler.edges.git_repository import GitReference
        from reconciler.model.errors import ReconcilerError
        from reconciler.model.git import CredentialFiles
        try:
            found = read_repository(
                parse_address({request.git!r}), GitReference("branch", "main"), {request.path!r},
                GitCache(Path({str(cache)!r}), 60, {bytes_max}), credentials={request.credentials!r}
            )
            said = len(found.files)
        except ReconcilerError as error:
            said = str(error)
        # Not getrusage of ourselves: its peak begins with that of whoever started us.
        peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
        git = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        print(json.dumps({{"said": said, "own": int(peak) // 1024, "git": git}}))
    """
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    print(f"looked: {found}, kept {kept // 2**20} MiB")
    return found | {"kept": kept // 2**20}


def test_of_a_repository_of_500_megabytes_the_specs_are_fetched_or_it_is_refused(
    https: HttpsServer, served: Served, tmp_path: Path
) -> None:
    (served.work / "specs").mkdir()
    (served.work / "specs" / "shop.yaml").write_text("kind: Other\n")
    for number in range(10):
        with (served.work / f"model-{number}.bin").open("wb") as file:
            for _ in range(50):
                file.write(os.urandom(1_000_000))
    for key, value in (("core.compression", "0"), ("core.bigFileThreshold", "1m")):
        served.git("config", key, value)
        served.git("--git-dir", str(served.bare), "config", key, value)
    served.push(spec("beside 500 MB"))
    for large in served.work.glob("*.bin"):
        large.unlink()
    plain = over_https(https, tmp_path).request
    request = replace(plain, path="specs")
    # A server that filters nothing: a bound ends it, and nothing of it is kept.
    refused = _measured(request, tmp_path / "refused", 100_000_000)
    assert "SO112" in refused["said"]
    assert "more than the 100,000,000 bytes" in refused["said"]
    assert refused["kept"] < 10
    # Within the bound all of it is fetched, through little memory.
    whole = _measured(request, tmp_path / "whole", 1_000_000_000)
    assert whole["said"] == 1
    assert whole["kept"] > 400
    shutil.rmtree(tmp_path / "whole")
    # One that filters sends what is read.
    served.git("--git-dir", str(served.bare), "config", "uploadpack.allowFilter", "true")
    partial = _measured(request, tmp_path / "partial", 10_000_000)
    assert partial["said"] == 1
    assert partial["kept"] < 10
    for found in (refused, whole, partial):
        assert max(found["own"], found["git"]) < 200, found


def test_more_spec_files_than_allowed_are_refused_before_they_are_fetched(
    https: HttpsServer, served: Served, tmp_path: Path
) -> None:
    served.git("--git-dir", str(served.bare), "config", "uploadpack.allowFilter", "true")
    names = "".join(f"M 100644 :1 specs/{number:05}.yaml\n" for number in range(20_001))
    stream = (
        f"blob\nmark :1\ndata 12\nkind: Other\n\ncommit refs/heads/main\n"
        f"committer Kim <kim@e.org> 1700000000 +0000\ndata 4\nmany\n{names}\n"
    )
    subprocess.run(
        ["git", "fast-import", "--quiet", "--force"], cwd=served.bare, input=stream.encode(),
        check=True,
    )  # fmt: skip
    reader = over_https(https, tmp_path)
    assert reader.look() == "SO105"
    assert "20,001 files, more than the 20,000 allowed" in reader.told[-1]
    assert "name the specs' folder" in reader.told[-1]
