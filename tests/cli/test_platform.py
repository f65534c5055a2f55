"""The commands on a real platform: one database of two shards, applied by the command itself."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from reconciler.cli.main import INTERRUPTED
from tests.cli.calls import SHOP, Caller
from tests.local_home import fresh_home, wait_for

pytestmark = pytest.mark.platform
SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "plan.v1.json").read_bytes())


def test_a_second_plan_says_nothing_to_do(platform: Caller) -> None:
    ended = platform("plan", "-f", "specs", "--detailed-exitcode")
    assert ended.code == 0
    assert ended.told().splitlines()[-1].startswith("nothing to do: files@sha256:")
    assert "observed: etcd ok · patroni 2/2 · postgres 2/2" in ended.out


def test_an_edit_is_planned_in_each_form_and_changes_nothing(platform: Caller) -> None:
    platform.write_specs(SHOP.replace("16MB", "24MB"))
    try:
        assert platform("plan", "-f", "specs", "--detailed-exitcode", "-q").code == 2
        data = platform("plan", "-f", "specs", "-o", "json").json
        jsonschema.Draft7Validator(SCHEMA).validate(data)
        place = data["steps"][0]["place"]
        assert (place["file"], place["line"]) == ("specs/shop.yaml", 7)
        assert "work_mem 16MB → 24MB" in platform("plan", "-f", "specs").out
        assert platform("plan", "-f", "specs", "-o", "markdown").out.startswith("<!-- shardwright")
        assert "shop-s0/configure" in platform("plan", "-f", "specs", "-o", "name").out.split()
        diff = platform("diff", "-f", "specs")
        assert diff.code == 1
        assert "- parameters.work_mem: 16MB" in diff.out
        assert "+ parameters.work_mem: 24MB  specs/shop.yaml:7" in diff.out
    finally:
        platform.write_specs()
    assert platform("diff", "-f", "specs").code == 0


def test_nothing_is_applied_where_nobody_can_confirm(platform: Caller) -> None:
    platform.write_specs(SHOP.replace("16MB", "24MB"))
    try:
        ended = platform("apply", "-f", "specs")
        assert ended.code == 1
        assert "CL002" in ended.told()
        refused = platform.on_terminal("apply", "-f", "specs", answers=[("goes on: ", "y\n")])
        assert refused.code == 1
        assert "nothing was done" in refused.told()
        assert platform("plan", "-f", "specs", "--detailed-exitcode", "-q").code == 2
    finally:
        platform.write_specs()


def test_a_saved_plan_is_private_applied_once_and_refused_when_stale(platform: Caller) -> None:
    platform.write_specs(SHOP.replace("16MB", "20MB"))
    assert platform("plan", "-f", "specs", "--out", "plan.json", "-q").code == 0
    assert stat.S_IMODE((platform.folder / "plan.json").stat().st_mode) == 0o600
    applied = platform("apply", "plan.json", "--yes", "--detailed-exitcode")
    assert applied.code == 2, applied.told()
    assert "applied: " in applied.err
    again = platform("apply", "plan.json", "--yes", "--detailed-exitcode")
    assert again.code == 6
    assert "AP105" in again.told()
    platform.write_specs(SHOP.replace("16MB", "21MB"))
    platform("plan", "-f", "specs", "--out", "plan.json", "-q")
    platform.write_specs()
    stale = platform("apply", "plan.json", "--yes", "--detailed-exitcode")
    assert stale.code == 6
    assert "AP104" in stale.told()
    back = platform("apply", "-f", "specs", "--yes", "-o", "json")
    assert back.code == 0
    operation = back.json["operation"]
    assert operation["result"] == "done"
    assert {step["state"] for step in operation["steps"]} == {"done"}
    assert {s["id"] for s in operation["steps"]} == {s["id"] for s in back.json["plan"]["steps"]}
    assert operation["id"] == platform("history", "-o", "json").json[0]["name"]
    assert platform("apply", "-f", "specs", "--yes", "-o", "json").json["operation"] is None


POLICY = """\
apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {name: freeze}
spec:
  rules:
    - {name: none, at: [plan], require: "false", otherwise: OUTCOME, message: a freeze is on}
