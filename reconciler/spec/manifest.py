"""What a user may write, as types: each field with the description that editors show.

The JSON Schemas in ``schemas/`` are generated from these types (``reconciler.spec.schema``). They
check form only; what one value means beside another is ``resolve``'s business.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

API_VERSION = "shardwright.dev/v1alpha1"
API_GROUP = "shardwright.dev"

NAME = r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"
SHARD_NAME = r"^[a-z][a-z0-9]{0,19}$"
DURATION = r"^[0-9]{1,9}(ms|s|m|h|d)$"
RATIO = r"^[0-9]{1,4}(\.[0-9]{1,3})?x$"
SIZE = r"^[0-9]{1,12}(\.[0-9]{1,3})?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
CPU = r"^[0-9]{1,5}(\.[0-9]{1,3})?$|^[0-9]{1,8}m$"
TABLE = r"^[a-z_][a-z0-9_$]{0,62}(\.[a-z_][a-z0-9_$]{0,62})?$"
COLUMN = r"^[a-z_][a-z0-9_$]{0,62}$"
WORD = r"\S"
ADDRESS = r"^https?://"
_VERSION = r"(>=|<=|>|<|==|!=|=)? *v?[0-9]+(\.[0-9]+){0,2}(-[0-9A-Za-z.-]+)?"
VERSIONS = rf"^ *{_VERSION}([ ,]+{_VERSION})*[ ,]*$"

PATTERN_STORIES: dict[str, tuple[str, str]] = {
    NAME: (
        "is not a name: at most 40 lower-case letters, digits and dashes, beginning with a letter",
        "shop-eu",
    ),
    SHARD_NAME: (
        "is not a shard name: at most 20 lower-case letters and digits, beginning with a letter",
        "s0",
    ),
    DURATION: ("is not a duration: a whole number and ms, s, m, h or d", "30s"),
    RATIO: ("is not a ratio: a number and x", "2x"),
    SIZE: ("is not a size: a number and Ki, Mi, Gi, Ti (or k, M, G, T)", "10Gi"),
    CPU: ("is not an amount of CPU: cores, or thousandths with m", '"1" or 500m'),
    TABLE: (
        "is not a table name: lower-case letters, digits and _, with or without its schema",
        "orders or sales.orders",
    ),
    WORD: ("is empty", ""),
    ADDRESS: ("is no address", "https://prometheus.example:9090"),
    VERSIONS: ("is not a range of versions: comparators with spaces between them", '">=1.2 <2"'),
    COLUMN: ("is not a column name: lower-case letters, digits and _", "customer_id"),
}
"""For each pattern, what to say about a text that does not match, and one that does."""

Name = Annotated[str, Meta(pattern=NAME)]
Word = Annotated[str, Meta(pattern=WORD)]
Versions = Annotated[str, Meta(pattern=VERSIONS)]
Duration = Annotated[str, Meta(pattern=DURATION)]
Size = Annotated[str, Meta(pattern=SIZE)]
ShardNameText = Annotated[str, Meta(pattern=SHARD_NAME)]
Table = Annotated[str, Meta(pattern=TABLE)]
Column = Annotated[str, Meta(pattern=COLUMN)]


class Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A mapping of a manifest; fields that it does not have are refused."""


class Metadata(Part, frozen=True, kw_only=True):
    """Who the document is."""

    name: Annotated[Name, Meta(description="The name, unique for its kind in its namespace.")]
    namespace: Annotated[
        Name, Meta(description="The namespace; a database is known by namespace and name.")
    ] = "default"
    labels: Annotated[
        dict[str, str], Meta(description="Labels for selecting, as in `get -l team=checkout`.")
    ] = field(default_factory=dict)
    annotations: Annotated[
        dict[str, str], Meta(description="Notes for people and other tools; without effect.")
    ] = field(default_factory=dict)


