"""``shardwright validate``: every problem of all files at once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.notes import of_problems
from reconciler.cli.session import Session, output_option
from reconciler.cli.source import Where, chosen, fetch, source_options
from reconciler.cli.terminal import style_for, write
from reconciler.plan.render_notes import FORMS, Level, render_notes

if TYPE_CHECKING:
    from reconciler.model.errors import ReconcilerError
    from reconciler.spec.documents import Documents
    from reconciler.spec.loaded import Loaded


@command("validate")
@source_options
@output_option("text", "json", *FORMS)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when all is well.")
@click.pass_obj
def validate(session: Session, where: Where, output: str, quiet: bool) -> int:
    """Check specs and policies.

    Every problem of all files is told at once. Files of other tools in the same folder are left
    alone and counted.
    """
    documents = fetch(chosen(where, session))
    loaded, problems = _checked(documents)
    warnings = loaded.warnings if loaded else ()
    if output == "json":
        _write_json(documents, loaded, problems)
    elif output in FORMS:
        from reconciler.model.errors import ProblemsFound

        notes = (*of_problems(problems), *of_problems(warnings, Level.WARNING))
        line = ProblemsFound(problems).problem if problems else "valid"
        write(render_notes(notes, output, line))
    else:
        from reconciler.cli.errors import tell, tell_error

        for warning in warnings:
            tell_error(warning)
        if problems:
            from reconciler.model.errors import ProblemsFound

            return tell(ProblemsFound(problems), session)
        if loaded and not quiet:
            ours = loaded.desired.databases or loaded.policies or loaded.config
            head = style_for(sys.stdout)("good", "valid") if ours else "no specs here"
            write(f"{head}: {_summary(loaded)}")
    return 1 if problems else 0


def _checked(documents: Documents) -> tuple[Loaded | None, tuple[ReconcilerError, ...]]:
    from reconciler import spec
    from reconciler.model.errors import ProblemsFound

    try:
        loaded = spec.read(documents)
    except ProblemsFound as found:
        return None, found.problems
    if not loaded.policies and not loaded.policy_tests:
        return loaded, ()
    from reconciler.cli.rules import compile_all

    try:
        compile_all(loaded)
    except ProblemsFound as found:
        return loaded, found.problems
    return loaded, ()


def _summary(loaded: Loaded) -> str:
    from reconciler.plan.render_report import counted

    desired = loaded.desired
    shards = sum(len(database.shards) for database in desired.databases)
    databases = counted(len(desired.databases), "database")
    parts = [databases, counted(shards, "shard")] if desired.databases else []
    if loaded.policies:
        parts.append(counted(len(loaded.policies), "policy", "policies"))
    if desired.foreign_files:
        parts.append(f"{counted(desired.foreign_files, 'file')} of other tools left alone")
    if loaded.warnings:
        parts.append(counted(len(loaded.warnings), "warning"))
    return f"{', '.join(parts)} at {desired.revision.short}"


def _write_json(
    documents: Documents, loaded: Loaded | None, problems: tuple[ReconcilerError, ...]
) -> None:
    import json

    from reconciler.cli.errors import fields_of

    report = {
        "valid": not problems,
        "source": documents.source,
        "revision": str(documents.revision),
        "databases": [str(d.key) for d in loaded.desired.databases] if loaded else [],
        "policies": [p.manifest.metadata.name for p in loaded.policies] if loaded else [],
        "foreignFiles": loaded.desired.foreign_files if loaded else documents.foreign_files,
        "problems": [fields_of(problem) for problem in problems],
        "warnings": [fields_of(warning) for warning in loaded.warnings] if loaded else [],
    }
    write(json.dumps(report, indent=2, ensure_ascii=False))
