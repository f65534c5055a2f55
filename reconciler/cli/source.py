"""Where the specs of a call come from: ``-f PATH``, or ``--git URL --ref R --path P``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from reconciler.model.git import NO_CREDENTIALS, CredentialFiles

if TYPE_CHECKING:
    from reconciler.cli.session import Session
    from reconciler.engine.saved import SourceRequest
    from reconciler.spec.documents import Documents
    from reconciler.spec.loaded import Loaded

Function = Callable[..., int | None]


@dataclass(frozen=True, slots=True)
class Where:
    """One source: a path (``-`` for stdin), or a repository, a reference and a path in it.

    ``keys``: the signers that a configured source believes; ``credentials``: its files.
    """

    path: str = ""
    git: str = ""
    ref: str = ""
    subpath: str = ""
    keys: str = ""
    credentials: CredentialFiles = NO_CREDENTIALS

    def __bool__(self) -> bool:
        return bool(self.path or self.git)

    def request(self) -> SourceRequest:
        """Return it as the engine and saved plans know it."""
        from reconciler.engine.saved import SourceRequest

        if self.git:
            return SourceRequest(
                self.subpath or ".", self.git, self.ref, self.keys, self.credentials
            )
        return SourceRequest(self.path)

    @property
    def arguments(self) -> str:
        """The options that say it again, for a hint what to type next."""
        if self.path:
            return f"-f {self.path}"
        more = f" --ref {self.ref}" if self.ref else ""
        return f"--git {self.git}{more}{f' --path {self.subpath}' if self.subpath else ''}"


def source_options(function: Function) -> Function:
    """Add the options; the command gets them as one ``where``."""
    import functools

    @functools.wraps(function)
    def gathered(
        *args: Any,
        path: str | None,
        git: str | None,
        ref: str | None,
        subpath: str | None,
        **rest: Any,
    ) -> int | None:
        if path and git:
            raise click.UsageError("-f and --git are two sources; name one")
        if not git and (ref or subpath) and not rest.get("base"):
            raise click.UsageError("--ref and --path belong to --git")
        return function(*args, where=Where(path or "", git or "", ref or "", subpath or ""), **rest)

    for option in reversed(OPTIONS):
        gathered = option(gathered)
    return gathered


OPTIONS = (
    click.option("-f", "--file", "path", metavar="PATH", help="Specs: a file, a folder, or -."),
    click.option("--git", metavar="URL", help="Git repository that holds the specs."),
    click.option("--ref", metavar="REF", help="Branch, tag or commit [the default branch]."),
    click.option("--path", "subpath", metavar="PATH", help="Folder or file in the repository."),
)


def require(where: Where) -> Where:
    """Return the source, or say that one is needed."""
    if not where:
        raise click.UsageError("say where the specs are: -f PATH, or --git URL")
    return where


def chosen(where: Where, session: Session) -> Where:
    """Return the source that was named, or the one of the configuration file."""
    settings = session.settings() if not where else None
    if settings is None or not settings.sources:
        return require(where)
    if len(settings.sources) > 1:
        there = ", ".join(str(source) for source in settings.sources)
        raise click.UsageError(f"there are several sources; name one with -f or --git: {there}")
    (source,) = settings.sources
    if source.git:
        return Where(
            git=source.git, ref=source.ref, subpath=source.path, keys=source.keys,
            credentials=source.credentials,
        )  # fmt: skip
    return Where(path=source.path)


def fetch(where: Where) -> Documents:
    """Read the source's documents. Raises what the edge raises."""
    from reconciler import wiring

    return wiring.fetch(where.request())


def load(where: Where, *, called: str = "") -> Loaded:
    """Read and resolve the source. Raises ProblemsFound with every problem of all files.

    ``called`` is the revision's name in a saved plan, which asks for a commit: the branch's name in
    it is kept when it is that commit.
    """
    from dataclasses import replace

    from reconciler import spec
    from reconciler.model.desired import Revision

    documents = fetch(require(where))
    if called and Revision(called).content == documents.revision.content:
        documents = replace(documents, revision=Revision(called))
    return spec.read(documents)
