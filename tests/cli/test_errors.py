"""Whatever goes wrong is told: with a code, on stderr, without a traceback."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.cli import main as cli_main
from reconciler.cli.files import FileNotWritten, write_private
from reconciler.cli.lazy import LazyCommand, command
from tests.cli.calls import SHARDWRIGHT, SHOP, Caller
from tests.local_home import wait_for

SECRET = "hunter2-secret"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plann"], 'CL001  shardwright: there is no command "plann"; did you mean "plan"?'),
        (["plan"], "CL001  shardwright plan: say where the specs are: -f PATH, or --git URL"),
        (["plan", "-f", "a", "--git", "b"], "two sources; name one"),
        (["plan", "-f", "a", "--ref", "b"], "--ref and --path belong to --git"),
        (["plan", "--outt", "x"], "No such option"),
        (["plan", "--home", "x"], "try: shardwright --home ... plan: it stands before the command"),
        (["connect", "shop"], "name the shard: --key KEY, or --shard NAME"),
        (["apply", "x.json", "-f", "specs"], "a saved plan knows its source"),
        (["import"], "Missing option"),
    ],
)
def test_a_mistaken_call_says_what_and_where_to_read_on(
    call: Caller, words: list[str], said: str
) -> None:
    (call.folder / "x.json").write_text("{}")
    ended = call(*words)
    assert ended.code == 1
    if "saved" not in said:
        assert said in ended.told()
        assert "--help" in ended.err or "before the command" in said
    assert ended.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "-f", "specs"], ["apply", "-f", "specs", "--yes"], ["diff", "-f", "specs"],
        ["get", "db"], ["get", "shop"], ["get", "ops"], ["describe", "db", "shop"], ["history"],
        ["route", "shop", "1"], ["connect", "shop", "--key", "1"], ["platform", "status"],
        ["platform", "down"], ["platform", "destroy", "--yes"], ["platform", "logs"],
    ],
)  # fmt: skip
def test_without_a_platform_each_command_names_the_remedy(call: Caller, words: list[str]) -> None:
    call.write_specs()
    ended = call(*words)
    assert ended.code == (2 if words[0] == "diff" else 1)
    assert "LP103" in ended.told()
    assert "shardwright platform up" in ended.err
    assert ended.out == ""
    assert not call.home.exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["validate", "-f", "nowhere"], "SO001"),
        (["validate", "-f", "."], "SO002"),
        (["plan", "--git", "/nowhere/at/all"], "SO103"),
        (["apply", "nowhere.json"], "CL004"),
        (["explain", "SP999"], "CL010"),
        (["--config", "nowhere.yaml", "config", "show"], "CL202"),
        (["import", "--dsn", f"postgresql://u:{SECRET}@127.0.0.1/db"], "PG301"),
        (["import", "--dsn", f"nonsense {SECRET}"], "PG301"),
        (["import", "--dsn", "host=127.0.0.1 port=9 user=u dbname=d"], "PG302"),
        (["policy", "test", "nowhere"], "SO001"),
    ],
)
def test_bad_input_has_a_code(call: Caller, words: list[str], code: str) -> None:
    ended = call(*words)
    assert ended.code == 1
    assert ended.told().startswith(f"{code} ")
    assert SECRET not in ended.told()
    assert ended.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["platform", "logs", "-n", "-5"], ["history", "--limit", "-1"], ["history", "--limit", "0"],
    ],
)  # fmt: skip
def test_a_number_below_its_bounds_is_refused(call: Caller, words: list[str]) -> None:
    ended = call(*words)
    assert ended.code == 1
    assert "CL001" in ended.told()
    assert "is not in the range" in ended.err


@pytest.mark.parametrize("out", ["/", ".", "/etc/passwd/x", "nowhere/x", ".."])
def test_a_file_that_cannot_be_written_is_named(call: Caller, out: str) -> None:
    with pytest.raises(FileNotWritten, match="CL003"):
        write_private(call.folder / out, b"")


def test_a_cache_of_repositories_that_cannot_be_written_is_named(call: Caller) -> None:
    subprocess.run(["git", "init", "-q", str(call.folder / "repo")], check=True)
    ended = call("validate", "--git", "repo", XDG_CACHE_HOME="/proc/nowhere")
    assert ended.told().startswith("SO110 ")
    assert "XDG_CACHE_HOME" in ended.err


def test_the_doctor_says_of_a_home_that_it_may_not_look_into_that_it_cannot_be_used(
    tmp_path: Path,
) -> None:
    (tmp_path / "closed" / "home").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    # Root may look everywhere, so it asks from a user namespace in which it is nobody special.
    plain = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    ask = (
        "import sys; from pathlib import Path; from reconciler.cli import checks\n"
        "for check in (*checks._home(Path(sys.argv[1])), *checks._room(Path(sys.argv[1]))):"
        " print(check.state, check.fact)"
    )
    told = subprocess.run(
        [*(plain if os.geteuid() == 0 else []), sys.executable, "-c", ask,
         str(tmp_path / "closed" / "home")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "closed").chmod(0o700)
    assert told.splitlines()[0] == f"fail {tmp_path / 'closed'} cannot be written"
    assert "free for" in told.splitlines()[1]


def test_a_saved_plan_that_is_none_is_refused(call: Caller) -> None:
    (call.folder / "plan.json").write_text('{"format": "x"}')
    assert call("apply", "plan.json").told().startswith("AP106 plan.json")


def test_a_setting_out_of_bounds_is_named_with_its_origin(call: Caller) -> None:
    ended = call("config", "show", SHARDWRIGHT_PARALLEL="0")
    assert "CL201" in ended.told()
    assert "SHARDWRIGHT_PARALLEL" in ended.err


CONFIG = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {name: reconciler}
spec:
  sources:
    - SOURCE
"""


