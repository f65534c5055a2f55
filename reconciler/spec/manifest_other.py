"""The other kinds a user may write: policies, their tests, and the daemon's configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType, field

from reconciler.spec.manifest import (
    ADDRESS,
    Duration,
    Metadata,
    Name,
    Part,
    ShardedDatabase,
    Versions,
    Word,
)

ApiVersion = Annotated[
    Literal["shardwright.dev/v1alpha1"], Meta(description="The version of this format.")
]


class PolicyMatch(Part, frozen=True, kw_only=True):
    """Which databases a policy speaks of."""

    namespaces: Annotated[
        list[str], Meta(description='Namespaces, with * as a wildcard; ["*"] if left out.')
    ] = field(default_factory=lambda: ["*"])
    databases: Annotated[
        list[str], Meta(description='Database names, with * as a wildcard; ["*"] if left out.')
    ] = field(default_factory=lambda: ["*"])


class PolicyRule(Part, frozen=True, kw_only=True):
    """One rule, in CEL."""

    name: Annotated[Name, Meta(description="The rule's name, unique in its policy.")]
    at: Annotated[
        list[Literal["spec", "plan", "apply"]],
        Meta(description="When it is checked: at the spec, at the plan, at apply.", min_length=1),
    ]
    when: Annotated[
        str, Meta(description="CEL: the rule only speaks when this is true. Always, if left out.")
    ] = "true"
    require: Annotated[str, Meta(description="CEL: what must be true.")]
    otherwise: Annotated[
        Literal["deny", "hold", "warn"],
        Meta(description="What follows when it is not: deny, hold until it is, or warn."),
    ] = "deny"
    message: Annotated[str, Meta(description="What the user reads when it is not fulfilled.")]


class PolicySpec(Part, frozen=True, kw_only=True):
    """What a policy asks for."""

    match: Annotated[
        PolicyMatch, Meta(description="Which databases it speaks of; all by default.")
    ] = field(default_factory=PolicyMatch)
    rules: Annotated[
        list[PolicyRule], Meta(description="The rules; each is checked by itself.", min_length=1)
    ]


class Policy(Part, frozen=True, kw_only=True):
    """Rules that specs, plans and applies must fulfil."""

    api_version: ApiVersion
    kind: Annotated[Literal["Policy"], Meta(description="What the document describes.")]
    metadata: Annotated[Metadata, Meta(description="Who the document is.")]
    spec: Annotated[PolicySpec, Meta(description="What the policy asks for.")]


class PolicyTestSpec(Part, frozen=True, kw_only=True):
    """Cases for one policy."""

    policy: Annotated[str, Meta(description="Name of the policy that is tested.")]
    cases: Annotated[
        list[dict[str, Any]],
        Meta(description="The cases: what goes in, and which findings must come out."),
    ]


class PolicyTest(Part, frozen=True, kw_only=True):
    """Cases beside a policy, run by `shardwright policy test`."""

    api_version: ApiVersion
    kind: Annotated[Literal["PolicyTest"], Meta(description="What the document describes.")]
    metadata: Annotated[Metadata, Meta(description="Who the document is.")]
    spec: Annotated[PolicyTestSpec, Meta(description="The tested policy and its cases.")]


class VerifySpec(Part, frozen=True, kw_only=True):
    """Whose commits are believed."""

    keys: Annotated[
        Word, Meta(description="File of allowed signers, as ssh-keygen and git read it.")
    ]


class GitCredentials(Part, frozen=True, kw_only=True):
    """Files that hold the credentials of a repository, as a mounted Secret has them."""

    username_file: Annotated[
        Word | UnsetType, Meta(description="File of the user's name, for https.")
    ] = UNSET
    password_file: Annotated[
        Word | UnsetType, Meta(description="File of the password or token, for https.")
    ] = UNSET
    bearer_token_file: Annotated[
        Word | UnsetType, Meta(description="File of a token that is sent as Bearer, for https.")
    ] = UNSET
    ca_file: Annotated[
        Word | UnsetType, Meta(description="File of the authority to trust, PEM, for https.")
    ] = UNSET
    identity_file: Annotated[
        Word | UnsetType, Meta(description="File of the private key, without passphrase, for SSH.")
    ] = UNSET
    known_hosts_file: Annotated[
        Word | UnsetType, Meta(description="File of the host keys that are trusted, for SSH.")
    ] = UNSET


class GitSource(Part, frozen=True, kw_only=True):
    """A Git repository."""

    url: Annotated[
        Word, Meta(description="Address or local path; credentials do not belong in it.")
    ]
    branch: Annotated[
        Word | UnsetType,
        Meta(description="Branch to follow; the repository's default if left out."),
    ] = UNSET
    tag: Annotated[Word | UnsetType, Meta(description="Tag to read, instead of a branch.")] = UNSET
    commit: Annotated[
        Word | UnsetType, Meta(description="Commit to read, instead of a branch.")
    ] = UNSET
    semver: Annotated[
        Versions | UnsetType,
        Meta(description='Newest tag in a range of versions, instead of a branch: ">=1.2 <2".'),
    ] = UNSET
    on_rewrite: Annotated[
        Literal["hold", "follow"],
        Meta(
            description="What follows when the branch was force-pushed, or the tag was moved: hold "
            "keeps the revision in force until it follows on it again, follow takes any head."
        ),
    ] = "hold"
    path: Annotated[Word, Meta(description="Folder or file in the repository.")] = "."
    interval: Annotated[
        Duration | UnsetType, Meta(description="How often it is asked for news. Default 60s.")
    ] = UNSET
    webhook: Annotated[
        bool, Meta(description="Whether a push event of the forge triggers a look at once.")
    ] = False
    verify: Annotated[
        VerifySpec | UnsetType, Meta(description="Whose commits are believed; all if left out.")
    ] = UNSET
    credentials: Annotated[
        GitCredentials | UnsetType,
        Meta(description="Files with its credentials, read at each look; git's own if left out."),
    ] = UNSET


class FolderSource(Part, frozen=True, kw_only=True):
    """A folder, such as a mounted ConfigMap."""

    path: Annotated[Word, Meta(description="The folder's path on the daemon's machine.")]


class Source(Part, frozen=True, kw_only=True):
    """Where specs come from: exactly one of git, configMap, folder."""

    git: Annotated[GitSource | UnsetType, Meta(description="A Git repository.")] = UNSET
    config_map: Annotated[FolderSource | UnsetType, Meta(description="A mounted ConfigMap.")] = (
        UNSET
    )
    folder: Annotated[FolderSource | UnsetType, Meta(description="A folder of files.")] = UNSET


class EtcdSpec(Part, frozen=True, kw_only=True):
    """Where the routing map and the journal live."""

    endpoints: Annotated[
        list[str], Meta(description="Addresses, such as https://127.0.0.1:2379.", min_length=1)
    ]
    ca: Annotated[str | UnsetType, Meta(description="File of the authority to trust, PEM.")] = UNSET
    cert: Annotated[str | UnsetType, Meta(description="File of the client certificate, PEM.")] = (
        UNSET
    )
    key: Annotated[str | UnsetType, Meta(description="File of the client's key, PEM.")] = UNSET


class WebhookSpec(Part, frozen=True, kw_only=True):
    """How push events of a forge are checked."""

    secret_file: Annotated[
        Word, Meta(description="File that holds the secret which is entered at the forge as well.")
    ]


class PrometheusSpec(Part, frozen=True, kw_only=True):
    """The Prometheus that gates of roll-outs ask."""

    url: Annotated[
        Annotated[str, Meta(pattern=ADDRESS)],
        Meta(description="Its address, such as https://prometheus.example:9090."),
    ]
    ca: Annotated[str | UnsetType, Meta(description="File of the authority to trust, PEM.")] = UNSET
    token_file: Annotated[
        str | UnsetType, Meta(description="File of the bearer token, read for each question.")
    ] = UNSET


class ReconcilerSpec(Part, frozen=True, kw_only=True):
    """How the daemon runs."""

    sources: Annotated[list[Source], Meta(description="Where specs come from.", min_length=1)]
    etcd: Annotated[
        EtcdSpec | UnsetType, Meta(description="Where the routing map and the journal live.")
    ] = UNSET
    platform: Annotated[
        Literal["local", "kubernetes"] | UnsetType,
        Meta(description="Where shards run. Default local."),
    ] = UNSET
    webhook: Annotated[
        WebhookSpec | UnsetType, Meta(description="How push events of a forge are checked.")
    ] = UNSET
    prometheus: Annotated[
        PrometheusSpec | UnsetType, Meta(description="The Prometheus that gates of roll-outs ask.")
    ] = UNSET
    interval: Annotated[
        Duration | UnsetType,
        Meta(description="How often everything is looked at, changed or not. Default 30s."),
    ] = UNSET
    moves_max: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | UnsetType,
        Meta(
            description="Most moves of keys at once, over all databases. Default 2; a daemon takes "
            "another number up when it starts again."
        ),
    ] = UNSET


class ReconcilerConfig(Part, frozen=True, kw_only=True):
    """The daemon's configuration."""

    api_version: ApiVersion
    kind: Annotated[Literal["ReconcilerConfig"], Meta(description="What the document describes.")]
    metadata: Annotated[Metadata, Meta(description="Who the document is.")]
    spec: Annotated[ReconcilerSpec, Meta(description="How the daemon runs.")]


Manifest = ShardedDatabase | Policy | PolicyTest | ReconcilerConfig
KINDS: dict[str, type[Manifest]] = {
    "ShardedDatabase": ShardedDatabase,
    "Policy": Policy,
    "PolicyTest": PolicyTest,
    "ReconcilerConfig": ReconcilerConfig,
}
"""Every kind that is ours, by its name."""
