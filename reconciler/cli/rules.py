"""The policies of a source, compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.policy.rules import PolicySet
    from reconciler.spec.loaded import Loaded


def compile_all(loaded: Loaded) -> PolicySet:
    """Compile every policy of a source. Raises ProblemsFound with all mistakes of all rules."""
    from reconciler.policy.rules import compile_policies, policy_document

    documents = tuple(policy_document(p.manifest, p.place) for p in loaded.policies)
    files = loaded.documents.files if loaded.documents else ()
    return compile_policies(documents, {file.path: file.data for file in files})
