"""What the engine needs of the outside world, as protocols; ``wiring`` supplies the edges.

Every call blocks, has a bounded time, and raises a typed ``ReconcilerError``; ``transient`` on it
says whether the same call may succeed later.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from reconciler.model.access import Guarding, Lease, Login, Seat, Versioned
from reconciler.model.desired import SchemaFile
from reconciler.model.moves import (
    Comparison,
    CopyProgress,
    CutResult,
    Leftover,
    Move,
    MoveId,
    MoveView,
    NumberBlock,
    Obstacle,
    SchemaObject,
    SeedFacts,
    Side,
)
from reconciler.model.names import Epoch, FencingToken, MemberName, ScopeKey
from reconciler.model.observed import Catalog, PatroniView
from reconciler.model.platform import (
    Credential,
    Endpoint,
    PlatformShard,
    ShardBlueprint,
    TlsFiles,
)


class Clock(Protocol):
    """Time as a value, so that tests can hold it."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow, for how long something takes; the start is any."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Store(Protocol):
    """etcd: the only place where Shardwright keeps state of its own."""

    def read(self, prefix: str) -> dict[str, Versioned]:
        """Return all keys under a prefix as of one revision."""
        ...

    def write(self, changes: dict[str, tuple[bytes | None, int | None]], lease: Lease) -> int:
        """Write all or nothing: key → (value or None to delete, expected version or None for any).

        Version 0 expects that the key is absent. Returns the new mod revision.
        Raises ConflictingWrite when a version differs, FencedOff when the lease is lost.
        """
        ...

    def acquire(self, key: str, owner: str, ttl_s: int) -> Lease:
        """Take the lease at ``key``. Raises LeaseHeld with its owner when another has it."""
        ...

    def keep_alive(self, lease: Lease) -> None:
        """Renew. Raises FencedOff when it has run out."""
        ...

    def release(self, lease: Lease) -> None:
        """Give it up; nothing happens when it has run out."""
        ...


class Platform(Protocol):
    """What runs members: the local platform here, Kubernetes later. See model/platform.py."""

    @property
    def name(self) -> str:
        """``local`` or ``kubernetes``."""
        ...

    @property
    def not_applied(self) -> tuple[str, ...]:
        """Spec fields that this platform cannot honour, such as ``resources.cpu``."""
        ...

    def observe(self) -> tuple[PlatformShard, ...]:
        """Return all shards that exist here, sorted by key."""
        ...

    def ensure_members(self, blueprint: ShardBlueprint, ordinals: tuple[int, ...]) -> None:
        """Create those that are missing, start those that do not run; does not wait for health."""
        ...

    def remove_member(self, key: ScopeKey, member: MemberName) -> None:
        """Stop a member and delete its data."""
        ...

    def stop_shard(self, key: ScopeKey) -> None:
        """Stop all members on purpose and keep the data."""
        ...

    def start_shard(self, key: ScopeKey) -> None:
        """Start a shard that was stopped on purpose."""
        ...

    def destroy_shard(self, key: ScopeKey) -> None:
        """Stop a shard and delete all that belongs to it, data included."""
        ...

    def credential(self, key: ScopeKey, role: str) -> Credential:
        """Return the current login of a role: superuser, patroni_api, owner, app."""
        ...

    def ensure_credential(self, key: ScopeKey, role: str) -> Credential:
        """Return the current login, made now when there is none."""
        ...

    def stage_credential(self, key: ScopeKey, role: str) -> Credential:
        """Return the next login of a rotation; the same one until it is promoted."""
        ...

    def promote_credential(self, key: ScopeKey, role: str) -> None:
        """Make the staged login the current one; nothing happens without one."""
        ...

    def client_tls(self) -> TlsFiles:
        """Return the client certificate for PostgreSQL, Patroni and etcd."""
        ...

    def fence(self, token: FencingToken) -> None:
        """Refuse from now on every holder of a lower token. Raises when this one is lower."""
        ...


class Patroni(Protocol):
    """Patroni's REST API of one shard."""

    def view(self, login: Login) -> PatroniView:
        """Ask every member at once. Raises PatroniUnreachable when none answers."""
        ...

    def configure(
        self, login: Login, parameters: tuple[tuple[str, str], ...], synchronous: bool
    ) -> None:
        """Make ``postgresql.parameters`` exactly these; members reload by themselves."""
        ...

    def switch_over(self, login: Login, leader: MemberName, candidate: MemberName) -> None:
        """Order a planned switchover and return when the candidate leads."""
        ...

    def restart(self, login: Login, member: MemberName) -> None:
        """Restart PostgreSQL of one member when it has something pending, and wait for it."""
        ...


