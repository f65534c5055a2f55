"""``shardwright``: the table of commands, and how a call ends.

stdout is data, stderr is talk. 0 is fine and 1 is an error; ``plan`` and ``apply`` say more with
--detailed-exitcode, ``diff`` follows kubectl (0, 1, above 1), Ctrl-C is 130.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
import click.shell_completion

from reconciler.cli.lazy import LazyCommand, LazyGroup
from reconciler.cli.session import Session, session_of

INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""
COMPLETE = "_SHARDWRIGHT_COMPLETE"
"""Set by the completion scripts: what they ask for."""

_HERE = "reconciler.cli."
COMMANDS = {
    name: LazyCommand(section, _HERE + module, text)
    for section, name, module, text in (
        ("Specs", "validate", "validate:validate", "Check specs and policies."),
        ("Specs", "plan", "plan:plan", "Show what would be done, and change nothing."),
        ("Specs", "apply", "apply:apply", "Do what a plan says."),
        ("Specs", "drift", "drift:drift", "Show what changed without its spec."),
        ("Specs", "diff", "diff:diff", "Show the fields that differ; exit 0, 1, or above 1."),
        ("Specs", "state", "state:state", "Export what is observed, for plans elsewhere."),
        ("Specs", "comment", "comment:comment", "Say a plan on its pull request."),
        ("Specs", "import", "importing:import_", "Write a spec from a running PostgreSQL."),
        ("Specs", "policy", "policy:policy", "List policies and run their test cases."),
        ("Daemon", "run", "run:run", "Follow the sources and keep every database as they say."),
        ("Daemon", "status", "status:status", "Show what the daemon says, and who leads."),
        ("Daemon", "reconcile", "reconcile:reconcile", "Ask the daemon to look at once."),
        ("Daemon", "suspend", "orders:suspend", "Leave a database alone until it is resumed."),
        ("Daemon", "resume", "orders:resume", "Go on with a suspended database."),
        ("Daemon", "approve", "orders:approve", "Let the daemon do what it waits for."),
        ("Daemon", "rollout", "rollout:rollout", "Retry or promote what canaries have."),
        ("Look", "get", "get:get", "List databases, shards, instances, operations or moves."),
        ("Look", "describe", "describe:describe", "Show one thing in full."),
        ("Look", "history", "history:history", "Show what was applied, and when."),
        ("Look", "audit", "audit:audit", "Show who changed what; verify that it is whole."),
        ("Look", "explain", "explain:explain", "Tell what an error code means and what to do."),
        ("Look", "doctor", "doctor:doctor", "Check this machine and say the remedies."),
        ("Use", "route", "route:route", "Print the shard that owns a key."),
        ("Use", "connect", "connect:connect", "Open psql at the shard that owns a key."),
        ("Use", "operation", "operation:operation", "Pause, abort, take back or finish a move."),
        ("Use", "router", "router:router", "Run the reference router."),
        ("Platform", "platform", "platform:platform", "Run everything on this machine."),
        ("Shardwright", "config", "config:config", "Show the settings and their origins."),
        ("Shardwright", "version", "version:version", "Print the version."),
        ("Shardwright", "completion", "completion:completion", "Print a completion script."),
    )
}  # fmt: skip


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--home", metavar="DIR", help="Folder of the local platform [SHARDWRIGHT_HOME].")
@click.option(
    "--config", metavar="FILE", help="A ReconcilerConfig with settings [SHARDWRIGHT_CONFIG]."
)
@click.version_option(
    None, "--version", package_name="shardwright", message="shardwright %(version)s"
)
@click.pass_context
def cli(ctx: click.Context, home: str | None, config: str | None) -> None:
    """GitOps for sharded PostgreSQL: specs in, highly available shards out.

    Specs say what should be; "plan" shows what would be done, "apply" does it.
    """
    session = session_of(ctx)
    session.home, session.config = home, config


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one call and return its exit code; whatever goes wrong is told, never traced."""
    session = Session()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _invoke(words, session)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_gone()
    except click.UsageError as mistake:
        from reconciler.cli.errors import tell_usage

        return tell_usage(mistake, session)
    except (click.Abort, EOFError, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        from reconciler.cli.errors import tell

        return tell(error, session)


def _invoke(words: list[str], session: Session) -> int:
    # Not click's own main(): that one turns a reader that left into exit 1.
    if asked := os.environ.get(COMPLETE):
        return click.shell_completion.shell_complete(cli, {}, "shardwright", COMPLETE, asked)
    try:
        with cli.make_context("shardwright", words, obj=session) as ctx:
            code = cli.invoke(ctx)
    except click.exceptions.NoArgsIsHelpError as bare:  # a group, and nothing after it
        print(bare.format_message())
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else 0


def _reader_gone() -> int:
    # Whoever read our output has left (`| head`). Python would complain once more when it flushes
    # at exit, unless stdout leads nowhere by then (Python's signal module, "Note on SIGPIPE").
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    main()
