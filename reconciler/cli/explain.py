"""``shardwright explain CODE``: the story behind an error."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
from difflib import get_close_matches

import click
from click.shell_completion import CompletionItem

import reconciler
from reconciler.cli.codes import OTHERS, Story, story_of
from reconciler.cli.lazy import command
from reconciler.cli.session import output_option
from reconciler.cli.terminal import style_for, write
from reconciler.model.errors import ReconcilerError, registry


class UnknownCode(ReconcilerError):
    """There is no error with this code.

    Codes are two letters for the part and three digits: SP spec, SO source, PO policy, PL plan,
    AP apply, OB observe, PG PostgreSQL, PA Patroni, ET etcd, LP local platform, MV moves of keys,
    RT router, SD client library, DM daemon, CL command line. PS are answers of the shards
    themselves.
    """

    code = "CL010"


def _complete(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    start = incomplete.upper()
    stories = all_stories()
    return [
        CompletionItem(code, help=stories[code].fact)
        for code in sorted(stories)
        if code.startswith(start)
    ]


@command("explain")
@click.argument("code", required=False, shell_complete=_complete)
@output_option("text", "json")
def explain(code: str | None, output: str) -> None:
    """Tell what an error code means and what to do.

    Without a code, list them all.
    """
    stories = all_stories()
    if code is None:
        wanted = sorted(stories)
    elif code.upper() in stories:
        wanted = [code.upper()]
    else:
        raise _unknown(code, list(stories))
    if output == "json":
        import json

        write(json.dumps([_fields(stories[one]) for one in wanted], indent=2, ensure_ascii=False))
    elif code is None:
        write("\n".join(f"{one}  {stories[one].fact}" for one in wanted))
    else:
        write(_told(stories[wanted[0]]))


def all_stories() -> dict[str, Story]:
    """Return all codes that a user may meet, each with its story."""
    errors = {code: story_of(kind) for code, kind in all_errors().items()}
    return errors | {story.code: story for story in OTHERS}


def all_errors() -> dict[str, type[ReconcilerError]]:
    """Import every module of ours and return the errors that they define, by code."""
    for module in pkgutil.walk_packages(reconciler.__path__, "reconciler."):
        # A part whose libraries are missing here cannot raise its errors here either.
        with contextlib.suppress(ImportError):
            importlib.import_module(module.name)
    return registry()


def _unknown(code: str, codes: list[str]) -> UnknownCode:
    near = get_close_matches(code.upper(), codes, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}? " if near else ""
    return UnknownCode(code, "no such code", remedy=f"{remedy}list all: shardwright explain")


def _told(story: Story) -> str:
    later = "\n\nThe same attempt may succeed later: it is tried again." if story.transient else ""
    paint = style_for(sys.stdout)
    told = f"\n\n{story.rest}" if story.rest else ""
    advice = '\n\nThe error itself names what to try in its case, after "try:".'
    if story in OTHERS:  # what a client does then is not ours to promise
        later = advice = ""
    return f"{paint('bold', f'{story.code}  {story.name}')}\n{story.fact}{told}{later}{advice}"


def _fields(story: Story) -> dict[str, object]:
    return {
        "code": story.code,
        "name": story.name,
        "fact": story.fact,
        "story": story.rest,
        "transient": story.transient,
    }
