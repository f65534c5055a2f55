"""Documents of the wrong form, with the words the user reads."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from reconciler.spec.manifest_other import KINDS
from reconciler.spec.schema import file_name, json_schema, main, render
from tests.spec.texts import GOOD, load, problems, spoilt

ROOT = Path(__file__).parents[2]


def test_an_unknown_field_is_named_with_its_neighbour() -> None:
    assert spoilt("instances: 3", "instnces: 3") == [
        'SP020 a.yaml:18:33  spec.shards[1]: there is no field "instnces"\n'
        '      try: did you mean "instances"?'
    ]
    assert spoilt("  deletion: protected", "  zzz: 1") == [
        'SP020 a.yaml:19:3  spec: there is no field "zzz"\n      try: its fields are postgres, '
        "schema, sharding, defaults, shards, moved, resharding, deletion, suspend, autoApply, "
        "driftPolicy, rollout"
    ]


@pytest.mark.parametrize(("written", "shown"), [("16", "16"), ("16.1", "16.1"), ("16.10", "16.1")])
def test_an_unquoted_version_asks_for_quotes(written: str, shown: str) -> None:
    assert spoilt('version: "16"', f"version: {written}") == [
        "SP024 a.yaml:7:5  spec.postgres.version: it must be text, but unquoted YAML reads it as "
        f'a number ({shown})\n      try: quote it: "16"'
    ]


def test_a_word_that_yaml_takes_for_a_boolean_asks_for_quotes() -> None:
    assert spoilt("  name: shop", "  name: shop\n  labels: {country: no}") == [
        "SP024 a.yaml:5:12  metadata.labels.country: it must be text, but unquoted YAML reads it "
        'as true or false (false)\n      try: quote it: "no"'
    ]


def test_an_unquoted_range_asks_for_quotes() -> None:
    assert spoilt('["-80"]', "[-80]") == [
        "SP024 a.yaml:17:25  spec.shards[0].keys[0]: it must be text, but unquoted YAML reads it "
        'as a number (-80)\n      try: quote it: "-80"'
    ]


def test_a_number_that_lacks_its_unit_is_not_asked_for_quotes_alone() -> None:
    assert spoilt("deletion: protected", "resharding: {pauseMax: 100}") == [
        'SP023 a.yaml:19:16  spec.resharding.pauseMax: "100" is not a duration: a whole number and '
        "ms, s, m, h or d\n      try: for example 30s"
    ]


def test_a_wrong_type_is_named() -> None:
    assert spoilt("instances: 3", 'instances: "3"') == [
        'SP021 a.yaml:18:33  spec.shards[1].instances: it must be a whole number, not the text "3"'
    ]
    assert spoilt("{orders: customer_id}", "[orders]") == [
        "SP021 a.yaml:12:5  spec.sharding.tables: it must be a mapping, not a list"
    ]
    assert spoilt("  deletion: protected", "  suspend:") == [
        "SP021 a.yaml:19:3  spec.suspend: it has no value\n"
        "      try: give it one, or remove the line"
    ]


def test_of_alternatives_the_one_that_was_meant_is_judged() -> None:
    assert spoilt('["-80"]', '["-80", {valeu: 42}]') == [
        'SP022 a.yaml:17:32  spec.shards[0].keys[1]: the field "value" is missing\n'
        "      try: add it: a value of the shard key whose rows live on this shard",
        'SP020 a.yaml:17:33  spec.shards[0].keys[1]: there is no field "valeu"\n'
        '      try: did you mean "value"?',
    ]
    assert spoilt("work_mem: 16MB", "work_mem: [16MB]") == [
        "SP021 a.yaml:9:7  spec.postgres.parameters.work_mem: it must be text or a whole number "
        "or a number or true or false, not a list"
    ]


def test_a_missing_field_is_named_with_what_it_means() -> None:
    assert spoilt("    type: bigint\n", "") == [
        'SP022 a.yaml:10:3  spec.sharding: the field "type" is missing\n'
        "      try: add it: the type of the shard key, the same in all sharded tables"
    ]


def test_a_value_out_of_a_closed_set_is_named_with_its_neighbour() -> None:
    assert spoilt("type: bigint", "type: bigit") == [
        'SP023 a.yaml:11:5  spec.sharding.type: "bigit" is not one of bigint, int, text, uuid\n'
        '      try: did you mean "bigint"?'
    ]
    for kind, meant in {"int8": "bigint", "INTEGER": "int", "varchar": "text"}.items():
        (problem,) = spoilt("type: bigint", f"type: {kind}")
        assert problem.endswith(f'try: did you mean "{meant}"?')
    assert spoilt("deletion: protected", "deletion: true") == [
        "SP024 a.yaml:19:3  spec.deletion: it must be text, but unquoted YAML reads it as true or "
        'false (true)\n      try: quote it: "yes"'
    ]


@pytest.mark.parametrize("count", [0, 17, -1])
def test_instances_out_of_bounds_are_refused(count: int) -> None:
    assert spoilt("instances: 3", f"instances: {count}") == [
        f"SP023 a.yaml:18:33  spec.shards[1].instances: {count} is out of bounds: "
        "it must be 1 to 16"
    ]


@pytest.mark.parametrize("name", ["S0", "s-0", "0s", "s" * 21, "s_0", '"s0\\n"', '""'])
def test_a_shard_name_has_neither_dash_nor_capitals(name: str) -> None:
    (problem,) = spoilt("name: s0", f"name: {name}")
    assert "is not a shard name: at most 20 lower-case letters and digits" in problem


@pytest.mark.parametrize("name", ["Shop", "shop-", "-shop", "a" * 41, "sh.op", "shöp"])
def test_a_database_name_is_a_dns_label_of_at_most_40(name: str) -> None:
    (problem,) = spoilt("name: shop", f"name: {name}")
    assert "is not a name: at most 40 lower-case letters, digits and dashes" in problem


def test_an_empty_list_of_shards_is_refused() -> None:
    text = GOOD[: GOOD.index("    - {name: s0")] + "  deletion: protected\n"
    assert problems(text.replace("shards:", "shards: []")) == [
        "SP023 a.yaml:16:3  spec.shards: the list must not be empty"
    ]


def test_a_misspelt_api_version_or_kind_is_not_taken_for_another_tools() -> None:
    assert spoilt("shardwright.dev/v1alpha1", "shardwrigth.dev/v1alpha1") == [
        'SP010 a.yaml:1:1  apiVersion: "shardwrigth.dev/v1alpha1" is not an apiVersion of '
        "Shardwright\n      try: write shardwright.dev/v1alpha1"
    ]
    assert spoilt("v1alpha1", "v2")[0].startswith("SP010")
    assert spoilt("kind: ShardedDatabase", "kind: SharededDatabase") == [
        'SP011 a.yaml:2:1  kind: there is no "SharededDatabase"\n'
        '      try: did you mean "ShardedDatabase"?'
    ]
    assert spoilt("apiVersion: shardwright.dev/v1alpha1\n", "") == [
        "SP010 a.yaml:1:1  apiVersion: the field apiVersion is missing\n"
        "      try: write shardwright.dev/v1alpha1"
    ]
    assert spoilt("kind: ShardedDatabase\n", "")[0].startswith("SP011 a.yaml:1:1")
    assert spoilt("apiVersion:", "apiVerison:")[0].startswith("SP010 a.yaml:1:1")


def test_every_problem_of_every_file_is_reported_at_once_in_order() -> None:
    bad = GOOD.replace("deletion:", "deleton:").replace('"80-"', '"7f-"').replace("16MB", "1kB")
    other = GOOD.replace("name: shop", "name: other").replace('"16"', "16")
    codes = [p.split("  ")[0] for p in problems(bad, other, "apiVersion: shardwright.dev/v1\n")]
    assert codes == [
        "SP114 a.yaml:9:7", "SP102 a.yaml:18:25", "SP020 a.yaml:19:3",
        "SP024 b.yaml:7:5", "SP010 c.yaml:1:1", "SP011 c.yaml:1:1",
    ]  # fmt: skip


POLICY = """\
apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {name: moves}
spec:
  rules:
    - name: no-big-moves
      at: [plan]
      require: "true"
      message: no
