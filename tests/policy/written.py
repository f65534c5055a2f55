"""Policies as users write them, for tests."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from reconciler.model.errors import ProblemsFound, ReconcilerError
from reconciler.policy.rules import (
    PolicyDocument,
    PolicySet,
    compile_policies,
    policy_document,
)
from reconciler.spec.decode import decode_file
from reconciler.spec.manifest_other import Policy

NOON = datetime(2026, 1, 14, 12, tzinfo=UTC)
HEAD = """apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {name: moves}
spec:
  match: {namespaces: ["*"], databases: ["*"]}
  rules:
"""


def rule(
    require: str,
    *,
    at: str = "spec",
    name: str = "r",
    when: str = "",
    otherwise: str = "deny",
) -> str:
    """Return a rule in YAML; ``require`` and ``when`` as they stand after the colon."""
    require = f"'{require}'" if require in ("true", "false", "1") else require
    condition = f"      when: {when}\n" if when else ""
    return (
        f"    - name: {name}\n      at: [{at}]\n{condition}      require: {require}\n"
        f"      otherwise: {otherwise}\n      message: not so\n"
    )


def documents(*texts: str) -> tuple[tuple[PolicyDocument, ...], dict[str, bytes]]:
    """Decode policy files ``policies/p0.yaml``…, and return them with their sources."""
    sources = {f"policies/p{n}.yaml": text.encode() for n, text in enumerate(texts)}
    found: list[PolicyDocument] = []
    for path, data in sources.items():
        decoded = decode_file(path, data)
        assert not decoded.problems, decoded.problems
        found += [policy_document(m, p) for p, m in decoded.manifests if isinstance(m, Policy)]
    return tuple(found), sources


def policies(*rules: str) -> PolicySet:
    """Compile one policy of these rules."""
    found, sources = documents(HEAD + "".join(rules))
    return compile_policies(found, sources)


def mistakes(*texts: str) -> tuple[ReconcilerError, ...]:
    """Return what is wrong with these policy files."""
    found, sources = documents(*texts)
    with pytest.raises(ProblemsFound) as caught:
        compile_policies(found, sources)
    return caught.value.problems


def mistake(require: str, at: str = "spec") -> str:
    """Return the one mistake of a rule as a user reads it."""
    (problem,) = mistakes(HEAD + rule(require, at=at))
    return str(problem)