def _configured(call: Caller, *sources: str, more: str = "") -> Path:
    (call.folder / "etc").mkdir(exist_ok=True)
    path = call.folder / "etc" / "config.yaml"
    path.write_text(CONFIG.replace("SOURCE", "\n    - ".join(sources)) + more)
    return path


def test_a_configuration_that_is_none_is_told_what_one_looks_like(call: Caller) -> None:
    (call.folder / "c.yaml").write_text("just text\n")
    told = call("--config", "c.yaml", "config", "show").told()
    assert "CL202 c.yaml" in told
    assert "kind: ReconcilerConfig" in told


def test_the_configured_source_is_read_when_none_is_named(call: Caller) -> None:
    call.write_specs()
    path = str(_configured(call, "folder: {path: ../specs}"))
    assert "1 database, 2 shards" in call("--config", path, "validate").told()
    assert "LP103" in call("plan", SHARDWRIGHT_CONFIG=path).told()  # it got as far as the platform
    assert "SO001" in call("--config", path, "validate", "-f", "nowhere").told()


def test_a_configured_repository_is_read_at_the_branch_it_names(call: Caller) -> None:
    call.write_specs()
    for words in (["init", "-q", "-b", "main"], ["add", "specs"], ["commit", "-qm", "one"],
                  ["tag", "prod"], ["checkout", "-q", "-b", "prod"],
                  ["commit", "-q", "--allow-empty", "-m", "two"]):  # fmt: skip
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", *identity, *words], cwd=call.folder, check=True)
    branch, tag = (
        str(_configured(call, f"git: {{url: .., {kind}: prod, path: specs/}}")) and
        call("--config", "etc/config.yaml", "validate", "-o", "json").json["revision"]
        for kind in ("branch", "tag")
    )  # fmt: skip
    assert branch.startswith("prod@sha1:")
    assert tag.startswith("prod@sha1:")
    assert branch != tag


def test_what_a_configuration_sets_is_shown_with_its_origin(call: Caller) -> None:
    more = "  interval: 10s\n  platform: local\n  movesMax: 3\n"
    source = "git: {url: https://git.example.org/x.git, branch: main, webhook: true, interval: 9s}"
    path = _configured(call, source, more=more)
    shown = call("--config", str(path), "config", "show", "-o", "json").json
    origin = f"file {path}"
    assert shown["interval"] == {"value": "10s", "origin": origin}
    assert shown["moves_parallel"] == {"value": 3, "origin": origin}
    assert shown["platform"] == {"value": "local", "origin": origin}
    assert shown["sources"]["value"] == ["https://git.example.org/x.git@main"]
    plain = call("config", "show", "-o", "json").json
    assert plain["interval"] == {"value": "30s", "origin": "default"}


@pytest.mark.parametrize("words", [["config", "show"], ["run"], ["plan"], ["status"]])
def test_another_etcd_than_the_local_platforms_own_is_refused(
    call: Caller, words: list[str]
) -> None:
    call.write_specs()
    more = '  etcd: {endpoints: ["https://etcd:2379"]}\n'
    path = _configured(call, "folder: {path: ../specs}", more=more)
    ended = call("--config", str(path), *words)
    assert ended.code == 1
    assert ended.told().startswith(f"CL203 {path}")
    assert "leave spec.etcd out" in ended.err


def test_a_source_whose_commits_are_not_signed_is_not_believed(call: Caller) -> None:
    here = call.folder / "repository"
    here.mkdir()
    (here / "shop.yaml").write_text(SHOP)
    git = ("git", "-c", "user.name=K", "-c", "user.email=k@e.org", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "unsigned")):
        subprocess.run([*git, *words], cwd=here, check=True)
    path = _configured(call, "git: {url: ../repository, verify: {keys: signers}}")
    assert "SO121" in call("--config", str(path), "plan").told()
    (path.parent / "signers").write_text("")
    told = call("--config", str(path), "plan").told()
    assert "SO120" in told
    assert "git commit -S" in told


def test_several_sources_are_not_guessed_at(call: Caller) -> None:
    path = str(_configured(call, "folder: {path: a}", "configMap: {path: b}"))
    told = call("--config", path, "plan").told()
    assert "CL001" in told
    assert "there are several sources" in told


@pytest.mark.parametrize("words", [["get", "db", "-o", "json"], ["plan", "-o", "json"],
                                   ["validate", "-f", "nowhere", "-o", "json"]])  # fmt: skip