"""


@pytest.mark.parametrize(
    ("outcome", "exit_code", "plain", "code"),
    [("deny", 4, 1, "AP102"), ("hold", 5, 0, "AP103"), ("warn", 2, 0, "")],
)
def test_what_a_policy_says_is_the_exit_code(
    platform: Caller, outcome: str, exit_code: int, plain: int, code: str
) -> None:
    platform.write_specs(SHOP.replace("16MB", "22MB"))
    policy = platform.folder / "specs" / "policy.yaml"
    policy.write_text(POLICY.replace("OUTCOME", outcome))
    try:
        ended = platform("plan", "-f", "specs", "--detailed-exitcode")
        assert ended.code == exit_code
        assert f"{outcome}  freeze/none (shop): a freeze is on" in ended.out
        assert platform("plan", "-f", "specs").code == plain
        if code:
            refused = platform("apply", "-f", "specs", "--yes", "--detailed-exitcode")
            assert refused.code == exit_code
            assert code in refused.told()
    finally:
        policy.unlink()
        platform.write_specs()
    assert platform("plan", "-f", "specs", "--detailed-exitcode").code == 0


def test_a_plan_from_git_names_branch_and_commit(platform: Caller) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
        done = subprocess.run(
            command, cwd=platform.folder, env=platform.environment, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    git("init", "-q", "-b", "main", ".")
    git("add", "specs")
    git("commit", "-qm", "specs")
    commit = git("rev-parse", "HEAD")
    source = ("--git", str(platform.folder), "--ref", "main", "--path", "specs")
    ended = platform("plan", *source)
    assert ended.code == 0, ended.told()
    assert ended.out.startswith(f"main@sha1:{commit[:7]}, last applied ")
    assert platform("plan", *source, "-o", "json").json["revision"]["text"] == f"main@sha1:{commit}"
    assert "SO101" in platform("plan", *source[:3], "nope").told()
    platform.write_specs(SHOP + "# a note\n")
    assert "+ uncommitted changes" in platform("plan", "-f", "specs").out.splitlines()[0]
    platform.write_specs()
    shutil.rmtree(platform.folder / ".git")


def test_an_apply_on_a_terminal_shows_the_plan_asks_and_draws_bars(platform: Caller) -> None:
    platform.write_specs(SHOP.replace("16MB", "18MB"))
    ended = platform.on_terminal("apply", "-f", "specs", answers=[("goes on: ", "yes\n")])
    assert ended.code == 0, ended.out
    assert "work_mem" in ended.told()
    assert "━" in ended.out
    platform.write_specs()
    assert platform("apply", "-f", "specs", "--yes", "-q").told().startswith("applied: ")


def test_lists_have_tables_names_json_and_yaml(platform: Caller) -> None:
    assert platform("get", "db").out.split("\n")[1].split()[:5] == ["shop", "True", "2", "2/2", "1"]
    names = platform("get", "shards", "-o", "name").out.split()
    assert names == ["shard/shop/s0", "shard/shop/s1"]
    data = platform("get", "members", "shop/s0", "-o", "json").json
    assert [item["name"] for item in data["items"]] == ["shop-s0-0"]
    assert "kind: List" in platform("get", "op", "-o", "yaml").out
    assert "SCOPE" in platform("get", "shards", "-o", "wide").out
    assert "NAMESPACE" in platform("get", "db", "-A").out


def test_lists_are_chosen_by_namespace_label_and_name(platform: Caller) -> None:
    assert "no databases in namespace other" in platform("get", "db", "-n", "other").err
    assert "shop" in platform("get", "db", "-l", "team=checkout", "-f", "specs").out
    assert platform("get", "db", "-l", "team!=checkout", "-f", "specs").out == ""
    assert platform("get", "shop").out == "shop   Ready=True\n"
    (shop,) = platform("get", "shop", "-o", "json").json["items"]
    assert [(c["type"], c["status"]) for c in shop["conditions"]] == [("Ready", "True")]
    ended = platform("get", "shopp")
    assert ended.code == 1
    assert "it is no kind, and no database" in ended.told()
    assert "did you mean shop?; the kinds are databases" in ended.err
    ended = platform("get", "db", "shopp")
    assert ended.code == 1
    assert "CL005" in ended.told()
    assert "did you mean shop?" in ended.err


def test_watching_shows_the_list_and_ends_with_ctrl_c(platform: Caller) -> None:
    running = platform.start("get", "db", "--watch")
    assert running.stdout is not None
    assert running.stdout.readline().startswith("NAME")
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, "")


@pytest.mark.parametrize("kind", ["db", "shard", "member"])
def test_one_thing_is_described_in_full(platform: Caller, kind: str) -> None:
    name = {"db": "shop", "shard": "shop/s0", "member": "shop-s0-0"}[kind]
    ended = platform("describe", kind, name)
    assert ended.code == 0, ended.told()
    assert "shop" in ended.out
    json.loads(platform("describe", kind, name, "-o", "json").out)


def test_history_names_what_was_applied(platform: Caller) -> None:
    (first, *_) = platform("history", "shop", "-o", "json").json[::-1]
    assert (first["result"], first["done"]) == ("done", first["planned"])
    assert "files@sha256:" in platform("history").out
    operation = platform("describe", "op", first["name"])
    assert "provision s0" in operation.out


@pytest.mark.parametrize(("key", "shard"), [("42", "s1"), ("1", "s0"), ("-42", "s1")])
def test_a_keys_owner_is_where_its_rows_are_accepted(
    platform: Caller, key: str, shard: str
) -> None:
    routed = platform("route", "shop", key, "-o", "json").json
    assert routed["shard"] == shard
    row = f"insert into customers values ({key}, 'x') on conflict do nothing"
    assert platform("connect", "shop", "--key", key, "--", "-c", row).code == 0
    other = "s0" if shard == "s1" else "s1"
    refused = platform("connect", "shop", "--shard", other, "--", "-c", row)
    assert refused.code == 1
    assert "does not own that key" in refused.err


@pytest.mark.parametrize(
    ("words", "code"),
    [(["route", "shop", "x"], "CL007"), (["route", "nope", "1"], "CL006"),
     (["connect", "shop", "--shard", "s9"], "CL008"), (["describe", "db", "nope"], "CL005")],
)  # fmt: skip
def test_what_is_not_there_has_a_code(platform: Caller, words: list[str], code: str) -> None:
    ended = platform(*words)
    assert ended.code == 1
    assert ended.told().startswith(code)


def test_psql_gets_the_password_neither_by_argument_nor_by_environment(platform: Caller) -> None:
    show = "\\! tr '\\0' '\\n' < /proc/$PPID/environ; tr '\\0' ' ' < /proc/$PPID/cmdline"
    ended = platform("connect", "shop", "--key", "1", "--", "-c", show)
    secret = (platform.home / "secrets" / "default" / "shop-s0" / "shop_app").read_text().strip()
    assert "PGPASSFILE=/proc/self/fd/" in ended.out
    assert secret not in ended.told()
    user = platform("connect", "shop", "--key", "1", "--", "-Atc", "select current_user")
    assert user.out.strip() == "shop_app"
    admin = platform(
        "connect", "shop", "--key", "1", "--admin", "--", "-Atc", "select current_user"
    )
    assert admin.out.strip() == "shardwright"


def test_a_session_knows_its_epoch_and_passes_guards_only_when_told(platform: Caller) -> None:
    epoch = str(platform("route", "shop", "1", "-o", "json").json["epoch"])
    told = platform("connect", "shop", "--key", "1", "--", "-Atc", "show shardwright.epoch")
    assert told.out.strip() == epoch
    key = next(
        str(k)
        for k in range(1, 99)
        if platform("route", "shop", str(k), "-o", "json").json["shard"] == "s1"
    )
    row = f"begin; insert into customers values ({key}, 'x'); rollback"
    admin = ("connect", "shop", "--shard", "s0", "--admin")
    assert "does not own that key" in platform(*admin, "--", "-c", row).err
    past = platform(*admin, "--past-guards", "--", "-c", row)
    assert "does not own" not in past.told()
    assert past.code == 0
    assert "past the guards" in past.err


def test_a_running_database_is_imported_as_a_valid_spec(platform: Caller) -> None:
    member = platform("get", "members", "shop/s0", "-o", "json").json["items"][0]
    dsn = f"host={member['host']} port={member['port']} user=shardwright dbname=shop"
    secret = (platform.home / "secrets" / "default" / "shop-s0" / "superuser").read_text().strip()
    ended = platform("import", "--dsn", dsn, "--out", "found.yaml", PGPASSWORD=secret)
    assert ended.code == 0, ended.told()
    written = (platform.folder / "found.yaml").read_text()
    assert secret not in written
    assert "customers: id" in written
    assert "orders: customer_id" in written
    assert platform("validate", "-f", "found.yaml").code == 0
    twice = platform("import", "--dsn", dsn, "--out", "found.yaml", PGPASSWORD=secret)
    assert "CL003" in twice.told()
    wrong = platform("import", "--dsn", dsn, PGPASSWORD="nonsense")
    assert "PG302" in wrong.told()
    assert "nonsense" not in wrong.told()


def test_the_platform_is_shown_and_the_doctor_is_content(platform: Caller) -> None:
    status = platform("platform", "status")
    assert status.code == 0
    assert "shop-s0-0" in status.out
    assert platform("platform", "status", "-o", "json").json["parts"][0]["name"] == "etcd"
    assert platform("platform", "logs", "shop-s0-0", "-n", "5").out.count("\n") == 5
    assert "LP131" in platform("platform", "logs", "nope").told()
    doctor = platform("doctor", "-o", "json")
    assert doctor.code == 0, doctor.told()
    assert {c["name"] for c in doctor.json["checks"]} >= {"python", "postgresql", "etcd", "disk"}


def test_a_lost_certificate_is_told_and_is_no_bug(platform: Caller) -> None:
    certificate = platform.home / "tls" / "client.pem"
    kept = certificate.read_bytes()
    certificate.unlink()
    try:
        doctor = platform("doctor", "-o", "json")
        (etcd,) = [c for c in doctor.json["checks"] if c["name"] == "home's etcd"]
        assert etcd["state"] == "fail"
        assert "certificates cannot be used" in etcd["fact"]
        for words in (("get", "db"), ("plan", "-f", "specs")):
            told = platform(*words).told()
            assert "unseen: etcd" in told
            assert "CL999" not in told
    finally:
        certificate.write_bytes(kept)
        certificate.chmod(0o600)


def test_destroying_needs_a_confirmation(platform: Caller) -> None:
    ended = platform("platform", "destroy")
    assert "CL002" in ended.told()
    assert platform.home.exists()


def test_with_etcd_down_a_plan_fails_and_an_apply_changes_nothing() -> None:
    with fresh_home() as home:
        call = Caller(home.parent, home)
        call.write_specs()
        assert call("platform", "up").code == 0
        assert call("platform", "down").code == 0
        plan = call("plan", "-f", "specs", "--detailed-exitcode")
        assert plan.code == 1
        assert "unseen: etcd" in plan.told()
        assert "nothing to do" not in plan.out
        apply = call("apply", "-f", "specs", "--yes")
        assert apply.code == 1
        apply.told()
        assert call("diff", "-f", "specs").code == 2
        budgets = Path(__file__).parents[2] / "policies" / "budgets.yaml"
        empty = call("plan", "-f", str(budgets), "--detailed-exitcode")
        assert empty.code == 1
        assert "nothing to do" not in empty.told()
        listed = call("get", "db")
        assert listed.code == 1
        assert "no databases" not in listed.told()
        assert "ET101" in call("route", "shop", "1").told()
        assert not (home / "shards").exists() or not list((home / "shards").iterdir())


def test_ctrl_c_stops_at_a_safe_point_and_the_next_apply_goes_on() -> None:
    with fresh_home() as home:
        call = Caller(home.parent, home)
        call.write_specs()
        assert call("platform", "up").code == 0
        running = call.start("apply", "-f", "specs", "--yes")
        assert running.stderr is not None
        said = ""
        for line in running.stderr:
            said += line
            if "waits" in line:
                break
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=240)
        assert running.returncode == INTERRUPTED, said + err
        assert "go on with: shardwright apply -f specs" in err
        wait_for(lambda: call("apply", "-f", "specs", "--yes").code == 0, "the next apply goes on")
        assert call("plan", "-f", "specs", "--detailed-exitcode").told().count("nothing to do")