---
apiVersion: shardwright.dev/v1alpha1
kind: PolicyTest
metadata: {name: moves}
spec:
  policy: moves
  cases: [{name: a, anything: [1, 2]}]
"""
CONFIG = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {name: reconciler}
spec:
  sources:
    - git: {url: "https://git.example.org/x.git", branch: main, path: prod/, interval: 60s,
            webhook: true, verify: {keys: allowed_signers}}
    - configMap: {path: /etc/shardwright/specs}
  etcd: {endpoints: ["https://127.0.0.1:2379"]}
  platform: local
  interval: 30s
"""


def test_policies_and_their_tests_and_the_configuration_are_read() -> None:
    loaded = load(POLICY.replace("message: no", "message: never"), CONFIG)
    assert [p.manifest.spec.rules[0].otherwise for p in loaded.policies] == ["deny"]
    assert [t.manifest.spec.policy for t in loaded.policy_tests] == ["moves"]
    assert loaded.config is not None
    assert loaded.config.spec.interval == "30s"
    place = loaded.policies[0].place.at("spec", "rules", 0, "require")
    assert str(loaded.locate(place)) == "a.yaml:8:7"
    assert problems(POLICY)[0].startswith("SP024 a.yaml:9:7  spec.rules[0].message")


def test_a_source_is_exactly_one_of_its_kinds() -> None:
    text = CONFIG.replace("configMap: {path: /etc/shardwright/specs}", "{}")
    assert problems(text) == [
        "SP026 a.yaml:8:7  spec.sources[1]: it names none of git, configMap, folder\n"
        "      try: name one of them"
    ]


HTTPS = "https://git.example.org/x.git"