def test_errors_are_json_where_json_was_asked_for(call: Caller, words: list[str]) -> None:
    ended = call(*words)
    (error,) = json.loads(ended.err)["errors"]
    assert set(error) == {"code", "file", "line", "column", "subject", "problem", "remedy"}
    assert ended.code == 1
    assert ended.out == ""


@command("boom")
def boom() -> None:
    """Fail as no error of ours does."""
    raise KeyError("a bug")


@command("interrupted")
def interrupted() -> None:
    """End as Ctrl-C ends a command."""
    raise KeyboardInterrupt


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Add two commands that fail, and give a state folder for their reports."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("boom", "interrupted"):
        entry = LazyCommand("Test", f"{__name__}:{name}", "Fail.")
        monkeypatch.setitem(cli_main.COMMANDS, name, entry)
    return tmp_path / "shardwright-reports"


def test_a_bug_is_a_short_report_with_details_in_a_private_file(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_main.run(["boom"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "a bug in Shardwright (KeyError)" in told.err
    assert "Traceback" not in told.err
    (report,) = broken.iterdir()
    assert str(report) in told.err
    assert "Traceback" in report.read_text()
    assert stat.S_IMODE(report.stat().st_mode) == 0o600


def test_a_bugs_report_holds_no_value_of_the_call(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["shardwright", "boom", f"--dsn={SECRET}", "--key", SECRET])
    cli_main.run(["boom"])
    (report,) = broken.iterdir()
    assert SECRET not in report.read_text()
    assert "--dsn" in report.read_text()


@pytest.mark.usefixtures("broken")
def test_an_interrupt_is_one_line_and_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main.run(["interrupted"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_signal_ends_a_call_with_130_and_no_traceback(call: Caller) -> None:
    running = subprocess.Popen(
        [*SHARDWRIGHT, "validate", "-f", "-"], cwd=call.folder, env=call.environment, text=True,
        stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: _waits_for_input(running.pid), "the call reads its standard input")
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert told.strip() == "interrupted"


def _waits_for_input(pid: int) -> bool:
    """Tell by its system call (0: read, of descriptor 0) whether a process waits on stdin."""
    return Path(f"/proc/{pid}/syscall").read_text().startswith("0 0x0 ")


def test_a_reader_that_leaves_is_no_error(call: Caller) -> None:
    running = call.start("explain")
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(60) == 0
    running.stderr.close()


def test_colour_is_only_for_terminals_and_never_against_no_color(call: Caller) -> None:
    assert "\x1b" not in call("explain", "LP101").out
    assert "\x1b[1m" in call.on_terminal("explain", "LP101", answers=[]).out
    plain = Caller(call.folder, call.home)
    assert "\x1b" not in plain("explain", "LP101", NO_COLOR="1").out


def test_every_code_is_explained_and_belongs_to_one_error(call: Caller) -> None:
    listed = call("explain", "-o", "json").json
    codes = [one["code"] for one in listed]
    assert len(codes) == len(set(codes)) > 60
    for one in listed:
        assert one["fact"].endswith("."), one
        assert len(one["code"]) == 5
    told = call("explain", "lp104").out
    assert "HomeBusy" in told
    assert "Another command is changing this home" in told


def test_a_near_code_is_suggested(call: Caller) -> None:
    assert "did you mean" in call("explain", "LP10").err


@pytest.mark.parametrize(
    "code", ["CL001", "CL999", "PS001", "PS002", "PS003", "PS004", "PS005", "PS006"]
)
def test_codes_that_are_no_errors_of_ours_are_explained_too(call: Caller, code: str) -> None:
    assert call("explain", code).out.startswith(code)


def test_a_story_begins_with_a_whole_sentence_and_has_no_markup(call: Caller) -> None:
    for one in call("explain", "-o", "json").json:
        assert one["fact"].endswith((".", ":")), one
        assert "``" not in one["fact"] + one["story"], one


def test_a_group_without_a_command_shows_its_help(call: Caller) -> None:
    ended = call("operation")
    assert ended.code == 0
    assert "Commands:" in ended.out
    assert ended.err == ""


@pytest.mark.parametrize("words", [["get"], ["describe"]])
def test_the_kinds_are_told_on_one_line(call: Caller, words: list[str]) -> None:
    ended = call(*words)
    assert ended.code == 1
    assert "databases (db), shards" in ended.err.splitlines()[0]
    assert len(ended.err.splitlines()) == 2
    assert "\t" not in ended.err


def test_an_error_fits_the_terminal_and_is_a_line_elsewhere(call: Caller) -> None:
    (call.folder / "empty").mkdir()
    lines = call.on_terminal("validate", "-f", "empty", answers=[]).out.splitlines()
    assert all(len(line) <= 110 for line in lines), "100 columns, and some escape sequences"
    told = " ".join(" ".join(lines).split())
    remedy = "leave another document there, such as a policy"
    assert remedy in told
    (line,) = [one for one in call("validate", "-f", "empty").err.splitlines() if "try:" in one]
    assert line.endswith(remedy)
