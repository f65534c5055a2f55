"""What the forges' checks are made of, run as their runners run it, from a clean clone of ours."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.e2e.test_forge import (
    ROOT,
    comments,
    commit_status,
    forge,
    pull_request,
    repository,
)
from tests.forge import USER, Forge
from tests.forge_runner import clean_clone, path_without_us, run_workflow

pytestmark = pytest.mark.platform
__all__ = ["forge"]


def test_the_action_installs_what_it_comes_with_and_comments_on_the_pull_request(
    forge: Forge, tmp_path: Path
) -> None:
    clone = repository(forge, tmp_path / "acted", "acted")
    asked = pull_request(forge, clone, tmp_path / "state.json")
    token = forge.token()
    event = {
        "pull_request": {
            "number": asked.number,
            "base": {"ref": "main"},
            "head": {"ref": "topic", "sha": asked.commit},
        }
    }
    ended = run_workflow(
        ROOT / ".ci" / "gitea" / "shardwright.yml", clone.folder, tmp_path / "runner", event,
        {"SHARDWRIGHT_TOKEN": token}, {"SHARDWRIGHT_STATE": str(asked.state)},
        forge.address, GITEA_ACTIONS="true", GITHUB_REPOSITORY=f"{USER}/{clone.name}",
        SSL_CERT_FILE=forge.ca,
    )  # fmt: skip
    told = "\n".join(one for one in ended.stdout.splitlines() if "|" in one) + ended.stderr
    assert ended.returncode == 0, told
    assert "commented" in told, told
    (comment,) = comments(forge, clone, asked)
    assert "2 shards to add" in comment["body"]
    assert commit_status(forge, clone, asked.commit) == ("success", "shardwright/plan")
    assert token not in told


def test_the_template_for_gitlab_writes_its_reports(forge: Forge, tmp_path: Path) -> None:
    clone = repository(forge, tmp_path / "lab", "lab")
    asked = pull_request(forge, clone, tmp_path / "state.json")
    clone.git("remote", "add", "origin", clone.url)
    ours = clean_clone(tmp_path / "ours")
    inputs, job = _template(repository=str(ours), ref="main")
    assert inputs["repository"]["default"].startswith("https://github.com/shardwright/")
    environment = {
        **os.environ, **{k: str(v) for k, v in job["variables"].items()},
        "PATH": path_without_us(), "HOME": str(tmp_path), "GIT_SSL_CAINFO": forge.ca,
        "STATE": str(asked.state), "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        "CI_MERGE_REQUEST_IID": str(asked.number), "CI_COMMIT_SHA": asked.commit,
    }  # fmt: skip
    ended = subprocess.run(
        ["bash", "-e", "-c", "\n".join(job["script"])], cwd=clone.folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    reports = job["artifacts"]["reports"]
    assert isinstance(json.loads((clone.folder / reports["codequality"]).read_text()), list)
    assert ElementTree.parse(clone.folder / reports["junit"]).getroot().tag == "testsuite"  # noqa: S314


def _template(**inputs: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs that the template takes, and its job with these in their places."""
    text = (ROOT / ".ci" / "gitlab" / "shardwright.yml").read_text()
    header, body = text.split("\n---\n")
    for name, value in inputs.items():
        body = body.replace(f"$[[ inputs.{name} ]]", shlex.quote(value).strip("'"))
    return yaml.safe_load(header)["spec"]["inputs"], yaml.safe_load(body)["shardwright"]