class SecretRef(Part, frozen=True, kw_only=True):
    """A value that something else keeps."""

    name: Annotated[
        str, Meta(description="Name of the Secret, in the database's namespace.", min_length=1)
    ]
    key: Annotated[str, Meta(description="Which of its entries.", min_length=1)] = "password"


class Passwords(Part, frozen=True, kw_only=True):
    """The passwords that Shardwright generates and keeps; none is ever written in a spec."""

    generation: Annotated[
        int,
        Meta(
            description="Raise it by one to have the passwords of the owner and of the "
            "application role replaced.",
            ge=1,
            le=1_000_000,
        ),
    ] = 1
    secret_ref: Annotated[
        SecretRef | UnsetType,
        Meta(
            description="The Secret that holds the application role's password, instead of a "
            "generated one. Refused on the local platform, which keeps no Secrets."
        ),
    ] = UNSET


class Postgres(Part, frozen=True, kw_only=True):
    """The PostgreSQL of every shard."""

    version: Annotated[
        str,
        Meta(
            description='The major version, in quotes: "15", "16", "17" or "18". Minor versions '
            "are the platform's."
        ),
    ]
    parameters: Annotated[
        dict[str, str | int | float | bool],
        Meta(
            description="PostgreSQL parameters by name, as in postgresql.conf. Checked against the "
            "version's catalogue; those that need a restart are planned as a rolling restart."
        ),
    ] = field(default_factory=dict)
    passwords: Annotated[
        Passwords, Meta(description="The generated passwords; raise the generation to rotate.")
    ] = field(default_factory=Passwords)


class Schema(Part, frozen=True, kw_only=True):
    """Where the tables come from."""

    files: Annotated[
        list[str],
        Meta(
            description="SQL files or patterns (* ? **), relative to this document's folder. "
            "Sorted by name within a pattern, checksummed, and applied once to every shard."
        ),
    ]


class ShardingSpec(Part, frozen=True, kw_only=True):
    """How rows find their shard."""

    type: Annotated[
        Literal["bigint", "int", "text", "uuid"],
        Meta(description="The type of the shard key, the same in all sharded tables."),
    ]
    tables: Annotated[
        dict[Table, Column],
        Meta(description="Each sharded table and its shard key column: `orders: customer_id`."),
    ]
    reference: Annotated[list[Table], Meta(description="Tables that are whole on every shard.")] = (
        field(default_factory=list)
    )


class Storage(Part, frozen=True, kw_only=True):
    """The volume of each member."""

    size: Annotated[
        Size | UnsetType, Meta(description="Size of the volume, such as 10Gi. Default 10Gi.")
    ] = UNSET
    class_: Annotated[
        str | UnsetType, Meta(description="Storage class of the platform; its default if left out.")
    ] = field(default=UNSET, name="class")


class ResourceLimits(Part, frozen=True, kw_only=True):
    """What each member may use."""

    cpu: Annotated[
        Annotated[str, Meta(pattern=CPU)] | int | float | UnsetType,
        Meta(description='Cores, such as "1" or 500m. No limit if left out.'),
    ] = UNSET
    memory: Annotated[
        Size | UnsetType, Meta(description="Memory, such as 2Gi. No limit if left out.")
    ] = UNSET


Instances = Annotated[int, Meta(ge=1, le=16)]
_INSTANCES = "Members of the shard, its primary included; 1 to 16. Default 1."
_SYNCHRONOUS = (
    "Whether a commit waits until a standby has it, so that no failover loses an acknowledged "
    "write. Default true."
)


class Defaults(Part, frozen=True, kw_only=True):
    """What holds for every shard that does not say otherwise."""

    instances: Annotated[Instances | UnsetType, Meta(description=_INSTANCES)] = UNSET
    storage: Annotated[Storage | UnsetType, Meta(description="The volume of each member.")] = UNSET
    resources: Annotated[
        ResourceLimits | UnsetType, Meta(description="What each member may use.")
    ] = UNSET
    synchronous: Annotated[bool | UnsetType, Meta(description=_SYNCHRONOUS)] = UNSET