class Postgres(Protocol):
    """PostgreSQL of one shard, through its primary. Changes carry the fencing token."""

    def catalog(self, login: Login, primary: Endpoint, database: str) -> Catalog:
        """Read everything that a plan looks at, in one session, read-only."""
        ...

    def fence(self, login: Login, primary: Endpoint, database: str, token: FencingToken) -> None:
        """Refuse from now on every holder of a lower token; our schema must be installed.

        Raises FencedOff when this token is lower, LockNotObtained while a former applier's
        transaction is open.
        """
        ...

    def set_up(
        self,
        login: Login,
        primary: Endpoint,
        database: str,
        roles: tuple[Credential, ...],
        token: FencingToken,
        password_generation: int,
    ) -> None:
        """Make roles, database and our own schema. ``roles`` are (owner, app), in this order.

        The generation is noted only when none was noted before.
        """
        ...

    def apply_schema(
        self,
        login: Login,
        primary: Endpoint,
        database: str,
        owner: Credential,
        file: SchemaFile,
        token: FencingToken,
    ) -> None:
        """Run one schema file in a session of the owner and note it; nothing when it is noted.

        Not ``SET ROLE`` in a superuser's session: the file could reset it.
        """
        ...

    def install_guards(
        self,
        login: Login,
        primary: Endpoint,
        database: str,
        guarding: Guarding,
        token: FencingToken,
    ) -> None:
        """Make the guard triggers say exactly this, one table a transaction."""
        ...

    def rotate_passwords(
        self,
        login: Login,
        primary: Endpoint,
        database: str,
        roles: tuple[Credential, ...],
        generation: int,
        token: FencingToken,
    ) -> None:
        """Set the roles' passwords, as scram verifiers made here, and note the generation."""
        ...

    def measure(
        self, login: Login, primary: Endpoint, database: str, owner: Credential, text: str
    ) -> float:
        """Return the one number that a query answers, in a read-only session of the owner.

        Raises NotANumber, and StatementRefused for one that PostgreSQL refuses.
        """
        ...


class Gauge(Protocol):
    """Prometheus."""

    def measure(self, text: str) -> tuple[float, ...]:
        """Return all values of an expression now. Raises PrometheusSilent, PrometheusRefused."""
        ...


class Mover(Protocol):
    """Moving key ranges between two shards; what the calls rely on stands in ``reshard_acts``."""

    def preflight(self, move: Move, source: Seat, target: Seat | None) -> tuple[Obstacle, ...]:
        """Return what stands in the way; without a target, of what the source alone tells."""
        ...

    def schema_objects(self, move: Move, source: Seat) -> tuple[SchemaObject, ...]:
        """Return what the source has beside tables that schema files make by its name."""
        ...

    def seed_facts(self, move: Move, source: Seat, target: Seat | None) -> SeedFacts:
        """Return what a physical copy of the source would be."""
        ...

    def number_blocks(
        self, move: Move, source: Seat, target: Seat | None
    ) -> tuple[NumberBlock, ...]:
        """Return how DivideSequences would divide them now; without a target, as for a new one."""
        ...

    def view(self, move: Move, source: Seat, target: Seat, map_epoch: Epoch) -> MoveView:
        """Look at both sides."""
        ...

    def prepare_target(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """PrepareTarget."""
        ...

    def hold(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Hold."""
        ...

    def publish(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Publish."""
        ...

    def copy(
        self,
        move: Move,
        source: Seat,
        target: Seat,
        token: FencingToken,
        tell: Callable[[CopyProgress], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Copy."""
        ...

    def build_indexes(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """BuildIndexes."""
        ...

    def subscribe(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Subscribe."""
        ...

    def verify(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> Comparison:
        """Verify."""
        ...

    def refresh_views(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """RefreshViews."""
        ...

    def divide_sequences(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """DivideSequences."""
        ...

    def verify_cut(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> Comparison:
        """VerifyCut; the engine records what it returns."""
        ...

    def verify_back(
        self, move: Move, source: Seat, target: Seat, token: FencingToken
    ) -> Comparison:
        """VerifyBack."""
        ...

    def arm(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Arm."""
        ...

    def cut(
        self, move: Move, source: Seat, target: Seat, token: FencingToken, epoch: Epoch
    ) -> CutResult:
        """Cut; ``epoch`` is the one that will be published."""
        ...

    def refuse_stale(
        self,
        move: Move,
        side: Side,
        epoch: Epoch,
        source: Seat,
        target: Seat,
        token: FencingToken,
    ) -> None:
        """RefuseStale."""
        ...

    def finish_opening(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """FinishOpening."""
        ...

    def unfence(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Unfence."""
        ...

    def reverse(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Reverse."""
        ...

    def roll_back_cut(
        self, move: Move, source: Seat, target: Seat, token: FencingToken, epoch: Epoch
    ) -> CutResult:
        """RollBackCut."""
        ...

    def clean(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Clean."""
        ...

    def prune(
        self,
        move: Move,
        side: Side,
        source: Seat,
        target: Seat,
        token: FencingToken,
        stopping: Callable[[], bool],
    ) -> int:
        """Prune; returns how many rows are left."""
        ...

    def sweep(self, seat: Seat) -> tuple[Leftover, ...]:
        """Return every object and note of any move that is at one side."""
        ...

    def remove(self, id_: MoveId, seat: Seat, token: FencingToken) -> None:
        """Take away all that is of a move at one side, when no record of the move is left."""
        ...