@pytest.mark.parametrize(
    ("url", "fields", "told"),
    [
        (HTTPS, "usernameFile: u, passwordFile: p, caFile: c", ""),
        (HTTPS, "bearerTokenFile: t", ""),
        ("ssh://git@e.org/x", "identityFile: i, knownHostsFile: k", ""),
        ("git@e.org:x.git", "identityFile: i, knownHostsFile: k", ""),
        (HTTPS, "passwordFile: p", "passwordFile needs usernameFile"),
        (HTTPS, "usernameFile: u", "usernameFile needs passwordFile"),
        (HTTPS, "usernameFile: u, passwordFile: p, bearerTokenFile: t", "two ways in"),
        (HTTPS, "identityFile: i, knownHostsFile: k", "identityFile is of no use to an address"),
        ("git@e.org:x.git", "identityFile: i", "identityFile needs knownHostsFile"),
        ("ssh://git@e.org/x", "bearerTokenFile: t", "bearerTokenFile is of no use"),
        ("/srv/x.git", "caFile: c", "only https and ssh addresses"),
    ],
)
def test_credentials_fit_together_and_to_their_address(url: str, fields: str, told: str) -> None:
    text = CONFIG.replace(HTTPS, url).replace("webhook: true", f"credentials: {{{fields}}}")
    found = problems(text)
    assert len(found) == bool(told)
    if told:
        assert found[0].startswith("SP027 a.yaml:")
        assert told in found[0]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://kim:hunter2@e.org/x", "it holds a login, which is shown wherever it is"),
        ("https://hunter2@e.org/x", "it holds a login"),
        ("ssh://git:hunter2@e.org/x", "it holds a login"),
        ("http://e.org/hunter2", "http is not allowed; use file, https, ssh or a path"),
        ("ext::sh -c hunter2", "it is not an address of a repository"),
    ],
)
def test_an_address_with_a_login_or_of_another_kind_is_refused_and_not_shown(
    url: str, told: str
) -> None:
    (found,) = problems(CONFIG.replace(HTTPS, url))
    assert found.startswith("SP023 a.yaml:6:13  spec.sources[0].git.url: ")
    assert told in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (f'url: "{HTTPS}", semver: "newest"', '"newest" is not a range of versions'),
        (f'url: "{HTTPS}", semver: ">=1.2 <2", tag: v1', "it names tag and semver"),
        ('url: ""', 'git.url: "" is empty'),
        ('url: " "', 'git.url: " " is empty'),
        (f'url: "{HTTPS}", verify: {{keys: ""}}', 'verify.keys: "" is empty'),
        (f'url: "{HTTPS}", semver: ">= 1.2, < 2"', ""),
        (f'url: "{HTTPS}", semver: "v1.2.3-rc.1"', ""),
        (f'url: "{HTTPS}", semver: "1"', ""),
    ],
)
def test_what_a_repository_is_read_at_is_one_thing_and_not_empty(written: str, told: str) -> None:
    whole = CONFIG[CONFIG.index("git: {") : CONFIG.index("    - configMap")]
    found = problems(CONFIG.replace(whole, f"git: {{{written}}}\n"))
    assert len(found) == bool(told)
    assert told in "".join(found)


def test_two_documents_of_one_name_are_refused_with_both_places() -> None:
    assert problems(GOOD, GOOD) == [
        "SP025 b.yaml:4:3  shop: ShardedDatabase shop is described twice, also at a.yaml:4:3\n"
        "      try: remove one of the two"
    ]
    elsewhere = GOOD.replace("  name: shop", "  name: shop\n  namespace: team")
    assert problems(GOOD, elsewhere) == []
    assert problems(CONFIG, CONFIG.replace("name: reconciler", "name: b"))[0].startswith("SP025")


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_published_schema_is_fresh_valid_and_describes_every_field(kind: str) -> None:
    path = ROOT / "schemas" / file_name(kind)
    assert path.read_text() == render(kind), "run: python -m reconciler.spec.schema --write"
    schema = json.loads(path.read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    _every_object_is_closed_and_described(schema, kind)


def _every_object_is_closed_and_described(node: object, where: str) -> None:
    if isinstance(node, list):
        for item in node:
            _every_object_is_closed_and_described(item, where)
    if isinstance(node, dict):
        assert "$ref" not in node, where
        if "properties" in node:
            assert node["additionalProperties"] is False, where
            for name, field in node["properties"].items():
                assert field.get("description"), f"{where}.{name}"
        for name, value in node.items():
            _every_object_is_closed_and_described(value, f"{where}.{name}")


def test_a_stale_schema_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--write", str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "policy.v1alpha1.json").write_text("{}")
    capsys.readouterr()
    assert main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/policy.v1alpha1.json is stale\n"


@pytest.mark.parametrize("path", sorted((ROOT / "specs").rglob("*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_what_another_validator_accepts_too(path: Path) -> None:
    from reconciler.spec.yaml_reader import parse

    for document in parse(path.read_text(), path.name).documents:
        jsonschema.Draft7Validator(json_schema(document["kind"])).validate(document)