class IsolatedKey(Part, frozen=True, kw_only=True):
    """One key for itself."""

    value: Annotated[
        str | int, Meta(description="A value of the shard key whose rows live on this shard.")
    ]


class ShardSpec(Part, frozen=True, kw_only=True):
    """One shard; what it leaves out comes from `defaults`."""

    name: Annotated[ShardNameText, Meta(description="The shard's name, unique in the database.")]
    keys: Annotated[
        list[str | IsolatedKey],
        Meta(
            description='What the shard owns: hash ranges such as "-80", "40-80", "80-" or "-" for '
            "all, and single keys as {value: 42}, which are taken out of every other range.",
            min_length=1,
        ),
    ]
    instances: Annotated[Instances | UnsetType, Meta(description=_INSTANCES)] = UNSET
    storage: Annotated[Storage | UnsetType, Meta(description="The volume of each member.")] = UNSET
    resources: Annotated[
        ResourceLimits | UnsetType, Meta(description="What each member may use.")
    ] = UNSET
    synchronous: Annotated[bool | UnsetType, Meta(description=_SYNCHRONOUS)] = UNSET


class Throttle(Part, frozen=True, kw_only=True):
    """When a move steps back."""

    latency_max: Annotated[
        Annotated[str, Meta(pattern=RATIO)],
        Meta(description="Slow-down of the source at which a move pauses: 2x is twice its usual."),
    ] = "2x"


class ReshardingSpec(Part, frozen=True, kw_only=True):
    """Limits of online moves of key ranges."""

    pause_max: Annotated[
        Duration,
        Meta(description="Longest time that writes to a moving range wait at the switch."),
    ] = "100ms"
    rollback_window: Annotated[
        Duration, Meta(description="How long a move can be taken back after the switch.")
    ] = "24h"
    throttle: Annotated[Throttle, Meta(description="When a move steps back.")] = field(
        default_factory=Throttle
    )
    copy: Annotated[
        Literal["auto", "own", "native", "physical"],
        Meta(
            description="Who brings the rows: own is a parallel binary copy, which starts over "
            "when it is cut short; native is PostgreSQL's tablesync, slower, which goes on by "
            "itself after a crash; physical makes a new shard a copy of all of its source and "
            "deletes what does not move. auto is own, or physical where that is clearly quicker."
        ),
    ] = "auto"


class Moved(Part, frozen=True, kw_only=True):
    """A shard that was renamed."""

    from_: Annotated[ShardNameText, Meta(description="The shard's former name.")] = field(
        name="from"
    )
    to: Annotated[ShardNameText, Meta(description="Its name now, as in `shards`.")]


Consent = Literal["yes", "approval", "never"] | bool
"""YAML reads an unquoted yes as true, and no as false."""


class AutoApplySpec(Part, frozen=True, kw_only=True):
    """What the daemon does by itself; `shardwright apply` asks a person anyway."""

    online: Annotated[
        Consent, Meta(description="Steps that nobody notices: yes, approval, never.")
    ] = "yes"
    restart: Annotated[
        Consent, Meta(description="Restarts and switchovers: yes, approval, never.")
    ] = "yes"
    move: Annotated[Consent, Meta(description="Moves of keys: yes, approval, never.")] = "yes"
    destroy: Annotated[Consent, Meta(description="What deletes data: yes, approval, never.")] = (
        "approval"
    )


class GateSpec(Part, frozen=True, kw_only=True):
    """A question that is asked before a roll-out goes on: exactly one of sql, promql."""

    name: Annotated[str, Meta(description="What the gate is called.", min_length=1)]
    sql: Annotated[
        str | UnsetType,
        Meta(description="A query for one number, asked at each canary as the owner, read-only."),
    ] = UNSET
    promql: Annotated[
        str | UnsetType,
        Meta(description="An expression for Prometheus; each of its values has to be in bounds."),
    ] = UNSET
    min: Annotated[int | float | UnsetType, Meta(description="Least value that lets it go on.")] = (
        UNSET
    )
    max: Annotated[
        int | float | UnsetType, Meta(description="Largest value that lets it go on.")
    ] = UNSET


class CanarySpec(Part, frozen=True, kw_only=True):
    """Shards that get new parameters and schema files before the others."""

    shards: Annotated[
        list[ShardNameText], Meta(description="The shards that go first.", min_length=1)
    ]
    bake: Annotated[
        Duration, Meta(description="How long the others wait after that, such as 10m.")
    ] = "10m"
    gates: Annotated[
        list[GateSpec], Meta(description="What has to hold before the others follow.")
    ] = field(default_factory=list)


class RolloutSpec(Part, frozen=True, kw_only=True):
    """How much is changed at once; schema files go shard by shard anyway."""

    shards_max: Annotated[
        Annotated[int, Meta(ge=1, le=4096)] | UnsetType,
        Meta(description="Most shards under change at once. No limit if left out."),
    ] = UNSET
    bytes_max: Annotated[
        Size | UnsetType,
        Meta(
            description="Most data of moves under way, such as 50Gi, with those in their rollback "
            "window; a move of more goes alone. No limit if left out."
        ),
    ] = UNSET
    restarts_max: Annotated[
        Annotated[int, Meta(ge=1, le=4096)], Meta(description="Most shards that restart at once.")
    ] = 1
    canary: Annotated[
        CanarySpec | UnsetType,
        Meta(description="Which shards go first, and what the others wait for."),
    ] = UNSET


class DatabaseSpec(Part, frozen=True, kw_only=True):
    """What the database should be."""

    postgres: Annotated[Postgres, Meta(description="The PostgreSQL of every shard.")]
    schema: Annotated[Schema | UnsetType, Meta(description="Where the tables come from.")] = UNSET
    sharding: Annotated[ShardingSpec, Meta(description="How rows find their shard.")]
    defaults: Annotated[
        Defaults, Meta(description="What holds for every shard that does not say otherwise.")
    ] = field(default_factory=Defaults)
    shards: Annotated[
        list[ShardSpec],
        Meta(
            description="The shards. Together they own the whole key space, without gap or "
            "overlap; to change this list is to ask for resharding.",
            min_length=1,
        ),
    ]
    moved: Annotated[
        list[Moved],
        Meta(description="Shards that were renamed; without it a rename is delete and create."),
    ] = field(default_factory=list)
    resharding: Annotated[
        ReshardingSpec, Meta(description="Limits of online moves of key ranges.")
    ] = field(default_factory=ReshardingSpec)
    deletion: Annotated[
        Literal["protected", "keepData", "destroy"],
        Meta(
            description="What happens when the document is deleted: protected refuses, keepData "
            "stops the members and keeps their data, destroy removes both."
        ),
    ] = "protected"
    suspend: Annotated[
        bool, Meta(description="While true, the database is looked at but not changed.")
    ] = False
    auto_apply: Annotated[
        AutoApplySpec,
        Meta(description="What the daemon does by itself, and what it waits for an approval for."),
    ] = field(default_factory=AutoApplySpec)
    drift_policy: Annotated[
        Literal["correct", "report"],
        Meta(
            description="What the daemon does about what changed without the spec: correct it, or "
            "only report it."
        ),
    ] = "correct"
    rollout: Annotated[RolloutSpec, Meta(description="How much is changed at once.")] = field(
        default_factory=RolloutSpec
    )


class ShardedDatabase(Part, frozen=True, kw_only=True):
    """A PostgreSQL database split over shards by the hash of a key."""

    api_version: Annotated[
        Literal["shardwright.dev/v1alpha1"], Meta(description="The version of this format.")
    ]
    kind: Annotated[Literal["ShardedDatabase"], Meta(description="What the document describes.")]
    metadata: Annotated[Metadata, Meta(description="Who the document is.")]
    spec: Annotated[DatabaseSpec, Meta(description="What the database should be.")]
